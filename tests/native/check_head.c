/* check_head.c - the output head against the reference, the reference against whole int16 vectors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kerncheck.h"

enum fill { FILL_RANDOM, FILL_LARGEST, FILL_SMALLEST, FILL_LOW_DIGITS, FILL_ZERO, FILL_COUNT };

static const char *const fill_names[] = {"random", "all +32512", "signs against", "digits at -128", "zero"};

typedef struct head_case {
    size_t m, vocab, k, groups, panels;
    int16_t *e; /* (vocab, k) plain */
    int16_t *h; /* (m, k) plain */
    int8_t *hi, *lo, *shift;
    int8_t *h_hi, *h_lo;
    size_t h_stride;
    float *h_scale, *logits;
    size_t logits_stride;
} head_case;

static int16_t value(enum fill fill, size_t i, int is_weight)
{
    switch (fill) {
    case FILL_LARGEST: return 32512;
    case FILL_SMALLEST: return (int16_t)(is_weight ? -32512 : i & 1 ? 32512 : -32512);
    case FILL_LOW_DIGITS: return (int16_t)(is_weight ? -128 * 256 + 256 - 128 : i & 1 ? 127 * 256 - 128 : -128);
    case FILL_ZERO: return 0;
    default: return (int16_t)kc_between(-32512, 32512);
    }
}

static void fill_case(head_case *c, size_t m, size_t vocab, size_t k, enum fill fill)
{
    size_t padded = (k + 63) / 64 * 64;
    *c = (head_case){.m = m, .vocab = vocab, .k = k, .groups = padded / 4, .panels = (vocab + 15) / 16};
    c->h_stride = padded + (size_t)kc_between(0, 1) * 64;
    c->logits_stride = (vocab + 31) / 16 * 16;
    size_t plane = (size_t)trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, (int64_t)vocab, (int64_t)k) / 2;
    c->e = kc_buffer(vocab * k * sizeof *c->e);
    c->h = kc_buffer(m * k * sizeof *c->h);
    c->hi = kc_buffer(plane);
    c->lo = kc_buffer(plane);
    c->shift = kc_buffer(vocab);
    c->h_hi = kc_buffer(m * c->h_stride);
    c->h_lo = kc_buffer(m * c->h_stride);
    c->h_scale = kc_buffer(m * sizeof *c->h_scale);
    c->logits = kc_buffer(m * c->logits_stride * sizeof *c->logits);
    memset(c->hi, 0, plane);
    memset(c->lo, 0, plane);
    for (size_t n = 0; n < vocab; n++) {
        c->shift[n] = (int8_t)(kc_between(0, 9) ? kc_between(10, 20) : kc_between(-100, 126));
        for (size_t i = 0; i < k; i++) {
            int e = value(fill, i, 1);
            c->e[n * k + i] = (int16_t)e;
            size_t at = (n / 16 * c->groups + i / 4) * 64 + n % 16 * 4 + i % 4;
            c->lo[at] = (int8_t)(uint8_t)(e & 255);
            c->hi[at] = (int8_t)((e - c->lo[at]) / 256);
        }
    }
    memset(c->h_hi, 0x7e, m * c->h_stride);
    memset(c->h_lo, 0x7e, m * c->h_stride);
    for (size_t row = 0; row < m; row++) {
        c->h_scale[row] = kc_normal(1e-3f);
        for (size_t i = 0; i < padded; i++) {
            int h = i < k ? value(fill, i, 0) : 0;
            if (i < k)
                c->h[row * k + i] = (int16_t)h;
            c->h_lo[row * c->h_stride + i] = (int8_t)(uint8_t)(h & 255);
            c->h_hi[row * c->h_stride + i] = (int8_t)((h - c->h_lo[row * c->h_stride + i]) / 256);
        }
    }
}

static void run(trit_head_fn *fn, const head_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->logits, c->m * c->logits_stride * sizeof *c->logits);
    fn(c->h_hi, c->h_lo, c->h_stride, c->m, c->hi, c->lo, c->groups, panel0, panel1, c->vocab, c->shift, c->h_scale,
       c->logits, c->logits_stride);
}

static void naive(const head_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->logits, c->m * c->logits_stride * sizeof *c->logits);
    for (size_t row = 0; row < c->m; row++)
        for (size_t n = panel0 * 16; n < panel1 * 16 && n < c->vocab; n++) {
            int64_t dot = 0;
            for (size_t i = 0; i < c->k; i++)
                dot += (int64_t)c->e[n * c->k + i] * c->h[row * c->k + i];
            c->logits[row * c->logits_stride + n] = ((float)dot * c->h_scale[row]) * ldexpf(1.0f, -c->shift[n]);
        }
}

static void compare(const kc_kernel *kernel, size_t m, size_t vocab, size_t k, enum fill fill)
{
    head_case c;
    fill_case(&c, m, vocab, k, fill);
    size_t panel0 = kc_between(0, 2) == 0 ? (size_t)kc_between(0, (int64_t)c.panels - 1) : 0;
    size_t panel1 = kc_between(0, 2) == 0 ? (size_t)kc_between((int64_t)panel0, (int64_t)c.panels) : c.panels;
    size_t floats = m * c.logits_stride, first = 0;
    float *expected = kc_buffer(floats * sizeof *expected);
    if (kernel->isa == TRIT_ISA_REF)
        naive(&c, panel0, panel1);
    else
        run(trit_head_i16_1x1__ref, &c, panel0, panel1);
    memcpy(expected, c.logits, floats * sizeof *expected);
    run((trit_head_fn *)kernel->fn, &c, panel0, panel1);
    int same = kc_same_floats(expected, c.logits, floats, &first);
    kc_expect(kernel, same, "M %zu vocab %zu K %zu panels %zu..%zu, %s: logits[%zu][%zu] is %.9g, expected %.9g", m,
              vocab, k, panel0, panel1, fill_names[fill], first / c.logits_stride, first % c.logits_stride,
              (double)c.logits[first], (double)expected[first]);
    kc_expect(kernel, kc_release(), "M %zu vocab %zu K %zu: a canary was overwritten", m, vocab, k);
}

/* ---- bench ------------------------------------------------------------------------------------------------------ */

typedef struct head_bench {
    trit_head_fn *fn;
    size_t m, vocab, k;
    const int8_t *hi, *lo, *shift, *h_hi, *h_lo;
    const float *h_scale;
    float *logits;
} head_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const head_bench *b = context;
    size_t panels = b->vocab / 16;
    b->fn(b->h_hi, b->h_lo, b->k, b->m, b->hi, b->lo, b->k / 4, panels * (size_t)part / (size_t)n_parts,
          panels * ((size_t)part + 1) / (size_t)n_parts, b->vocab, b->shift, b->h_scale, b->logits, b->vocab);
}

static void bench_shape(const kc_kernel *kernel, size_t m, size_t vocab, size_t k, int n_threads)
{
    size_t plane = vocab * k;
    int8_t *weights = kc_buffer(2 * plane), *hidden = kc_buffer(2 * m * k), *shift = kc_buffer(vocab);
    for (size_t i = 0; i < 2 * plane; i++)
        weights[i] = (int8_t)(i * 2654435761u >> 16);
    for (size_t i = 0; i < 2 * m * k; i++)
        hidden[i] = (int8_t)kc_between(-127, 127);
    memset(shift, 14, vocab);
    float *h_scale = kc_buffer(m * sizeof *h_scale);
    memset(h_scale, 0, m * sizeof *h_scale);
    head_bench b = {(trit_head_fn *)kernel->fn,
                    m,
                    vocab,
                    k,
                    weights,
                    weights + plane,
                    shift,
                    hidden,
                    hidden + m * k,
                    h_scale,
                    kc_buffer(m * vocab * sizeof(float))};
    char what[80];
    snprintf(what, sizeof what, "M %zu vocab %zu K %zu", m, vocab, k);
    kc_bench(kernel, what, &(kc_load){bench_part, &b, n_threads, 1, 2.0 * (double)plane, 1, 0});
    kc_release();
}

void check_head(const kc_kernel *kernel, int bench)
{
    if (bench) {
        size_t vocab = kernel->isa == TRIT_ISA_REF ? 1024 : 128256 / 2;
        bench_shape(kernel, 1, vocab, 2560, 1);
        bench_shape(kernel, 1, vocab, 2560, 2);
        for (size_t m = 2; m <= 16 && kernel->isa != TRIT_ISA_REF; m *= 2)
            bench_shape(kernel, m, vocab, 2560, 1);
        return;
    }
    static const size_t vocabs[] = {1, 2, 15, 16, 17, 31, 48, 63, 64, 65, 100, 257};
    static const size_t ks[] = {1, 3, 4, 5, 63, 64, 65, 128, 252, 256, 320, 1023, 1024, 1028, 2560};
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            compare(kernel, (size_t)kc_between(1, 6), vocabs[(size_t)kc_between(0, 11)], ks[i], (enum fill)fill);
    for (size_t i = 0; i < sizeof vocabs / sizeof vocabs[0]; i++)
        compare(kernel, (size_t)kc_between(1, 3), vocabs[i], (size_t)kc_between(1, 700), FILL_RANDOM);
    for (size_t m = 1; m <= 17; m++)
        compare(kernel, m, (size_t)kc_between(1, 100), (size_t)kc_between(1, 300), FILL_RANDOM);
    compare(kernel, 64, 40, 200, FILL_RANDOM);
    for (int fill = 0; fill < FILL_COUNT; fill++) {
        compare(kernel, 1, 20, 32768, (enum fill)fill);
        compare(kernel, 3, 16, 32768, (enum fill)fill);
        compare(kernel, 1, 16, 40000, (enum fill)fill);
        compare(kernel, 2, 16, 131072, (enum fill)fill); /* the widest a model may be */
    }
}
