/*
 * check_sparse.c - up_rows, down_inputs and down_pairs against the reference, and the reference against a naive int64 reading of the plain
 * codes. Shares of zeros from none to all; extremes of codes and inputs; odd sizes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kerncheck.h"

enum fill { FILL_RANDOM, FILL_PLUS, FILL_MINUS, FILL_MIXED_SIGN, FILL_COUNT };

/* What is wanted: percent of gates open, or of inputs that are not 0. */
static const int shares[] = {0, 12, 45, 100};

typedef struct sparse_case {
    size_t m, n, k, x_stride, y_stride;
    int8_t *codes; /* (n, k) */
    uint8_t *w;
    int8_t *x;
    int32_t *x_sum;
    float *row_scale, *gate, *y;
    int32_t layout;
} sparse_case;

static void fill_case(sparse_case *c, int32_t layout, size_t m, size_t n, size_t k, int share, enum fill fill)
{
    *c = (sparse_case){.m = m, .n = n, .k = k, .layout = layout};
    c->x_stride = (k + 255) / 256 * 256 + (size_t)kc_between(0, 1) * 64;
    c->y_stride = (n + 15) / 16 * 16 + 16;
    uint64_t bytes = trit_layout_bytes(layout, (int64_t)n, (int64_t)k);
    c->codes = kc_buffer(n * k);
    c->w = kc_buffer((size_t)bytes);
    c->x = kc_buffer(m * c->x_stride);
    c->x_sum = kc_buffer(m * sizeof *c->x_sum);
    c->row_scale = kc_buffer(m * sizeof *c->row_scale);
    c->gate = kc_buffer(m * c->y_stride * sizeof *c->gate);
    c->y = kc_buffer(m * c->y_stride * sizeof *c->y);
    for (size_t i = 0; i < n * k; i++)
        c->codes[i] = (int8_t)(fill == FILL_PLUS         ? 1
                               : fill == FILL_MINUS      ? -1
                               : fill == FILL_MIXED_SIGN ? ((i % k) & 1 ? -1 : 1)
                                                         : kc_between(-1, 1));
    trit_pack_ternary(layout, c->codes, (int64_t)n, (int64_t)k, c->w, bytes, NULL); /* held to trit.h by check_pack */
    memset(c->x, 0, m * c->x_stride);
    for (size_t row = 0; row < m; row++) {
        c->x_sum[row] = 0;
        for (size_t i = 0; i < k; i++) {
            int v = fill == FILL_PLUS || fill == FILL_MINUS ? 127
                    : fill == FILL_MIXED_SIGN               ? (i & 1 ? 127 : -127)
                                                            : (int)kc_between(-127, 127);
            if (layout == TRIT_LAYOUT_T2_COLS && kc_between(0, 99) >= share)
                v = 0;
            c->x[row * c->x_stride + i] = (int8_t)v;
            c->x_sum[row] += v;
        }
        c->row_scale[row] = kc_normal(0.01f);
    }
    static const float closed[] = {0.0f, -0.0f, -1e-30f, -5.0f, -INFINITY}, open[] = {1e-30f, 2.0f, INFINITY, NAN};
    for (size_t i = 0; i < m * c->y_stride; i++)
        c->gate[i] = kc_between(0, 99) < share ? open[kc_between(0, 3)] : closed[kc_between(0, 4)];
}

static int64_t dot(const sparse_case *c, size_t row, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < c->k; i++)
        sum += (int64_t)c->codes[n * c->k + i] * c->x[row * c->x_stride + i];
    return sum;
}

/* Poison *y, run, keep a copy: what must not be written has to keep its poison. */
static float *keep(const sparse_case *c)
{
    size_t bytes = c->m * c->y_stride * sizeof *c->y;
    float *copy = kc_buffer(bytes);
    memcpy(copy, c->y, bytes);
    return copy;
}

/* ---- up_rows ---------------------------------------------------------------------------------------------------- */

static void run_up(trit_up_rows_fn *fn, const sparse_case *c, const float *gate, size_t n0, size_t n1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    fn(c->x, c->x_stride, c->x_sum, c->m, c->w, (c->k + 255) / 256 * 64, n0, n1, c->row_scale, gate, c->y, c->y_stride);
}

static void naive_up(const sparse_case *c, const float *gate, size_t n0, size_t n1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    for (size_t row = 0; row < c->m; row++)
        for (size_t n = n0; n < n1; n++) {
            int closed = gate != NULL && gate[row * c->y_stride + n] <= 0.0f;
            c->y[row * c->y_stride + n] = closed ? 0.0f : (float)(int32_t)dot(c, row, n) * c->row_scale[row];
        }
}

static void compare_up(const kc_kernel *kernel, size_t m, size_t n, size_t k, int share, enum fill fill)
{
    sparse_case c;
    fill_case(&c, TRIT_LAYOUT_T2_ROWS, m, n, k, share, fill);
    const float *gate = share == 100 && kc_between(0, 1) ? NULL : c.gate;
    size_t n0 = kc_between(0, 2) == 0 ? (size_t)kc_between(0, (int64_t)n - 1) : 0;
    size_t n1 = kc_between(0, 2) == 0 ? (size_t)kc_between((int64_t)n0, (int64_t)n) : n, first = 0;
    if (kernel->isa == TRIT_ISA_REF)
        naive_up(&c, gate, n0, n1);
    else
        run_up(trit_up_rows_i8t2_1x1__ref, &c, gate, n0, n1);
    float *expected = keep(&c);
    run_up((trit_up_rows_fn *)kernel->fn, &c, gate, n0, n1);
    int same = kc_same_floats(expected, c.y, m * c.y_stride, &first);
    kc_expect(kernel, same,
              "M %zu N %zu K %zu outputs %zu..%zu, %d %% open, fill %d: y[%zu][%zu] is %.9g, expected %.9g", m, n, k,
              n0, n1, share, (int)fill, first / c.y_stride, first % c.y_stride, (double)c.y[first],
              (double)expected[first]);
    kc_expect(kernel, kc_release(), "M %zu N %zu K %zu: a canary was overwritten", m, n, k);
}

/* ---- down_inputs ------------------------------------------------------------------------------------------------ */

static void compare_inputs(const kc_kernel *kernel, size_t n, size_t k, int share, enum fill fill)
{
    sparse_case c;
    fill_case(&c, TRIT_LAYOUT_T2_COLS, 1, n, k, share, fill);
    size_t run_bytes = (n + 63) / 64 * 16, outputs = 4 * run_bytes, count = 0, wrong = 0;
    int32_t *inputs = kc_buffer(k * sizeof *inputs), *acc = kc_buffer(outputs * sizeof *acc);
    int32_t *expected = kc_buffer(outputs * sizeof *expected);
    for (size_t i = 0; i < k; i++)
        if (c.x[i] != 0 || kc_between(0, 9) == 0) /* an input that is 0 may stand on the list */
            inputs[count++] = (int32_t)i;
    for (size_t i = 0; i < outputs; i++)
        acc[i] = expected[i] = (int32_t)kc_between(-1000000, 1000000); /* it adds */
    if (kernel->isa == TRIT_ISA_REF)
        for (size_t i = 0; i < n; i++)
            expected[i] += (int32_t)dot(&c, 0, i) + c.x_sum[0];
    else
        trit_down_inputs_i8t2_1x1__ref(c.x, inputs, count, 0, c.w, run_bytes, expected);
    size_t part = (size_t)kc_between(0, (int64_t)count);
    ((trit_down_inputs_fn *)kernel->fn)(c.x, inputs, part, count - part, c.w, run_bytes, acc);
    ((trit_down_inputs_fn *)kernel->fn)(c.x, inputs + part, count - part, 0, c.w, run_bytes, acc);
    size_t checked = kernel->isa == TRIT_ISA_REF ? n : outputs; /* the naive reading has no padding */
    for (size_t i = 0; i < checked; i++)
        wrong += acc[i] != expected[i];
    kc_expect(kernel, wrong == 0, "N %zu K %zu, %zu inputs in parts of %zu, fill %d: %zu sums differ", n, k, count,
              part, (int)fill, wrong);
    kc_expect(kernel, kc_release(), "N %zu K %zu: a canary was overwritten", n, k);
}

/* ---- down_pairs ------------------------------------------------------------------------------------------------- */

static void run_pairs(trit_down_pairs_fn *fn, const sparse_case *c, const uint32_t *pairs, size_t stride,
                      const int32_t *n_pairs, size_t panel0, size_t panel1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    fn(pairs, stride, n_pairs, c->x_sum, c->m, c->w, c->k, panel0, panel1, c->n, c->row_scale, c->y, c->y_stride);
}

static void naive_pairs(const sparse_case *c, size_t panel0, size_t panel1)
{
    kc_poison(c->y, c->m * c->y_stride * sizeof *c->y);
    for (size_t row = 0; row < c->m; row++)
        for (size_t n = panel0 * 64; n < panel1 * 64 && n < c->n; n++)
            c->y[row * c->y_stride + n] = (float)(int32_t)dot(c, row, n) * c->row_scale[row];
}

static void compare_pairs(const kc_kernel *kernel, size_t m, size_t n, size_t k, int share, enum fill fill)
{
    sparse_case c;
    fill_case(&c, TRIT_LAYOUT_T2_COLS, m, n, k, share, fill);
    size_t panels = (n + 63) / 64, stride = (k + 1) / 2 + (size_t)kc_between(0, 3), first = 0;
    uint32_t *pairs = kc_buffer(m * stride * sizeof *pairs);
    int32_t *n_pairs = kc_buffer(m * sizeof *n_pairs);
    for (size_t row = 0; row < m; row++) {
        n_pairs[row] = 0;
        for (size_t p = 0; 2 * p < k; p++) {
            const int8_t *two = c.x + row * c.x_stride + 2 * p;
            if (two[0] != 0 || two[1] != 0 || kc_between(0, 9) == 0)
                pairs[row * stride + (size_t)n_pairs[row]++] =
                    (uint32_t)p << 16 | (uint32_t)(uint8_t)two[1] << 8 | (uint8_t)two[0];
        }
    }
    size_t panel0 = kc_between(0, 2) == 0 ? (size_t)kc_between(0, (int64_t)panels - 1) : 0;
    size_t panel1 = kc_between(0, 2) == 0 ? (size_t)kc_between((int64_t)panel0, (int64_t)panels) : panels;
    if (kernel->isa == TRIT_ISA_REF)
        naive_pairs(&c, panel0, panel1);
    else
        run_pairs(trit_down_pairs_i8t2_1x1__ref, &c, pairs, stride, n_pairs, panel0, panel1);
    float *expected = keep(&c);
    run_pairs((trit_down_pairs_fn *)kernel->fn, &c, pairs, stride, n_pairs, panel0, panel1);
    int same = kc_same_floats(expected, c.y, m * c.y_stride, &first);
    kc_expect(kernel, same,
              "M %zu N %zu K %zu panels %zu..%zu, %d %% of inputs, fill %d: y[%zu][%zu] is %.9g, expected %.9g", m, n,
              k, panel0, panel1, share, (int)fill, first / c.y_stride, first % c.y_stride, (double)c.y[first],
              (double)expected[first]);
    kc_expect(kernel, kc_release(), "M %zu N %zu K %zu: a canary was overwritten", m, n, k);
}

/* ---- cases ------------------------------------------------------------------------------------------------------ */

typedef void compare_fn(const kc_kernel *kernel, size_t m, size_t n, size_t k, int share, enum fill fill);

static void compare_one_row(const kc_kernel *kernel, size_t m, size_t n, size_t k, int share, enum fill fill)
{
    (void)m;
    compare_inputs(kernel, n, k, share, fill);
}

static void check_all(const kc_kernel *kernel, compare_fn *compare, size_t max_m)
{
    static const size_t ks[] = {1, 2, 3, 4, 63, 64, 65, 127, 129, 255, 256, 257, 700, 1024, 1100, 2560, 6912};
    static const size_t ns[] = {1, 15, 63, 64, 65, 127, 128, 129, 200, 320};
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            compare(kernel, (size_t)kc_between(1, (int64_t)max_m), ns[(size_t)kc_between(0, 9)], ks[i],
                    shares[kc_between(0, 3)], (enum fill)fill);
    for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
        for (size_t share = 0; share < 4; share++)
            compare(kernel, (size_t)kc_between(1, (int64_t)max_m), ns[i], (size_t)kc_between(1, 700), shares[share],
                    FILL_RANDOM);
    for (size_t m = 1; m <= max_m; m++)
        compare(kernel, m, (size_t)kc_between(1, 200), (size_t)kc_between(1, 600), 45, FILL_RANDOM);
    compare(kernel, 1, 4200, 300, 45, FILL_RANDOM); /* runs longer than a segment */
    compare(kernel, 6, 20, 131072, 100, FILL_PLUS); /* the widest input */
    for (size_t i = 0; i < kc_shapes(); i++)
        compare(kernel, kc_size(max_m), kc_size(400), kc_size(3000), (int)kc_between(0, 100),
                (enum fill)kc_between(0, FILL_COUNT - 1));
}

/* ---- bench: 2B4T's shapes at the shares of zeros of the demo model and of random weights ------------------------ */

typedef struct sparse_bench {
    kc_fn *fn;
    sparse_case c;
    int32_t layout;
    size_t copies, bytes; /* copies of the tensor, so that none stays in the cache */
    const uint8_t *w;
    const int32_t *inputs;
    size_t count;
    const uint32_t *pairs;
    const int32_t *n_pairs;
    int32_t *acc; /* (8, n) */
} sparse_bench;

static void up_part(void *context, int part, int n_parts)
{
    const sparse_bench *b = context;
    const sparse_case *c = &b->c;
    size_t from = c->n * (size_t)part / (size_t)n_parts / 64 * 64,
           to = c->n * ((size_t)part + 1) / (size_t)n_parts / 64 * 64;
    for (size_t i = 0; i < b->copies; i++)
        ((trit_up_rows_fn *)b->fn)(c->x, c->x_stride, c->x_sum, c->m, b->w + i * b->bytes, c->k / 4, from, to,
                                   c->row_scale, c->gate, c->y, c->y_stride);
}

static void inputs_part(void *context, int part, int n_parts)
{
    const sparse_bench *b = context;
    size_t from = b->count * (size_t)part / (size_t)n_parts, to = b->count * ((size_t)part + 1) / (size_t)n_parts;
    for (size_t i = 0; i < b->copies; i++)
        ((trit_down_inputs_fn *)b->fn)(b->c.x, b->inputs + from, to - from, 0, b->w + i * b->bytes, b->c.n / 4,
                                       b->acc + (size_t)part * b->c.n);
}

static void pairs_part(void *context, int part, int n_parts)
{
    const sparse_bench *b = context;
    const sparse_case *c = &b->c;
    size_t panels = c->n / 64, from = panels * (size_t)part / (size_t)n_parts,
           to = panels * ((size_t)part + 1) / (size_t)n_parts;
    for (size_t i = 0; i < b->copies; i++)
        ((trit_down_pairs_fn *)b->fn)(b->pairs, c->k / 2, b->n_pairs, c->x_sum, c->m, b->w + i * b->bytes, c->k, from,
                                      to, c->n, c->row_scale, c->y, c->y_stride);
}

static void bench_shape(const kc_kernel *kernel, kc_work *work, int32_t layout, size_t m, int share, size_t total,
                        int threads)
{
    sparse_bench b = {.fn = kernel->fn, .layout = layout};
    size_t n = layout == TRIT_LAYOUT_T2_ROWS ? 6912 : 2560, k = layout == TRIT_LAYOUT_T2_ROWS ? 2560 : 6912;
    fill_case(&b.c, layout, m, n, k, share, FILL_RANDOM);
    b.bytes = n * k / 4;
    b.copies = total / b.bytes > 0 ? total / b.bytes : 1;
    uint8_t *w = kc_buffer(b.bytes * b.copies);
    for (size_t i = 0; i < b.copies; i++)
        memcpy(w + i * b.bytes, b.c.w, b.bytes);
    b.w = w;
    int32_t *inputs = kc_buffer(k * 4), *n_pairs = kc_buffer(m * 4);
    uint32_t *pairs = kc_buffer(m * k / 2 * 4);
    for (size_t i = 0; i < k; i++)
        if (b.c.x[i] != 0)
            inputs[b.count++] = (int32_t)i;
    for (size_t row = 0; row < m; row++)
        for (size_t p = 0; p < k / 2; p++) {
            const int8_t *two = b.c.x + row * b.c.x_stride + 2 * p;
            if (two[0] || two[1])
                pairs[row * k / 2 + (size_t)n_pairs[row]++] =
                    (uint32_t)p << 16 | (uint32_t)(uint8_t)two[1] << 8 | (uint8_t)two[0];
        }
    b.inputs = inputs, b.pairs = pairs, b.n_pairs = n_pairs, b.acc = kc_buffer(8 * n * 4);
    memset(b.acc, 0, 8 * n * 4);
    char what[80];
    snprintf(what, sizeof what, "M %zu N %zu K %zu, %d %% needed%s", m, n, k, share,
             b.copies > 1 ? "" : ", one tensor");
    double read = m == 1 ? (double)b.bytes * share / 100 : (double)b.bytes;
    kc_bench(kernel, what,
             &(kc_load){work, &b, threads, (double)b.copies, read, b.copies > 1,
                        2.0 * (double)m * (double)n * (double)k * share / 100});
    kc_release();
}

static void bench_all(const kc_kernel *kernel, kc_work *work, int32_t layout, int few)
{
    static const int up_shares[] = {100, 50, 45, 22}, down_shares[] = {100, 33, 21, 12};
    size_t total = kernel->isa == TRIT_ISA_REF ? 1 : (size_t)200 << 20;
    for (size_t i = 0; i < 4; i++) {
        int share = layout == TRIT_LAYOUT_T2_ROWS ? up_shares[i] : down_shares[i];
        for (int threads = 1; few && threads <= 2; threads++)
            bench_shape(kernel, work, layout, 1, share, total, threads);
        static const size_t ms[] = {8, 16, 128};
        for (size_t j = 0; j < 3 && work != inputs_part && kernel->isa != TRIT_ISA_REF; j++)
            bench_shape(kernel, work, layout, ms[j], share, 1, 1);
    }
}

void check_up_rows(const kc_kernel *kernel, int bench)
{
    if (bench) {
        bench_all(kernel, up_part, TRIT_LAYOUT_T2_ROWS, 1);
        return;
    }
    check_all(kernel, compare_up, 20);
    compare_up(kernel, 64, 130, 600, 45, FILL_RANDOM);
    compare_up(kernel, 150, 70, 1300, 12, FILL_RANDOM);
    compare_up(kernel, 130, 64, 300, 100, FILL_MIXED_SIGN);
}

void check_down_inputs(const kc_kernel *kernel, int bench)
{
    if (bench)
        bench_all(kernel, inputs_part, TRIT_LAYOUT_T2_COLS, 1);
    else
        check_all(kernel, compare_one_row, 8);
}

void check_down_pairs(const kc_kernel *kernel, int bench)
{
    if (bench) {
        bench_all(kernel, pairs_part, TRIT_LAYOUT_T2_COLS, 0);
        return;
    }
    check_all(kernel, compare_pairs, 20);
    compare_pairs(kernel, 64, 130, 600, 45, FILL_RANDOM);
    compare_pairs(kernel, 150, 190, 1300, 12, FILL_RANDOM);
    compare_pairs(kernel, 130, 64, 300, 100, FILL_MIXED_SIGN);
}
