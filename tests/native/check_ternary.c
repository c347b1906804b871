/* check_ternary.c - gemv and gemm against the reference, the reference against the worked example and a naive int64 reading. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kerncheck.h"

enum fill { FILL_RANDOM, FILL_PLUS, FILL_MINUS, FILL_MIXED_SIGN, FILL_ZERO_ROWS, FILL_COUNT };

static const char *const fill_names[] = {"random", "all +1 and +127", "all -1 and +127", "signs against -127",
                                         "zero rows"};

typedef struct ternary_case {
    size_t m, n, k, groups, panels;
    int8_t *codes; /* (n, k), plain: what the naive reading uses */
    uint8_t *w;
    int8_t *x;
    size_t x_stride;
    int32_t *x_sum;
    float *row_scale;
    float *y;
    size_t y_stride;
} ternary_case;

static void fill_case(ternary_case *c, size_t m, size_t n, size_t k, size_t extra_stride, enum fill fill)
{
    size_t padded = (k + 63) / 64 * 64;
    *c = (ternary_case){.m = m, .n = n, .k = k, .groups = padded / 4, .panels = (n + 63) / 64};
    c->x_stride = padded + extra_stride;
    c->y_stride = (n + 15) / 16 * 16 + 16;
    uint64_t bytes = trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, (int64_t)n, (int64_t)k);
    c->codes = kc_buffer(n * k);
    c->w = kc_buffer((size_t)bytes);
    c->x = kc_buffer(m * c->x_stride);
    c->x_sum = kc_buffer(m * sizeof *c->x_sum);
    c->row_scale = kc_buffer(m * sizeof *c->row_scale);
    c->y = kc_buffer(m * c->y_stride * sizeof *c->y);
    for (size_t i = 0; i < n * k; i++)
        c->codes[i] = (int8_t)(fill == FILL_PLUS         ? 1
                               : fill == FILL_MINUS      ? -1
                               : fill == FILL_MIXED_SIGN ? ((i % k) & 1 ? -1 : 1)
                                                         : kc_between(-1, 1));
    /* the naive packing, from the sentence in trit.h */
    memset(c->w, 0x55, (size_t)bytes);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < k; i++) {
            size_t field = r % 64 / 16, byte = r % 16 * 4 + i % 4;
            uint8_t *at = &c->w[(r / 64 * c->groups + i / 4) * 64 + byte];
            *at = (uint8_t)(*at + (c->codes[r * k + i] * (1 << (2 * field))));
        }
    memset(c->x, 0x7e, m * c->x_stride); /* beyond the padded end: must not matter */
    for (size_t row = 0; row < m; row++) {
        c->x_sum[row] = 0;
        for (size_t i = 0; i < padded; i++) {
            int v = i >= k                                    ? 0
                    : fill == FILL_PLUS || fill == FILL_MINUS ? 127
                    : fill == FILL_MIXED_SIGN                 ? (i & 1 ? 127 : -127)
                    : fill == FILL_ZERO_ROWS && row % 2 == 0  ? 0
                                                              : (int)kc_between(-127, 127);
            c->x[row * c->x_stride + i] = (int8_t)v;
            c->x_sum[row] += v;
        }
        c->row_scale[row] = kc_normal(0.01f);
    }
}

static void run(trit_ternary_fn *fn, const ternary_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    fn(c->x, c->x_stride, c->x_sum, c->m, c->w, c->groups, panel0, panel1, c->n, c->row_scale, c->y, c->y_stride);
}

/* y as the definition has it: 64-bit sums over the plain codes. */
static void naive(const ternary_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    for (size_t row = 0; row < c->m; row++)
        for (size_t r = panel0 * 64; r < panel1 * 64 && r < c->n; r++) {
            int64_t sum = 0;
            for (size_t i = 0; i < c->k; i++)
                sum += (int64_t)c->codes[r * c->k + i] * c->x[row * c->x_stride + i];
            c->y[row * c->y_stride + r] = (float)(int32_t)sum * c->row_scale[row];
        }
}

static void compare(const kc_kernel *kernel, size_t m, size_t n, size_t k, enum fill fill)
{
    ternary_case c;
    fill_case(&c, m, n, k, (size_t)kc_between(0, 1) * 64, fill);
    size_t panel0 = kc_between(0, 2) == 0 ? (size_t)kc_between(0, (int64_t)c.panels - 1) : 0;
    size_t panel1 = kc_between(0, 2) == 0 ? (size_t)kc_between((int64_t)panel0, (int64_t)c.panels) : c.panels;
    size_t floats = m * c.y_stride, first = 0;
    float *expected = kc_buffer(floats * sizeof *expected);
    if (kernel->isa == TRIT_ISA_REF)
        naive(&c, panel0, panel1);
    else
        run(trit_linear_i8t2_1x1__ref, &c, panel0, panel1);
    memcpy(expected, c.y, floats * sizeof *expected);
    run((trit_ternary_fn *)kernel->fn, &c, panel0, panel1);
    int same = kc_same_floats(expected, c.y, floats, &first);
    size_t row = first / c.y_stride, column = first % c.y_stride;
    kc_expect(kernel, same, "M %zu N %zu K %zu panels %zu..%zu, %s: y[%zu][%zu] is %.9g, expected %.9g", m, n, k,
              panel0, panel1, fill_names[fill], row, column, (double)c.y[first], (double)expected[first]);
    kc_expect(kernel, kc_release(), "M %zu N %zu K %zu: a canary was overwritten", m, n, k);
}

/* model-spec.md 2.6: eight rows of four weights; the reference must give these integers. */
static void check_worked_example(const kc_kernel *kernel)
{
    static const int8_t weights[8][4] = {{1, -1, 0, 1}, {0, 0, 1, -1}, {-1, 1, 0, 0},  {1, 1, 1, -1},
                                         {-1, 0, 0, 1}, {0, -1, 1, 0}, {1, 0, -1, -1}, {0, 1, -1, 1}};
    static const int expected[8] = {222, -124, -95, -181, 108, 79, -111, 48};
    static const float scaled[8] = {5.24409f, -2.92913f, -2.24409f, -4.27559f, 2.55118f, 1.86614f, -2.62205f, 1.13386f};
    ternary_case c;
    fill_case(&c, 1, 8, 4, 0, FILL_RANDOM);
    trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, &weights[0][0], 8, 4, c.w, trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, 8, 4),
                      NULL);
    const float x[4] = {0.3f, -1.2f, 0.05f, 2.0f};
    int32_t zeros;
    float x_scale = trit_rows__ref.quant_i8(x, 4, 64, c.x, c.x_sum, &zeros);
    kc_expect(kernel, c.x[0] == 19 && c.x[1] == -76 && c.x[2] == 3 && c.x[3] == 127 && c.x_sum[0] == 73,
              "worked example: x_q is %d %d %d %d, expected 19 -76 3 127", c.x[0], c.x[1], c.x[2], c.x[3]);
    c.row_scale[0] = 1.0f;
    run((trit_ternary_fn *)kernel->fn, &c, 0, 1);
    for (int i = 0; i < 8; i++)
        kc_expect(kernel, c.y[i] == (float)expected[i], "worked example: row %d is %g, expected %d", i, (double)c.y[i],
                  expected[i]);
    c.row_scale[0] = 1.5f * x_scale;
    run((trit_ternary_fn *)kernel->fn, &c, 0, 1);
    for (int i = 0; i < 8; i++)
        kc_expect(kernel, c.y[i] - scaled[i] < 6e-6f && scaled[i] - c.y[i] < 6e-6f,
                  "worked example: y[%d] is %g, expected %g", i, (double)c.y[i], (double)scaled[i]);
    kc_expect(kernel, kc_release(), "worked example: a canary was overwritten");
}

static void check_all(const kc_kernel *kernel, size_t max_m)
{
    static const size_t ks[] = {1, 2, 3, 4, 5, 63, 64, 65, 100, 252, 256, 260, 320, 1021, 2560, 6912};
    static const size_t ns[] = {1, 15, 63, 64, 65, 127, 128, 129, 200, 320};
    check_worked_example(kernel);
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            compare(kernel, (size_t)kc_between(1, (int64_t)max_m), ns[(size_t)kc_between(0, 9)], ks[i],
                    (enum fill)fill);
    for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
        compare(kernel, (size_t)kc_between(1, (int64_t)max_m), ns[i], (size_t)kc_between(1, 700), FILL_RANDOM);
    for (size_t m = 1; m <= max_m && m <= 17; m++)
        compare(kernel, m, (size_t)kc_between(1, 200), (size_t)kc_between(1, 600), FILL_RANDOM);
    /* widths past every splitting bound */
    static const size_t wide[] = {32768, 33000, 40000, 135000};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        compare(kernel, 1, 64, wide[i], FILL_PLUS);
        compare(kernel, 2, 33, wide[i], FILL_MIXED_SIGN);
    }
    for (size_t i = 0; i < kc_shapes(); i++)
        compare(kernel, kc_size(max_m), kc_size(400), kc_size(3000), (enum fill)kc_between(0, FILL_COUNT - 1));
}

/* ---- bench ------------------------------------------------------------------------------------------------------ */

typedef struct ternary_bench {
    trit_ternary_fn *fn;
    const uint8_t *w;
    size_t m, n, k, copies; /* copies of the tensor, so that none stays in the cache */
    const int8_t *x;
    const int32_t *x_sum;
    const float *row_scale;
    float *y;
} ternary_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const ternary_bench *b = context;
    size_t panels = b->n / 64, bytes = b->n * b->k / 4;
    size_t from = panels * (size_t)part / (size_t)n_parts, to = panels * ((size_t)part + 1) / (size_t)n_parts;
    for (size_t i = 0; i < b->copies; i++)
        b->fn(b->x, b->k, b->x_sum, b->m, b->w + i * bytes, b->k / 4, from, to, b->n, b->row_scale, b->y, b->n);
}

static void bench_shape(const kc_kernel *kernel, size_t m, size_t n, size_t k, size_t total_bytes, int n_threads)
{
    size_t bytes = n * k / 4;
    size_t copies = total_bytes / bytes > 0 ? total_bytes / bytes : 1;
    uint8_t *w = kc_buffer(bytes * copies);
    int8_t *x = kc_buffer(m * k);
    for (size_t i = 0; i < bytes * copies; i++)
        w[i] = (uint8_t)((i * 2654435761u >> 16) & 0xaau & ~(i << 1 & 0xaau));
    for (size_t i = 0; i < m * k; i++)
        x[i] = (int8_t)kc_between(-127, 127);
    ternary_bench b = {(trit_ternary_fn *)kernel->fn, w, m, n, k, copies, x, kc_buffer(m * 4), kc_buffer(m * 4),
                       kc_buffer(m * n * 4)};
    char what[80];
    snprintf(what, sizeof what, "M %zu N %zu K %zu%s", m, n, k, copies > 1 ? "" : ", one tensor");
    kc_bench(kernel, what,
             &(kc_load){bench_part, &b, n_threads, (double)copies, (double)bytes, copies > 1,
                        2.0 * (double)m * (double)n * (double)k});
    kc_release();
}

void check_gemv(const kc_kernel *kernel, int bench)
{
    if (!bench) {
        check_all(kernel, 5);
        return;
    }
    size_t total = kernel->isa == TRIT_ISA_REF ? 1 : (size_t)200 << 20;
    for (int threads = 1; threads <= 2; threads++) {
        bench_shape(kernel, 1, 2560, 2560, total, threads);
        bench_shape(kernel, 1, 6912, 2560, total, threads);
        bench_shape(kernel, 1, 2560, 6912, total, threads);
    }
    bench_shape(kernel, 1, 640, 2560, 1, 1); /* from the cache: what the arithmetic alone could do */
}

void check_gemm(const kc_kernel *kernel, int bench)
{
    if (!bench) {
        check_all(kernel, 100);
        compare(kernel, 64, 130, 600, FILL_RANDOM);
        compare(kernel, 65, 64, 2560, FILL_MIXED_SIGN);
        compare(kernel, 150, 100, 300, FILL_RANDOM);
        /* past what a kernel takes at once: of rows, of the inputs of many rows */
        compare(kernel, 300, 70, 130, FILL_RANDOM);
        compare(kernel, 140, 16, 6912, FILL_PLUS);
        return;
    }
    size_t m = kernel->isa == TRIT_ISA_REF ? 2 : 512;
    for (int threads = 1; threads <= 2; threads++) {
        bench_shape(kernel, m, 2560, 2560, 1, threads);
        bench_shape(kernel, m, 6912, 2560, 1, threads);
        bench_shape(kernel, m, 2560, 6912, 1, threads);
    }
    static const size_t few[] = {2, 4, 8, 16, 32, 64};
    for (size_t i = 0; i < 6 && kernel->isa != TRIT_ISA_REF; i++)
        bench_shape(kernel, few[i], 6912, 2560, (size_t)50 << 20, 1);
    for (size_t i = 0; i < 6 && kernel->isa != TRIT_ISA_REF; i++)
        bench_shape(kernel, few[i], 2560, 6912, (size_t)50 << 20, 2);
}
