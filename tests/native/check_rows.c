/*
 * check_rows.c - the row operations of an instruction set against the baseline build, bit for bit, and the baseline build against a
 * second reading of docs/numerics.md written here: one element at a time, rounding by lrintf, libm for the tolerances.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kerncheck.h"

enum { LANES = 32 };

enum fill { FILL_NORMAL, FILL_ZERO, FILL_TINY, FILL_HUGE, FILL_DENORMAL, FILL_TIES, FILL_NAN, FILL_INF, FILL_COUNT };

static const char *const fill_names[] = {"normal", "zero", "tiny", "huge", "denormal", "ties", "a NaN", "an infinity"};

/* n floats at an odd address in units of floats, ending flush against the guard page where n is right for it. */
static float *row(size_t n, enum fill fill)
{
    size_t lead = 16 - (n % 16 ? n % 16 : 16);
    float *v = (float *)kc_buffer((n + lead) * sizeof *v) + lead;
    for (size_t i = 0; i < n; i++)
        switch (fill) {
        case FILL_ZERO: v[i] = kc_random() & 1 ? 0.0f : -0.0f; break;
        case FILL_TINY: v[i] = kc_normal(1e-20f); break;
        case FILL_HUGE: v[i] = kc_normal(5e37f); break;
        case FILL_DENORMAL: v[i] = ldexpf((float)kc_between(-1000, 1000), -140); break;
        case FILL_TIES: v[i] = (float)kc_between(-254, 254) * 0.5f; break;
        default: v[i] = kc_normal(fill == FILL_NORMAL && i % 97 == 5 ? 40.0f : 1.0f); break;
        }
    if (fill == FILL_TIES)
        v[0] = 127.0f;
    if (fill == FILL_NAN || fill == FILL_INF)
        v[(size_t)kc_between(0, (int64_t)n - 1)] = fill == FILL_NAN ? NAN : kc_random() & 1 ? INFINITY : -INFINITY;
    return v;
}

static float *copy(const float *from, size_t n)
{
    float *v = kc_buffer(n * sizeof *v);
    memcpy(v, from, n * sizeof *v);
    return v;
}

static void *poisoned(size_t bytes)
{
    void *buffer = kc_buffer(bytes);
    kc_poison(buffer, bytes);
    return buffer;
}

static int same_float(float a, float b)
{
    size_t first;
    return kc_same_floats(&a, &b, 1, &first);
}

/* Two outputs of every op, expected and got. */
#define SAME_FLOATS(kernel, op, n, fill, expected, got)                                                           \
    do {                                                                                                          \
        size_t first_ = 0;                                                                                        \
        int same_ = kc_same_floats(expected, got, n, &first_);                                                    \
        kc_expect(kernel, same_, "%s n %zu, %s: [%zu] is %.9g, expected %.9g", op, (size_t)(n), fill_names[fill], \
                  first_, (double)(got)[first_], (double)(expected)[first_]);                                     \
    } while (0)

static void compare_elementwise(const kc_kernel *kernel, size_t n, enum fill fill)
{
    const trit_row_ops *ref = &trit_rows__ref, *ops = kernel->rows;
    float *x = row(n, fill), *y = row(n, FILL_NORMAL);
    float *a = poisoned(n * 4), *b = poisoned(n * 4);

    ref->rmsnorm(x, y, n, 1e-5f, a);
    ops->rmsnorm(x, y, n, 1e-5f, b);
    SAME_FLOATS(kernel, "rmsnorm", n, fill, a, b);
    memcpy(b, x, n * 4);
    ops->rmsnorm(b, y, n, 1e-5f, b);
    SAME_FLOATS(kernel, "rmsnorm in place", n, fill, a, b);

    ref->relu2_mul(x, y, n, a);
    ops->relu2_mul(x, y, n, b);
    SAME_FLOATS(kernel, "relu2_mul", n, fill, a, b);
    memcpy(b, x, n * 4);
    ops->relu2_mul(b, y, n, b);
    SAME_FLOATS(kernel, "relu2_mul onto g", n, fill, a, b);

    ref->silu_mul(x, y, n, a);
    ops->silu_mul(x, y, n, b);
    SAME_FLOATS(kernel, "silu_mul", n, fill, a, b);

    float *c = copy(x, n), *d = copy(x, n);
    ref->add(c, y, n);
    ops->add(d, y, n);
    SAME_FLOATS(kernel, "add", n, fill, c, d);

    ref->scale(c, 0.37f, n, a);
    ops->scale(d, 0.37f, n, b);
    SAME_FLOATS(kernel, "scale", n, fill, a, b);
    ops->scale(d, 0.37f, n, d);
    SAME_FLOATS(kernel, "scale in place", n, fill, a, d);

    float lse_a = 7.0f, lse_b = 7.0f;
    int finite_a = ref->log_sum_exp(x, n, &lse_a), finite_b = ops->log_sum_exp(x, n, &lse_b);
    kc_expect(kernel, finite_a == finite_b && same_float(lse_a, lse_b),
              "log_sum_exp n %zu, %s: %d %.9g, expected %d %.9g", n, fill_names[fill], finite_b, (double)lse_b,
              finite_a, (double)lse_a);
    kc_expect(kernel, finite_a == (fill != FILL_NAN && fill != FILL_INF), "log_sum_exp n %zu, %s: finite is %d", n,
              fill_names[fill], finite_a);

    if (n % 2 == 0) {
        float *cosine = row(n / 2, FILL_NORMAL), *sine = row(n / 2, FILL_NORMAL);
        ref->rope(x, n, cosine, sine, a);
        ops->rope(x, n, cosine, sine, b);
        SAME_FLOATS(kernel, "rope", n, fill, a, b);
    }
    kc_expect(kernel, kc_release(), "elementwise n %zu: a canary was overwritten", n);
}

static void compare_quantised(const kc_kernel *kernel, size_t n, enum fill fill)
{
    const trit_row_ops *ref = &trit_rows__ref, *ops = kernel->rows;
    size_t padded = (n + 63) / 64 * 64;
    float *x = row(n, fill);
    int8_t *a = poisoned(padded), *b = poisoned(padded), *c = poisoned(padded), *d = poisoned(padded);
    int32_t sum_a, sum_b, zeros_a, zeros_b, naive_sum = 0, naive_zeros = 0;

    float scale_a = ref->quant_i8(x, n, padded, a, &sum_a, &zeros_a);
    float scale_b = ops->quant_i8(x, n, padded, b, &sum_b, &zeros_b);
    kc_expect(kernel,
              kc_same_bytes(a, b, padded) && same_float(scale_a, scale_b) && sum_a == sum_b && zeros_a == zeros_b,
              "quant_i8 n %zu, %s: scale %.9g sum %d zeros %d, expected %.9g %d %d", n, fill_names[fill],
              (double)scale_b, sum_b, zeros_b, (double)scale_a, sum_a, zeros_a);
    for (size_t i = 0; i < n; i++) {
        naive_sum += b[i];
        naive_zeros += b[i] == 0;
    }
    kc_expect(kernel, naive_sum == sum_b && naive_zeros == zeros_b, "quant_i8 n %zu, %s: sum and zeros", n,
              fill_names[fill]);
    if (fill == FILL_NAN || fill == FILL_INF)
        kc_expect(kernel, !(scale_b < INFINITY), "quant_i8 n %zu, %s: the scale hides it", n, fill_names[fill]);

    scale_a = ref->quant_head(x, n, padded, a, c);
    scale_b = ops->quant_head(x, n, padded, b, d);
    kc_expect(kernel, kc_same_bytes(a, b, padded) && kc_same_bytes(c, d, padded) && same_float(scale_a, scale_b),
              "quant_head n %zu, %s: scale %.9g, expected %.9g", n, fill_names[fill], (double)scale_b, (double)scale_a);

    int16_t *p = poisoned(n * 2), *q = poisoned(n * 2);
    scale_a = ref->quant_l2(x, n, p);
    scale_b = ops->quant_l2(x, n, q);
    kc_expect(kernel, kc_same_bytes(p, q, n * 2) && same_float(scale_a, scale_b),
              "quant_l2 n %zu, %s: scale %.9g, expected %.9g", n, fill_names[fill], (double)scale_b, (double)scale_a);
    scale_a = ref->quant_v(x, n, p);
    scale_b = ops->quant_v(x, n, q);
    kc_expect(kernel, kc_same_bytes(p, q, n * 2) && same_float(scale_a, scale_b),
              "quant_v n %zu, %s: scale %.9g, expected %.9g", n, fill_names[fill], (double)scale_b, (double)scale_a);
    scale_a = ref->quant_kv8(x, n, a);
    scale_b = ops->quant_kv8(x, n, b);
    kc_expect(kernel, kc_same_bytes(a, b, n) && same_float(scale_a, scale_b),
              "quant_kv8 n %zu, %s: scale %.9g, expected %.9g", n, fill_names[fill], (double)scale_b, (double)scale_a);
    if ((n & (n - 1)) == 0) {
        float *r = copy(x, n), *h = copy(x, n);
        ref->hadamard(r, n);
        ops->hadamard(h, n);
        SAME_FLOATS(kernel, "hadamard", n, fill, r, h);
    }
    kc_expect(kernel, kc_release(), "quantised n %zu: a canary was overwritten", n);
}

/* n_q queries over four chunks, merged; the reference takes one query at a time: how many are given at once must not matter. */
static void compare_chunks(const kc_kernel *kernel, size_t head_dim, size_t n_q, enum fill fill)
{
    const trit_row_ops *ref = &trit_rows__ref, *ops = kernel->rows;
    size_t stride = (head_dim + 15) / 16 * 16;
    float *o_a = row(n_q * stride, FILL_NORMAL), *o_b = copy(o_a, n_q * stride);
    float *state = poisoned(4 * n_q * 4), *m_a = state, *m_b = m_a + n_q, *l_a = m_b + n_q, *l_b = l_a + n_q;
    for (int chunk = 0; chunk < 4; chunk++) {
        int32_t *dots = kc_buffer(n_q * 64 * 4), *acc = kc_buffer(n_q * stride * 4), *n_valid = kc_buffer(n_q * 4);
        float *k_scale = row(64, fill), *v_scale = row(64, fill), *q_mul = row(n_q, FILL_NORMAL);
        int16_t *p = poisoned(n_q * 64 * 2), *q = poisoned(n_q * 64 * 2);
        float *a = poisoned(3 * n_q * 4), *b = poisoned(3 * n_q * 4); /* m_c, l_c, w_scale */
        int32_t most = chunk == 0 ? 64 : (int32_t)kc_between(1, 64);
        for (size_t t = 0; t < 64; t++) {
            k_scale[t] = t < (size_t)most ? fabsf(k_scale[t]) * 1e-8f : NAN;
            v_scale[t] = t < (size_t)most ? fabsf(v_scale[t]) * 1e-5f : NAN;
        }
        for (size_t i = 0; i < n_q * 64; i++)
            dots[i] = (int32_t)kc_between(-1100000000, 1100000000);
        for (size_t i = 0; i < n_q * stride; i++)
            acc[i] = (int32_t)kc_between(-1000000000, 1000000000);
        for (size_t i = 0; i < n_q; i++)
            n_valid[i] = chunk == 0 ? 64 : (int32_t)kc_between(1, most);
        ops->chunk_softmax(dots, k_scale, v_scale, n_q, n_valid, q_mul, q, b, b + n_q, b + 2 * n_q);
        ops->chunk_merge(acc, stride, n_q, head_dim, b + 2 * n_q, b, b + n_q, chunk == 0, m_b, l_b, o_b);
        for (size_t i = 0; i < n_q; i++) {
            float *m1 = &a[i], *l1 = &a[n_q + i], *w1 = &a[2 * n_q + i];
            ref->chunk_softmax(dots + i * 64, k_scale, v_scale, 1, n_valid + i, q_mul + i, p + i * 64, m1, l1, w1);
            ref->chunk_merge(acc + i * stride, stride, 1, head_dim, w1, m1, l1, chunk == 0, &m_a[i], &l_a[i],
                             o_a + i * stride);
            int64_t total = 0;
            int past = 0;
            for (size_t t = 0; t < 64; t++) {
                total += q[i * 64 + t];
                past |= (t >= (size_t)n_valid[i] && q[i * 64 + t] != 0) || q[i * 64 + t] < 0;
            }
            kc_expect(kernel, total <= 32704 + 32 && !past, "chunk_softmax %d valid, %s: the sum is %lld", n_valid[i],
                      fill_names[fill], (long long)total);
        }
        kc_expect(kernel, kc_same_bytes(p, q, n_q * 128), "chunk_softmax of %zu queries, %s: probabilities", n_q,
                  fill_names[fill]);
        SAME_FLOATS(kernel, "chunk_softmax", 3 * n_q, fill, a, b);
        SAME_FLOATS(kernel, "chunk_merge", n_q * stride, fill, o_a, o_b);
        SAME_FLOATS(kernel, "chunk_merge m", n_q, fill, m_a, m_b);
        SAME_FLOATS(kernel, "chunk_merge l", n_q, fill, l_a, l_b);
    }
    kc_expect(kernel, kc_release(), "chunks head_dim %zu: a canary was overwritten", head_dim);
}

/* exp1 and log1 over their range: against the baseline, and against libm in double. */
static void compare_functions(const kc_kernel *kernel)
{
    const trit_row_ops *ref = &trit_rows__ref, *ops = kernel->rows;
    float specials[] = {0.0f,   -0.0f,    88.0f,     88.1f, 1e30f, -87.0f, -87.0001f,
                        -1e30f, INFINITY, -INFINITY, NAN,   1.0f,  1e-38f, 2e-38f};
    for (size_t i = 0; i < sizeof specials / sizeof specials[0]; i++)
        kc_expect(kernel,
                  same_float(ref->exp1(specials[i]), ops->exp1(specials[i])) &&
                      same_float(ref->log1(specials[i]), ops->log1(specials[i])),
                  "exp1 and log1 of %g", (double)specials[i]);
    unsigned differ = 0;
    double worst_exp = 0, worst_log = 0;
    for (int i = 0; i < 200000; i++) {
        float x = (float)kc_between(-87000000, 88000000) * 1e-6f;
        float y = ops->exp1(x);
        differ += !same_float(ref->exp1(x), y);
        worst_exp = fmax(worst_exp, fabs((double)y / exp((double)x) - 1));
        float u = ldexpf((float)kc_between(1 << 23, (1 << 24) - 1), (int)kc_between(-149, 104));
        float v = ops->log1(u);
        differ += !same_float(ref->log1(u), v);
        worst_log = fmax(worst_log, fabs((double)v - log((double)u)) / fmax(fabs(log((double)u)), 0.1));
    }
    kc_expect(kernel, differ == 0, "exp1 and log1 differ from the baseline at %u places", differ);
    kc_expect(kernel, worst_exp < 3e-7 && worst_log < 3e-7, "exp1 is off by %.3g, log1 by %.3g, from libm", worst_exp,
              worst_log);
    kc_expect(kernel, ops->exp1(0.0f) == 1.0f && ops->log1(1.0f) == 0.0f && ops->exp1(-88.0f) == 0.0f, "exact values");
}

/* ---- the second reading ----------------------------------------------------------------------------------------- */

static float naive_fold(float s[LANES])
{
    for (size_t w = 16; w >= 1; w /= 2)
        for (size_t j = 0; j < w; j++)
            s[j] += s[j + w];
    return s[0];
}

static float naive_dot(const float *a, const float *b, size_t n)
{
    float s[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        s[i % LANES] = fmaf(a[i], b[i], s[i % LANES]);
    return naive_fold(s);
}

static int clamped(long value, long limit)
{
    return (int)(value > limit ? limit : value < -limit ? -limit : value);
}

static void check_second_reading(const kc_kernel *kernel, size_t n)
{
    const trit_row_ops *ops = kernel->rows;
    float *x = row(n, FILL_NORMAL), *w = row(n, FILL_NORMAL), *y = poisoned(n * 4), *expected = poisoned(n * 4);
    float inv = 1.0f / sqrtf(naive_dot(x, x, n) / (float)n + 1e-6f);
    float largest = 0;
    for (size_t i = 0; i < n; i++) {
        expected[i] = (x[i] * inv) * w[i];
        largest = fmaxf(largest, fabsf(x[i]));
    }
    ops->rmsnorm(x, w, n, 1e-6f, y);
    SAME_FLOATS(kernel, "second reading, rmsnorm", n, FILL_NORMAL, expected, y);

    int8_t *q = poisoned(n), *lo = poisoned(n);
    int16_t *p = poisoned(n * 2);
    int32_t sum, zeros;
    unsigned wrong = 0;
    float scale = ops->quant_i8(x, n, n, q, &sum, &zeros);
    for (size_t i = 0; i < n; i++)
        wrong += q[i] != clamped(lrintf(x[i] * (127.0f / largest)), 127);
    kc_expect(kernel, wrong == 0 && scale == largest / 127.0f, "second reading, quant_i8 n %zu: %u differ", n, wrong);
    scale = ops->quant_head(x, n, n, q, lo);
    for (size_t i = 0; i < n; i++)
        wrong += 256 * q[i] + lo[i] != lrintf(x[i] * (32512.0f / largest));
    kc_expect(kernel, wrong == 0 && scale == largest / 32512.0f, "second reading, quant_head n %zu: %u differ", n,
              wrong);
    float norm = sqrtf(naive_dot(x, x, n));
    scale = ops->quant_l2(x, n, p);
    int64_t squares = 0;
    for (size_t i = 0; i < n; i++) {
        wrong += p[i] != lrintf(x[i] * (32000.0f / norm));
        squares += (int64_t)p[i] * p[i];
    }
    kc_expect(kernel, wrong == 0 && scale == norm / 32000.0f, "second reading, quant_l2 n %zu: %u differ", n, wrong);
    if (n <= 256)
        kc_expect(kernel, squares < INT32_MAX, "quant_l2 n %zu: the squares sum to %lld", n, (long long)squares);
    scale = ops->quant_v(x, n, p);
    for (size_t i = 0; i < n; i++)
        wrong += p[i] != clamped(lrintf(x[i] * (32767.0f / largest)), 32767);
    kc_expect(kernel, wrong == 0 && scale == largest / 32767.0f, "second reading, quant_v n %zu: %u differ", n, wrong);

    scale = ops->quant_kv8(x, n, q);
    for (size_t i = 0; i < n; i++)
        wrong += q[i] != clamped(lrintf(x[i] * (127.0f / largest)), 127);
    kc_expect(kernel, wrong == 0 && scale == largest / 127.0f, "second reading, quant_kv8 n %zu: %u differ", n, wrong);
    if (n <= 256 &&
        (n & (n - 1)) == 0) { /* from small integers all sums are exact, so that the matrix itself says the result */
        float *h = poisoned(n * 4);
        int32_t *from = kc_buffer(n * 4);
        for (size_t i = 0; i < n; i++)
            h[i] = (float)(from[i] = (int32_t)kc_between(-1000, 1000));
        ops->hadamard(h, n);
        for (size_t i = 0; i < n; i++) {
            int32_t sum_i = 0;
            for (size_t j = 0; j < n; j++)
                sum_i += __builtin_parityll(i & j) ? -from[j] : from[j];
            wrong += h[i] != (float)sum_i;
        }
        kc_expect(kernel, wrong == 0, "second reading, hadamard n %zu: %u differ", n, wrong);
    }

    float s[LANES] = {0}, m = -INFINITY, lse = 0;
    for (size_t i = 0; i < n; i++)
        m = fmaxf(m, x[i]);
    for (size_t i = 0; i < n; i++)
        s[i % LANES] += ops->exp1(x[i] - m);
    float folded = naive_fold(s);
    kc_expect(kernel, ops->log_sum_exp(x, n, &lse) && lse == m + ops->log1(folded), "second reading, log_sum_exp n %zu",
              n);

    size_t h = n / 2;
    float *r = poisoned(n * 4);
    ops->rope(x, 2 * h, w, w + h, r);
    for (size_t i = 0; i < h; i++)
        wrong += r[i] != fmaf(x[i], w[i], -(x[i + h] * w[h + i])) || r[i + h] != fmaf(x[i + h], w[i], x[i] * w[h + i]);
    kc_expect(kernel, wrong == 0, "second reading, rope n %zu: %u differ", n, wrong);
    kc_expect(kernel, kc_release(), "second reading n %zu: a canary was overwritten", n);
}

static void check_second_reading_of_chunk(const kc_kernel *kernel, size_t n_valid)
{
    const trit_row_ops *ops = kernel->rows;
    int32_t dots[64];
    float k_scale[64], v_scale[64], e[64] = {0}, w[64] = {0}, s[LANES] = {0}, t[LANES] = {0};
    int16_t a[64];
    float m = -INFINITY, m_c, l_c, w_scale;
    for (size_t i = 0; i < 64; i++) {
        dots[i] = (int32_t)kc_between(-900000000, 900000000);
        k_scale[i] = 1e-5f * (float)kc_between(1, 50);
        v_scale[i] = 1e-5f * (float)kc_between(1, 50);
    }
    float q_mul = 3e-5f;
    for (size_t i = 0; i < n_valid; i++)
        m = fmaxf(m, (float)dots[i] * (k_scale[i] * q_mul));
    for (size_t i = 0; i < n_valid; i++) {
        e[i] = ops->exp1((float)dots[i] * (k_scale[i] * q_mul) - m);
        w[i] = e[i] * v_scale[i];
    }
    for (size_t i = 0; i < 64; i++) {
        s[i % LANES] += e[i];
        t[i % LANES] += w[i];
    }
    float total = fmaxf(naive_fold(t), 1e-30f);
    int32_t valid = (int32_t)n_valid;
    ops->chunk_softmax(dots, k_scale, v_scale, 1, &valid, &q_mul, a, &m_c, &l_c, &w_scale);
    unsigned wrong = 0;
    for (size_t i = 0; i < 64; i++)
        wrong += a[i] != lrintf(w[i] * (32704.0f / total));
    kc_expect(kernel, wrong == 0 && m_c == m && l_c == naive_fold(s) && w_scale == total / 32704.0f,
              "second reading, chunk_softmax of %zu: %u differ", n_valid, wrong);
}

/* ---- bench ------------------------------------------------------------------------------------------------------ */

typedef struct rows_bench {
    const trit_row_ops *ops;
    float *x, *w, *y;
    int8_t *q;
    size_t n;
    int which;
} rows_bench;

static void bench_part(void *context, int part, int n_parts)
{
    rows_bench *b = context;
    int32_t sum, zeros;
    float lse;
    (void)part;
    (void)n_parts;
    for (int i = 0; i < 100; i++)
        switch (b->which) {
        case 0: b->ops->rmsnorm(b->x, b->w, b->n, 1e-5f, b->y); break;
        case 1: b->ops->quant_i8(b->x, b->n, b->n, b->q, &sum, &zeros); break;
        case 2: b->ops->relu2_mul(b->x, b->w, b->n, b->y); break;
        case 3: b->ops->log_sum_exp(b->x, b->n, &lse); break;
        default: b->ops->silu_mul(b->x, b->w, b->n, b->y); break;
        }
}

static void bench_rows(const kc_kernel *kernel)
{
    static const char *const names[] = {"rmsnorm 6912", "quant_i8 6912", "relu2_mul 6912", "log_sum_exp 6912",
                                        "silu_mul 6912"};
    size_t n = 6912;
    rows_bench b = {kernel->rows, row(n, FILL_NORMAL), row(n, FILL_NORMAL), poisoned(n * 4), poisoned(n), n, 0};
    for (b.which = 0; b.which < 5; b.which++)
        kc_bench(kernel, names[b.which], &(kc_load){bench_part, &b, 1, 100, (double)n * 4, 0, 0});
    kc_release();
}

void check_rows(const kc_kernel *kernel, int bench)
{
    if (bench) {
        bench_rows(kernel);
        return;
    }
    static const size_t ns[] = {1,  2,  3,  7,  8,   15,  16,  17,  31,  32,   33,
                                63, 64, 65, 96, 100, 127, 128, 129, 640, 2560, 6912};
    for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            compare_elementwise(kernel, ns[i], (enum fill)fill);
            compare_quantised(kernel, ns[i], (enum fill)fill);
        }
    for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
        check_second_reading(kernel, ns[i]);
    for (size_t n_valid = 1; n_valid <= 64; n_valid++)
        check_second_reading_of_chunk(kernel, n_valid);
    for (size_t d = 2; d <= 256; d += 14)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            compare_chunks(kernel, d, 1 + d % 19 * 2, (enum fill)fill);
    compare_functions(kernel);
}
