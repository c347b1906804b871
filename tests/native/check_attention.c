/* check_attention.c - qk and av, of int16 and of int8, against the reference, the reference against plain (token, channel) matrices. */
#include <stdio.h>
#include <string.h>

#include "kerncheck.h"

enum fill { FILL_RANDOM, FILL_LARGEST, FILL_BOUND, FILL_COUNT };

static const char *const fill_names[] = {"random", "largest (int16 wraps)", "at the bound"};

/* Values or keys, of int8 or int16. */
typedef struct op {
    int is_value, narrow;
} op;

typedef struct chunk_case {
    op what;
    size_t n_q, n_blocks, head_dim, q_stride, acc_stride;
    int16_t *plain; /* (64, head_dim): K or V */
    const void *blocks[4];
    const void *ahead[4]; /* no address of ours: a kernel that reads there dies */
    int16_t *vectors;     /* q (n_q, q_stride) or a (n_q, 64) */
    int32_t *out;
    size_t out_count;
} chunk_case;

static int16_t element(enum fill fill, int narrow)
{
    int limit = narrow ? 127 : 32767;
    if (fill == FILL_LARGEST)
        return (int16_t)(kc_random() & 1 ? limit : -limit - narrow);
    if (fill == FILL_BOUND)
        return (int16_t)(kc_random() & 1 ? limit : -limit);
    return (int16_t)kc_between(-limit, limit);
}

static void put(void *block, size_t at, int16_t v, int narrow)
{
    if (narrow)
        ((int8_t *)block)[at] = (int8_t)v;
    else
        ((int16_t *)block)[at] = v;
}

static void fill_chunk(chunk_case *c, size_t n_q, size_t n_blocks, size_t head_dim, op what, enum fill fill)
{
    int is_value = what.is_value;
    *c = (chunk_case){.what = what, .n_q = n_q, .n_blocks = n_blocks, .head_dim = head_dim};
    size_t d = head_dim;
    c->q_stride = is_value ? 64 : (d + 31) / 32 * 32;
    c->acc_stride = is_value ? (d + 15) / 16 * 16 : 64;
    c->plain = kc_buffer(n_blocks * 16 * d * 2);
    for (size_t i = 0; i < n_blocks * 16 * d; i++)
        c->plain[i] = element(fill, what.narrow);
    if (fill == FILL_BOUND && !is_value && !what.narrow) { /* one channel carries the whole norm */
        memset(c->plain, 0, n_blocks * 16 * d * 2);
        for (size_t t = 0; t < n_blocks * 16; t++)
            c->plain[t * d + t % d] = t & 1 ? 32000 : -32000;
    }
    for (size_t b = 0; b < n_blocks; b++) {
        void *block = kc_buffer(16 * d * (what.narrow ? 1 : 2));
        for (size_t t = 0; t < 16; t++)
            for (size_t j = 0; j < d; j++) {
                int16_t v = c->plain[(b * 16 + t) * d + j];
                if (is_value)
                    put(block, (t / 2 * d + j) * 2 + t % 2, v, what.narrow);
                else
                    put(block, (j / 2 * 16 + t) * 2 + j % 2, v, what.narrow);
            }
        c->blocks[b] = block;
    }
    c->vectors = kc_buffer(n_q * c->q_stride * 2);
    memset(c->vectors, 0, n_q * c->q_stride * 2);
    for (size_t i = 0; i < n_q; i++) {
        if (is_value && fill == FILL_BOUND)
            c->vectors[i * 64 + i % (n_blocks * 16)] = 32704;
        else if (is_value)
            for (size_t t = 0; t < n_blocks * 16; t++)
                c->vectors[i * 64 + t] = fill == FILL_LARGEST ? element(fill, 0) : (int16_t)kc_between(0, 511);
        else
            for (size_t j = 0; j < d; j++)
                c->vectors[i * c->q_stride + j] =
                    fill == FILL_BOUND ? (int16_t)(j == i % d ? 32000 : 0) : element(fill, 0);
    }
    c->out_count = n_q * c->acc_stride;
    c->out = kc_buffer(c->out_count * sizeof *c->out);
}

static void naive(const chunk_case *c)
{
    int is_value = c->what.is_value;
    kc_poison(c->out, c->out_count * sizeof *c->out);
    for (size_t i = 0; i < c->n_q; i++)
        for (size_t o = 0; o < (is_value ? c->head_dim : c->n_blocks * 16); o++) {
            int64_t sum = 0;
            for (size_t s = 0; s < (is_value ? c->n_blocks * 16 : c->head_dim); s++)
                sum += (int64_t)c->vectors[i * c->q_stride + s] *
                       c->plain[is_value ? s * c->head_dim + o : o * c->head_dim + s];
            c->out[i * c->acc_stride + o] = (int32_t)(uint32_t)(uint64_t)sum;
        }
}

static void run(kc_fn *fn, const chunk_case *c)
{
    const int16_t *const *wide = (const int16_t *const *)c->blocks;
    const int8_t *const *narrow = (const int8_t *const *)c->blocks;
    kc_poison(c->out, c->out_count * sizeof *c->out);
    if (c->what.is_value && c->what.narrow)
        ((trit_av8_fn *)fn)(c->vectors, c->n_q, narrow, c->n_blocks, c->head_dim, c->out, c->acc_stride, c->ahead);
    else if (c->what.is_value)
        ((trit_av_fn *)fn)(c->vectors, c->n_q, wide, c->n_blocks, c->head_dim, c->out, c->acc_stride, c->ahead);
    else if (c->what.narrow)
        ((trit_qk8_fn *)fn)(c->vectors, c->q_stride, c->n_q, narrow, c->n_blocks, c->head_dim, c->out, c->ahead);
    else
        ((trit_qk_fn *)fn)(c->vectors, c->q_stride, c->n_q, wide, c->n_blocks, c->head_dim, c->out, c->ahead);
}

static kc_fn *reference(op what)
{
    if (what.is_value)
        return what.narrow ? (kc_fn *)trit_av_i16i8_1x1__ref : (kc_fn *)trit_av_i16_1x1__ref;
    return what.narrow ? (kc_fn *)trit_qk_i16i8_1x1__ref : (kc_fn *)trit_qk_i16_1x1__ref;
}

static void compare(const kc_kernel *kernel, size_t n_q, size_t n_blocks, size_t d, op what, enum fill fill)
{
    chunk_case c;
    fill_chunk(&c, n_q, n_blocks, d, what, fill);
    int32_t *expected = kc_buffer(c.out_count * sizeof *expected);
    if (kernel->isa == TRIT_ISA_REF)
        naive(&c);
    else
        run(reference(what), &c);
    memcpy(expected, c.out, c.out_count * sizeof *expected);
    run(kernel->fn, &c);
    size_t first = 0;
    while (first + 1 < c.out_count && expected[first] == c.out[first])
        first++;
    kc_expect(kernel, expected[first] == c.out[first],
              "n_q %zu blocks %zu head_dim %zu, %s: [%zu][%zu] is %d, expected %d", n_q, n_blocks, d, fill_names[fill],
              first / c.acc_stride, first % c.acc_stride, c.out[first], expected[first]);
    kc_expect(kernel, kc_release(), "n_q %zu blocks %zu head_dim %zu: a canary was overwritten", n_q, n_blocks, d);
}

/* ---- bench ------------------------------------------------------------------------------------------------------ */

typedef struct chunk_bench {
    const chunk_case *c;
    kc_fn *fn;
} chunk_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const chunk_bench *b = context;
    (void)part;
    (void)n_parts;
    for (int i = 0; i < 1000; i++)
        run(b->fn, b->c);
}

static void check_chunk(const kc_kernel *kernel, op what, int bench)
{
    if (bench) {
        static const size_t queries[] = {1, 4, 16, 64};
        for (size_t i = 0; i < 4; i++) {
            chunk_case c;
            fill_chunk(&c, queries[i], 4, 128, what, FILL_RANDOM);
            chunk_bench b = {&c, kernel->fn};
            char text[80];
            snprintf(text, sizeof text, "n_q %zu, 64 tokens, head_dim 128, cached", queries[i]);
            kc_bench(kernel, text, &(kc_load){bench_part, &b, 1, 1000, 64.0 * 128 * (what.narrow ? 1 : 2), 0, 0});
            kc_release();
        }
        return;
    }
    static const size_t dims[] = {2,  4,  6,  8,  10, 14,  16,  18,  30,  32,  34,
                                  62, 64, 66, 80, 96, 100, 126, 128, 130, 254, 256};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (size_t n_blocks = 1; n_blocks <= 4; n_blocks++)
            for (int fill = 0; fill < FILL_COUNT; fill++)
                compare(kernel, (size_t)kc_between(1, 9), n_blocks, dims[i], what, (enum fill)fill);
    for (size_t n_q = 1; n_q <= 17; n_q++)
        compare(kernel, n_q, (size_t)kc_between(1, 4), (size_t)kc_between(1, 128) * 2, what, FILL_RANDOM);
    compare(kernel, 64, 4, 128, what, FILL_RANDOM);
    for (size_t i = 0; i < kc_shapes(); i++)
        compare(kernel, kc_size(64), (size_t)kc_between(1, 4), kc_size(128) * 2, what,
                (enum fill)kc_between(0, FILL_COUNT - 1));
}

void check_qk(const kc_kernel *kernel, int bench)
{
    check_chunk(kernel, (op){.is_value = 0, .narrow = 0}, bench);
}

void check_av(const kc_kernel *kernel, int bench)
{
    check_chunk(kernel, (op){.is_value = 1, .narrow = 0}, bench);
}

void check_qk8(const kc_kernel *kernel, int bench)
{
    check_chunk(kernel, (op){.is_value = 0, .narrow = 1}, bench);
}

void check_av8(const kc_kernel *kernel, int bench)
{
    check_chunk(kernel, (op){.is_value = 1, .narrow = 1}, bench);
}
