/* check_attention.c - qk and av against the reference, the reference against plain (token, channel) matrices. */
#include <stdio.h>
#include <string.h>

#include "kerncheck.h"

enum fill { FILL_RANDOM, FILL_LARGEST, FILL_BOUND, FILL_COUNT };

static const char *const fill_names[] = {"random", "max int16 (wraps)", "at the bound"};

typedef struct chunk_case {
    size_t n_q, n_blocks, head_dim, q_stride, acc_stride;
    int16_t *plain; /* (64, head_dim): K or V */
    const int16_t *blocks[4];
    const void *ahead[4]; /* no address of ours: a kernel that reads there dies */
    int16_t *vectors;     /* q (n_q, q_stride) or a (n_q, 64) */
    int32_t *out;
    size_t out_count;
} chunk_case;

static int16_t element(enum fill fill)
{
    if (fill == FILL_LARGEST)
        return (int16_t)(kc_random() & 1 ? 32767 : -32767);
    return (int16_t)kc_between(-32767, 32767);
}

static void fill_chunk(chunk_case *c, size_t n_q, size_t n_blocks, size_t head_dim, int is_value, enum fill fill)
{
    *c = (chunk_case){.n_q = n_q, .n_blocks = n_blocks, .head_dim = head_dim};
    size_t d = head_dim;
    c->q_stride = is_value ? 64 : (d + 31) / 32 * 32;
    c->acc_stride = is_value ? (d + 15) / 16 * 16 : 64;
    c->plain = kc_buffer(n_blocks * 16 * d * 2);
    for (size_t i = 0; i < n_blocks * 16 * d; i++)
        c->plain[i] = fill == FILL_BOUND && is_value ? (int16_t)(kc_random() & 1 ? 32767 : -32767) : element(fill);
    if (fill == FILL_BOUND && !is_value) { /* one channel carries the whole norm */
        memset(c->plain, 0, n_blocks * 16 * d * 2);
        for (size_t t = 0; t < n_blocks * 16; t++)
            c->plain[t * d + t % d] = t & 1 ? 32000 : -32000;
    }
    for (size_t b = 0; b < n_blocks; b++) {
        int16_t *block = kc_buffer(16 * d * 2);
        for (size_t t = 0; t < 16; t++)
            for (size_t j = 0; j < d; j++) {
                int16_t v = c->plain[(b * 16 + t) * d + j];
                if (is_value)
                    block[(t / 2 * d + j) * 2 + t % 2] = v;
                else
                    block[(j / 2 * 16 + t) * 2 + j % 2] = v;
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
                c->vectors[i * 64 + t] = fill == FILL_LARGEST ? element(fill) : (int16_t)kc_between(0, 511);
        else
            for (size_t j = 0; j < d; j++)
                c->vectors[i * c->q_stride + j] =
                    fill == FILL_BOUND ? (int16_t)(j == i % d ? 32000 : 0) : element(fill);
    }
    c->out_count = n_q * c->acc_stride;
    c->out = kc_buffer(c->out_count * sizeof *c->out);
}

static void naive(const chunk_case *c, int is_value)
{
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

static void run(kc_fn *fn, const chunk_case *c, int is_value)
{
    kc_poison(c->out, c->out_count * sizeof *c->out);
    if (is_value)
        ((trit_av_fn *)fn)(c->vectors, c->n_q, c->blocks, c->n_blocks, c->head_dim, c->out, c->acc_stride, c->ahead);
    else
        ((trit_qk_fn *)fn)(c->vectors, c->q_stride, c->n_q, c->blocks, c->n_blocks, c->head_dim, c->out, c->ahead);
}

static void compare(const kc_kernel *kernel, size_t n_q, size_t n_blocks, size_t d, int is_value, enum fill fill)
{
    chunk_case c;
    fill_chunk(&c, n_q, n_blocks, d, is_value, fill);
    int32_t *expected = kc_buffer(c.out_count * sizeof *expected);
    if (kernel->isa == TRIT_ISA_REF)
        naive(&c, is_value);
    else
        run(is_value ? (kc_fn *)trit_av_i16_1x1__ref : (kc_fn *)trit_qk_i16_1x1__ref, &c, is_value);
    memcpy(expected, c.out, c.out_count * sizeof *expected);
    run(kernel->fn, &c, is_value);
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
    int is_value;
} chunk_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const chunk_bench *b = context;
    (void)part;
    (void)n_parts;
    for (int i = 0; i < 1000; i++)
        run(b->fn, b->c, b->is_value);
}

static void check_chunk(const kc_kernel *kernel, int is_value, int bench)
{
    if (bench) {
        static const size_t queries[] = {1, 4, 16, 64};
        for (size_t i = 0; i < 4; i++) {
            chunk_case c;
            fill_chunk(&c, queries[i], 4, 128, is_value, FILL_RANDOM);
            chunk_bench b = {&c, kernel->fn, is_value};
            char what[80];
            snprintf(what, sizeof what, "n_q %zu, 64 tokens, head_dim 128, cached", queries[i]);
            kc_bench(kernel, what, &(kc_load){bench_part, &b, 1, 1000, 64.0 * 128 * 2, 0, 0});
            kc_release();
        }
        return;
    }
    static const size_t dims[] = {2,  4,  6,  8,  10, 14,  16,  18,  30,  32,  34,
                                  62, 64, 66, 80, 96, 100, 126, 128, 130, 254, 256};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (size_t n_blocks = 1; n_blocks <= 4; n_blocks++)
            for (int fill = 0; fill < FILL_COUNT; fill++)
                compare(kernel, (size_t)kc_between(1, 9), n_blocks, dims[i], is_value, (enum fill)fill);
    for (size_t n_q = 1; n_q <= 17; n_q++)
        compare(kernel, n_q, (size_t)kc_between(1, 4), (size_t)kc_between(1, 128) * 2, is_value, FILL_RANDOM);
    compare(kernel, 64, 4, 128, is_value, FILL_RANDOM);
    for (size_t i = 0; i < kc_shapes(); i++)
        compare(kernel, kc_size(64), (size_t)kc_between(1, 4), kc_size(128) * 2, is_value,
                (enum fill)kc_between(0, FILL_COUNT - 1));
}

void check_qk(const kc_kernel *kernel, int bench)
{
    check_chunk(kernel, 0, bench);
}

void check_av(const kc_kernel *kernel, int bench)
{
    check_chunk(kernel, 1, bench);
}
