/* check_head.c - a plane of the output head against the reference, the reference against whole int16 vectors. */
#include <stdio.h>
#include <string.h>

#include "kerncheck.h"

enum fill { FILL_RANDOM, FILL_LARGEST, FILL_SMALLEST, FILL_LOW_DIGITS, FILL_ZERO, FILL_COUNT };

static const char *const fill_names[] = {"random", "all largest", "signs against", "digits at -128", "zero"};

typedef struct head_case {
    size_t m, vocab, k, groups, panels;
    int8_t *b;  /* (vocab, k) plain */
    int16_t *h; /* (m, h_stride) */
    int8_t *plane, *h_hi, *h_lo;
    size_t h_stride, dots_stride;
    int64_t *dots;
} head_case;

static int8_t byte(enum fill fill)
{
    switch (fill) {
    case FILL_LARGEST: return 127;
    case FILL_SMALLEST:
    case FILL_LOW_DIGITS: return -128;
    case FILL_ZERO: return 0;
    default: return (int8_t)kc_between(-128, 127);
    }
}

static int16_t hidden(enum fill fill, size_t i)
{
    switch (fill) {
    case FILL_LARGEST: return 32512;
    case FILL_SMALLEST: return (int16_t)(i / 512 % 2 ? 32512 : -32512);
    case FILL_LOW_DIGITS: return (int16_t)(i & 1 ? 127 * 256 - 128 : -128);
    case FILL_ZERO: return 0;
    default: return (int16_t)kc_between(-32512, 32512);
    }
}

static void fill_case(head_case *c, size_t m, size_t vocab, size_t k, enum fill fill)
{
    size_t padded = (k + 63) / 64 * 64;
    *c = (head_case){.m = m, .vocab = vocab, .k = k, .groups = padded / 4, .panels = (vocab + 15) / 16};
    c->h_stride = padded + (size_t)kc_between(0, 1) * 64;
    c->dots_stride = (vocab + 31) / 16 * 16;
    size_t bytes = c->panels * 16 * padded;
    c->b = kc_buffer(vocab * k);
    c->h = kc_buffer(m * c->h_stride * sizeof *c->h);
    c->plane = kc_buffer(bytes);
    c->h_hi = kc_buffer(m * c->h_stride);
    c->h_lo = kc_buffer(m * c->h_stride);
    c->dots = kc_buffer(m * c->dots_stride * sizeof *c->dots);
    memset(c->plane, 0, bytes);
    for (size_t n = 0; n < vocab; n++)
        for (size_t i = 0; i < k; i++)
            c->plane[(n / 16 * c->groups + i / 4) * 64 + n % 16 * 4 + i % 4] = c->b[n * k + i] = byte(fill);
    memset(c->h, 0x7e, m * c->h_stride * sizeof *c->h);
    memset(c->h_hi, 0x7e, m * c->h_stride);
    memset(c->h_lo, 0x7e, m * c->h_stride);
    for (size_t row = 0; row < m; row++)
        for (size_t i = 0; i < padded; i++) {
            int h = i < k ? hidden(fill, i) : 0;
            size_t at = row * c->h_stride + i;
            c->h[at] = (int16_t)h;
            c->h_lo[at] = (int8_t)(uint8_t)(h & 255);
            c->h_hi[at] = (int8_t)((h - c->h_lo[at]) / 256);
        }
}

static void run(trit_head_fn *fn, const head_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->dots, c->m * c->dots_stride * sizeof *c->dots);
    fn(c->h, c->h_hi, c->h_lo, c->h_stride, c->m, c->plane, c->groups, panel0, panel1, c->dots, c->dots_stride);
}

/* Padding rows are zeros, and so are their dots. */
static void naive(const head_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->dots, c->m * c->dots_stride * sizeof *c->dots);
    for (size_t row = 0; row < c->m; row++)
        for (size_t n = panel0 * 16; n < panel1 * 16; n++) {
            int64_t dot = 0;
            for (size_t i = 0; n < c->vocab && i < c->k; i++)
                dot += (int64_t)c->b[n * c->k + i] * c->h[row * c->h_stride + i];
            c->dots[row * c->dots_stride + n] = dot;
        }
}

static void compare(const kc_kernel *kernel, size_t m, size_t vocab, size_t k, enum fill fill)
{
    head_case c;
    fill_case(&c, m, vocab, k, fill);
    size_t panel0 = kc_between(0, 2) == 0 ? (size_t)kc_between(0, (int64_t)c.panels - 1) : 0;
    size_t panel1 = kc_between(0, 2) == 0 ? (size_t)kc_between((int64_t)panel0, (int64_t)c.panels) : c.panels;
    size_t count = m * c.dots_stride, first = 0;
    int64_t *expected = kc_buffer(count * sizeof *expected);
    if (kernel->isa == TRIT_ISA_REF)
        naive(&c, panel0, panel1);
    else
        run(trit_head_i8i16_1x1__ref, &c, panel0, panel1);
    memcpy(expected, c.dots, count * sizeof *expected);
    run((trit_head_fn *)kernel->fn, &c, panel0, panel1);
    while (first < count && c.dots[first] == expected[first])
        first++;
    kc_expect(kernel, first == count,
              "M %zu vocab %zu K %zu panels %zu..%zu, %s: dots[%zu][%zu] is %lld, expected %lld", m, vocab, k, panel0,
              panel1, fill_names[fill], first / c.dots_stride, first % c.dots_stride,
              (long long)(first < count ? c.dots[first] : 0), (long long)(first < count ? expected[first] : 0));
    kc_expect(kernel, kc_release(), "M %zu vocab %zu K %zu: a canary was overwritten", m, vocab, k);
}

/* ---- bench ------------------------------------------------------------------------------------------------------ */

typedef struct head_bench {
    trit_head_fn *fn;
    size_t m, vocab, k;
    const int16_t *h;
    const int8_t *h_hi, *h_lo, *plane;
    int64_t *dots;
} head_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const head_bench *b = context;
    size_t panels = b->vocab / 16;
    b->fn(b->h, b->h_hi, b->h_lo, b->k, b->m, b->plane, b->k / 4, panels * (size_t)part / (size_t)n_parts,
          panels * ((size_t)part + 1) / (size_t)n_parts, b->dots, b->vocab);
}

static void bench_shape(const kc_kernel *kernel, size_t m, size_t vocab, size_t k, int n_threads)
{
    int8_t *plane = kc_buffer(vocab * k), *digits = kc_buffer(2 * m * k);
    int16_t *h = kc_buffer(m * k * sizeof *h);
    for (size_t i = 0; i < vocab * k; i++)
        plane[i] = (int8_t)(i * 2654435761u >> 16);
    for (size_t i = 0; i < m * k; i++) {
        digits[i] = (int8_t)kc_between(-126, 126);
        digits[m * k + i] = (int8_t)kc_between(-128, 127);
        h[i] = (int16_t)(256 * digits[i] + digits[m * k + i]);
    }
    int64_t *dots = kc_buffer(m * vocab * sizeof *dots);
    head_bench b = {(trit_head_fn *)kernel->fn, m, vocab, k, h, digits, digits + m * k, plane, dots};
    char what[80];
    snprintf(what, sizeof what, "M %zu vocab %zu K %zu", m, vocab, k);
    double products = (double)m * (double)vocab * (double)k;
    kc_bench(kernel, what,
             &(kc_load){bench_part, &b, n_threads, 1, (double)vocab * (double)k, 1, m > 1 ? 4.0 * products : 0.0});
    kc_release();
}

void check_head(const kc_kernel *kernel, int bench)
{
    if (bench) {
        size_t vocab = kernel->isa == TRIT_ISA_REF ? 1024 : 128256 / 2;
        bench_shape(kernel, 1, vocab, 2560, 1);
        bench_shape(kernel, 1, vocab, 2560, 2);
        for (size_t m = 2; m <= 32 && kernel->isa != TRIT_ISA_REF; m *= 2)
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
    for (size_t i = 0; i < kc_shapes(); i++)
        compare(kernel, kc_size(20), kc_size(300), kc_size(3000), (enum fill)kc_between(0, FILL_COUNT - 1));
}
