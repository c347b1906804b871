/*
 * check_dense.c - the dense layout: gemv_dense against the reference, the reference against the plain product over the same weights in
 * T2_P64G4; expand against the packing's own inverse; the damage check byte by byte.
 */
#include <string.h>

#include "kerncheck.h"

typedef struct dense_case {
    size_t m, n, k, groups, panels;
    uint8_t *t2, *dense;
    uint64_t t2_bytes, dense_bytes;
    int8_t *x;
    size_t x_stride, y_stride;
    int32_t *x_sum;
    float *row_scale, *y;
} dense_case;

enum fill { FILL_RANDOM, FILL_PLUS, FILL_MINUS, FILL_MIXED_SIGN, FILL_COUNT };

static void fill_case(dense_case *c, size_t m, size_t n, size_t k, enum fill fill)
{
    size_t padded = (k + 63) / 64 * 64;
    *c = (dense_case){.m = m, .n = n, .k = k, .groups = padded / 4, .panels = (n + 63) / 64};
    c->x_stride = padded + (size_t)kc_between(0, 1) * 64;
    c->y_stride = (n + 15) / 16 * 16 + 16;
    c->t2_bytes = trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, (int64_t)n, (int64_t)k);
    c->dense_bytes = trit_layout_bytes(TRIT_LAYOUT_T5_P64G4, (int64_t)n, (int64_t)k);
    int8_t *codes = kc_buffer(n * k);
    c->t2 = kc_buffer((size_t)c->t2_bytes);
    c->dense = kc_buffer((size_t)c->dense_bytes);
    c->x = kc_buffer(m * c->x_stride);
    c->x_sum = kc_buffer(m * sizeof *c->x_sum);
    c->row_scale = kc_buffer(m * sizeof *c->row_scale);
    c->y = kc_buffer(m * c->y_stride * sizeof *c->y);
    for (size_t i = 0; i < n * k; i++)
        codes[i] = (int8_t)(fill == FILL_PLUS         ? 1
                            : fill == FILL_MINUS      ? -1
                            : fill == FILL_MIXED_SIGN ? ((i % k) & 1 ? -1 : 1)
                                                      : kc_between(-1, 1));
    (void)trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, (int64_t)n, (int64_t)k, c->t2, c->t2_bytes, NULL);
    (void)trit_pack_dense(c->t2, c->t2_bytes, (int64_t)n, (int64_t)k, c->dense, c->dense_bytes, NULL);
    memset(c->x, 0x7e, m * c->x_stride); /* beyond the padded end: must not matter */
    for (size_t row = 0; row < m; row++) {
        c->x_sum[row] = 0;
        for (size_t i = 0; i < padded; i++) {
            int v = i >= k                                    ? 0
                    : fill == FILL_PLUS || fill == FILL_MINUS ? 127
                    : fill == FILL_MIXED_SIGN                 ? (i & 1 ? 127 : -127)
                                                              : (int)kc_between(-127, 127);
            c->x[row * c->x_stride + i] = (int8_t)v;
            c->x_sum[row] += v;
        }
        c->row_scale[row] = kc_normal(0.01f);
    }
}

static void run(trit_ternary_fn *fn, const dense_case *c, const uint8_t *w, size_t panel0, size_t panel1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    fn(c->x, c->x_stride, c->x_sum, c->m, w, c->groups, panel0, panel1, c->n, c->row_scale, c->y, c->y_stride);
}

static void compare(const kc_kernel *kernel, size_t m, size_t n, size_t k, enum fill fill)
{
    dense_case c;
    fill_case(&c, m, n, k, fill);
    size_t panel0 = (size_t)kc_between(0, (int64_t)c.panels - 1);
    size_t panel1 = (size_t)kc_between((int64_t)panel0, (int64_t)c.panels);
    size_t floats = m * c.y_stride, first = 0;
    float *expected = kc_buffer(floats * sizeof *expected);
    if (fill == FILL_RANDOM && kernel->isa != TRIT_ISA_REF) /* any bytes: those that never occur have digits, too */
        for (size_t i = 0; i < c.dense_bytes; i++)
            c.dense[i] = (uint8_t)kc_random();
    if (kernel->isa == TRIT_ISA_REF)
        run(trit_linear_i8t2_1x1__ref, &c, c.t2, panel0, panel1);
    else
        run(trit_gemv_i8t5_1x1__ref, &c, c.dense, panel0, panel1);
    memcpy(expected, c.y, floats * sizeof *expected);
    run((trit_ternary_fn *)kernel->fn, &c, c.dense, panel0, panel1);
    kc_expect(kernel, kc_same_floats(expected, c.y, floats, &first),
              "M %zu N %zu K %zu panels %zu..%zu, fill %d: y[%zu][%zu] is %.9g, expected %.9g", m, n, k, panel0, panel1,
              (int)fill, first / c.y_stride, first % c.y_stride, (double)c.y[first], (double)expected[first]);
    kc_expect(kernel, kc_release(), "M %zu N %zu K %zu: a canary was overwritten", m, n, k);
}

typedef struct dense_bench {
    trit_ternary_fn *fn;
    const uint8_t *w;
    size_t n, k, copies;
    const int8_t *x;
    const int32_t *x_sum;
    const float *row_scale;
    float *y;
} dense_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const dense_bench *b = context;
    size_t panels = b->n / 64, bytes = trit_dense_vectors(b->k / 4) * 64 * panels;
    size_t from = panels * (size_t)part / (size_t)n_parts, to = panels * ((size_t)part + 1) / (size_t)n_parts;
    for (size_t i = 0; i < b->copies; i++)
        b->fn(b->x, b->k, b->x_sum, 1, b->w + i * bytes, b->k / 4, from, to, b->n, b->row_scale, b->y, b->n);
}

static void bench_shape(const kc_kernel *kernel, size_t n, size_t k, size_t total_bytes, int n_threads)
{
    size_t bytes = trit_dense_vectors(k / 4) * n;
    size_t copies = total_bytes / bytes > 0 ? total_bytes / bytes : 1;
    uint8_t *w = kc_buffer(bytes * copies);
    int8_t *x = kc_buffer(k);
    for (size_t i = 0; i < bytes * copies; i++)
        w[i] = (uint8_t)(i * 2654435761u >> 16);
    for (size_t i = 0; i < k; i++)
        x[i] = (int8_t)kc_between(-127, 127);
    dense_bench b = {(trit_ternary_fn *)kernel->fn, w, n, k, copies, x, kc_buffer(4), kc_buffer(4), kc_buffer(n * 4)};
    kc_bench(
        kernel, copies > 1 ? "2B4T tensor" : "one tensor",
        &(kc_load){bench_part, &b, n_threads, (double)copies, (double)bytes, copies > 1, 2.0 * (double)n * (double)k});
    kc_release();
}

void check_gemv_dense(const kc_kernel *kernel, int bench)
{
    static const size_t ks[] = {1, 2, 5, 63, 64, 65, 128, 192, 256, 320, 384, 640, 1021, 2560, 6912};
    if (bench) {
        size_t total = kernel->isa == TRIT_ISA_REF ? 1 : (size_t)200 << 20;
        for (int threads = 1; threads <= 2; threads++) {
            bench_shape(kernel, 6912, 2560, total, threads);
            bench_shape(kernel, 2560, 6912, total, threads);
        }
        bench_shape(kernel, 640, 2560, 1, 1);
        return;
    }
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            compare(kernel, (size_t)kc_between(1, 3), (size_t)kc_between(1, 200), ks[i], (enum fill)fill);
    for (int i = 0; i < 20; i++)
        compare(kernel, 1, (size_t)kc_between(1, 200), (size_t)kc_between(1, 700), FILL_RANDOM);
    static const size_t wide[] = {32768, 33000, 66000, 131072}; /* past every splitting bound */
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        compare(kernel, 1, 64, wide[i], FILL_PLUS);
        compare(kernel, 1, 33, wide[i], FILL_MIXED_SIGN);
    }
    for (size_t i = 0; i < kc_shapes(); i++)
        compare(kernel, kc_size(3), kc_size(400), kc_size(3000), (enum fill)kc_between(0, FILL_COUNT - 1));
}

void check_expand(const kc_kernel *kernel, int bench)
{
    for (size_t groups = 16; groups <= 16 * 12 && !bench; groups += 16) {
        int64_t n = 64, k = (int64_t)groups * 4;
        uint64_t bytes = trit_layout_bytes(TRIT_LAYOUT_T5_P64G4, n, k);
        uint8_t *w = kc_buffer((size_t)bytes), *t2 = kc_buffer(groups * 64), *expected = kc_buffer(groups * 64);
        int8_t *codes = kc_buffer((size_t)(n * k));
        for (int64_t i = 0; i < n * k; i++)
            codes[i] = (int8_t)kc_between(-1, 1);
        (void)trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, n, k, expected, groups * 64, NULL);
        trit_error err = {0};
        kc_expect(kernel, trit_pack_dense(expected, groups * 64, n, k, w, bytes, &err) == TRIT_OK, "pack: %s",
                  err.text);
        kc_poison(t2, groups * 64);
        ((trit_expand_fn *)kernel->fn)(w, groups, t2);
        kc_expect(kernel, kc_same_bytes(t2, expected, groups * 64), "%zu groups: not what was packed", groups);
        kc_poison(t2, groups * 64);
        kc_expect(kernel,
                  trit_unpack_dense(w, bytes, n, k, t2, groups * 64, &err) == TRIT_OK &&
                      kc_same_bytes(t2, expected, groups * 64),
                  "%zu groups: unpack is not the inverse", groups);
        for (size_t i = 0; i < bytes; i++)
            w[i] = (uint8_t)kc_random();
        trit_expand_t5_1__ref(w, groups, expected);
        ((trit_expand_fn *)kernel->fn)(w, groups, t2);
        kc_expect(kernel, kc_same_bytes(t2, expected, groups * 64), "%zu groups of any bytes", groups);
        kc_expect(kernel, kc_release(), "%zu groups: a canary was overwritten", groups);
    }
}

void check_dense_valid(const kc_kernel *kernel, int bench)
{
    trit_codes_valid_fn *fn = (trit_codes_valid_fn *)kernel->fn;
    int occurs[256] = {0};
    for (int v = 0; v < 243 && !bench; v++)
        occurs[(256 * v + 242) / 243] = 1;
    for (int byte = 0; byte < 256 && !bench; byte++) {
        size_t bytes = 64 * (size_t)kc_between(1, 100);
        uint8_t *w = kc_buffer(bytes);
        memset(w, 128, bytes);
        w[(size_t)kc_between(0, (int64_t)bytes - 1)] = (uint8_t)byte;
        kc_expect(kernel, fn(w, bytes) == occurs[byte], "%zu bytes with 0x%02x", bytes, (unsigned)byte);
        kc_expect(kernel, kc_release(), "%zu bytes: a canary was overwritten", bytes);
    }
}
