/*
 * rows.c - the float work of one row, in the written order of docs/numerics.md.
 *
 * One source, compiled once per instruction set with TRIT_ROWS naming the table; the baseline build is the reference. Equal bits
 * come from three things: the order is written out (32 lanes, fixed fold), every multiply-add that rounds once says fmaf, and the
 * flags forbid the compiler to do otherwise. The loops run over fixed lane counts so that gcc and clang vectorise them.
 *
 * NaN and infinity never reach a float to integer conversion. They are not hidden either: absmax of a row with a NaN is NaN, so
 * the row's scale is NaN and so are the logits it leads to, which the sampler answers with TRIT_TOKEN_NONFINITE.
 */
#include <math.h>
#include <string.h>

#include "ops.h"

#ifndef TRIT_ROWS
#error "define TRIT_ROWS as the name of the table, e.g. trit_rows__avx2"
#endif

extern const trit_row_ops TRIT_ROWS;

enum { LANES = 32 };

/* ---- primitives ------------------------------------------------------------------------------------------------- */

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Half to even for |x| <= 2^22: the sum has no bits left for a fraction. Vectorises without SSE4.1, unlike rintf. */
static inline float rint_small(float x)
{
    const float shifter = 12582912.0f; /* 1.5 * 2^23 */
    return (x + shifter) - shifter;
}

/* rint(x) clamped to +-limit, limit < 2^22; 0 for NaN. */
static inline int32_t round_clamped(float x, float limit)
{
    x = x == x ? x : 0.0f;
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    return (int32_t)rint_small(x);
}

/* The larger; a NaN in x stays. */
static inline float at_least(float x, float floor)
{
    return x < floor ? floor : x;
}

/* As integers, magnitudes order like floats, with infinity and NaN on top: exact in any order, and no NaN is lost. */
static float absmax(const float *x, size_t n)
{
    int32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t magnitude = (int32_t)(bits_of(x[i]) & 0x7fffffffu);
        largest = magnitude > largest ? magnitude : largest;
    }
    return float_of((uint32_t)largest);
}

static inline float fold(float s[LANES])
{
    for (size_t w = LANES / 2; w > 0; w /= 2)
        for (size_t j = 0; j < w; j++)
            s[j] = s[j] + s[j + w];
    return s[0];
}

static float lane_dot(const float *a, const float *b, size_t n)
{
    float s[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            s[j] = fmaf(a[i + j], b[i + j], s[j]);
    for (size_t j = 0; i + j < n; j++)
        s[j] = fmaf(a[i + j], b[i + j], s[j]);
    return fold(s);
}

/* lane_sum of exactly one chunk, 64 values. */
static inline float lane_sum_chunk(const float v[TRIT_CHUNK_TOKENS])
{
    float s[LANES];
    for (size_t j = 0; j < LANES; j++)
        s[j] = (0.0f + v[j]) + v[j + LANES];
    return fold(s);
}

/* Cephes expf with fma. NaN gives NaN. */
static inline float exp_lane(float x)
{
    const float shifter = 12582912.0f;
    float c = x > 88.0f ? 88.0f : x;
    c = c < -87.0f ? -87.0f : c;
    float shifted = c * 1.44269504f + shifter;
    float n = shifted - shifter;
    float r = fmaf(n, -0.693359375f, c);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    float y = fmaf(p, r * r, r) + 1.0f;
    /* n sits in the low mantissa bits of `shifted`; the shift drops all above the exponent field */
    float scaled = float_of(bits_of(y) + (bits_of(shifted) << 23));
    scaled = x < -87.0f ? 0.0f : scaled;
    return x == x ? scaled : x;
}

static float exp1(float x)
{
    return exp_lane(x);
}

/* Cephes logf with fma. Below the smallest normal number (0 and negative ones too) counts as that; infinity and NaN stay. */
static float log1(float x)
{
    if (!(x < INFINITY))
        return x;
    uint32_t bits = x < 1.17549435e-38f ? 0x00800000u : bits_of(x);
    int32_t e = (int32_t)(bits >> 23) - 126;
    float m = float_of((bits & 0x007fffffu) | 0x3f000000u); /* [0.5, 1) */
    if (m < 0.70710678118654752440f) {
        m = m + m;
        e -= 1;
    }
    float f = m - 1.0f;
    float z = f * f;
    float p = 7.0376836292e-2f;
    p = fmaf(p, f, -1.1514610310e-1f);
    p = fmaf(p, f, 1.1676998740e-1f);
    p = fmaf(p, f, -1.2420140846e-1f);
    p = fmaf(p, f, 1.4249322787e-1f);
    p = fmaf(p, f, -1.6668057665e-1f);
    p = fmaf(p, f, 2.0000714765e-1f);
    p = fmaf(p, f, -2.4999993993e-1f);
    p = fmaf(p, f, 3.3333331174e-1f);
    float y = (p * f) * z;
    y = fmaf((float)e, -2.12194440e-4f, y);
    y = fmaf(-0.5f, z, y);
    return fmaf((float)e, 0.693359375f, f + y);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

static void rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    float inv = 1.0f / sqrtf(lane_dot(x, x, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] * inv) * w[i];
}

static float quant_i8(const float *restrict y, size_t n, size_t n_padded, int8_t *restrict q, int32_t *restrict sum,
                      int32_t *restrict zeros)
{
    float a = at_least(absmax(y, n), 1e-5f);
    float s = 127.0f / a;
    for (size_t i = 0; i < n; i++)
        q[i] = (int8_t)round_clamped(y[i] * s, 127.0f);
    int32_t total = 0, n_zero = 0;
    for (size_t i = 0; i < n; i++) {
        total += q[i];
        n_zero += q[i] == 0;
    }
    if (n_padded > n)
        memset(q + n, 0, n_padded - n);
    *sum = total;
    *zeros = n_zero;
    return a / 127.0f;
}

static float quant_head(const float *restrict y, size_t n, size_t n_padded, int8_t *restrict hi, int8_t *restrict lo)
{
    float a = at_least(absmax(y, n), 1e-30f);
    float s = 32512.0f / a;
    for (size_t i = 0; i < n; i++) {
        int32_t q = round_clamped(y[i] * s, 32512.0f);
        int32_t low = ((q + 128) & 255) - 128; /* balanced: q = 256 * high + low */
        lo[i] = (int8_t)low;
        hi[i] = (int8_t)((q - low) / 256);
    }
    if (n_padded > n) {
        memset(hi + n, 0, n_padded - n);
        memset(lo + n, 0, n_padded - n);
    }
    return a / 32512.0f;
}

static float quant_l2(const float *restrict v, size_t n, int16_t *restrict q)
{
    float norm = at_least(sqrtf(lane_dot(v, v, n)), 1e-20f);
    float s = 32000.0f / norm;
    /* The clamp only matters for values whose squares all underflow: the norm is then the floor, not theirs. */
    for (size_t i = 0; i < n; i++)
        q[i] = (int16_t)round_clamped(v[i] * s, 32767.0f);
    return norm / 32000.0f;
}

static float quant_v(const float *restrict v, size_t n, int16_t *restrict q)
{
    float a = at_least(absmax(v, n), 1e-20f);
    float s = 32767.0f / a;
    for (size_t i = 0; i < n; i++)
        q[i] = (int16_t)round_clamped(v[i] * s, 32767.0f);
    return a / 32767.0f;
}

static float quant_kv8(const float *restrict v, size_t n, int8_t *restrict q)
{
    float a = at_least(absmax(v, n), 1e-20f);
    float s = 127.0f / a;
    for (size_t i = 0; i < n; i++)
        q[i] = (int8_t)round_clamped(v[i] * s, 127.0f);
    return a / 127.0f;
}

static void hadamard(float *x, size_t n)
{
    for (size_t half = 1; half < n; half *= 2)
        for (size_t i = 0; i < n; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                float first = x[j], second = x[j + half];
                x[j] = first + second;
                x[j + half] = first - second;
            }
}

static void rope(const float *restrict x, size_t head_dim, const float *restrict cos_row, const float *restrict sin_row,
                 float *restrict out)
{
    size_t half = head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        out[i] = fmaf(first, cos_row[i], -(second * sin_row[i]));
        out[i + half] = fmaf(second, cos_row[i], first * sin_row[i]);
    }
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] + y[i];
}

static void relu2_mul(const float *g, const float *u, size_t n, float *m)
{
    for (size_t i = 0; i < n; i++) {
        float r = g[i] < 0.0f ? 0.0f : g[i];
        m[i] = r == 0.0f ? 0.0f : (r * r) * u[i];
    }
}

static void silu_mul(const float *g, const float *u, size_t n, float *m)
{
    for (size_t i = 0; i < n; i++)
        m[i] = (g[i] / (1.0f + exp_lane(-g[i]))) * u[i];
}

/*
 * One query. Every loop runs over all 64 lanes, so that it becomes a few vectors without a rest; lanes that do not count take lane 0's
 * score for the maximum and 0 afterwards.
 */
static inline void softmax_lanes(const int32_t *restrict dots, const float *restrict k_scale,
                                 const float *restrict v_scale, size_t n_valid, float q_mul, int16_t *restrict a,
                                 float *restrict m_c, float *restrict l_c, float *restrict w_scale)
{
    float score[TRIT_CHUNK_TOKENS], e[TRIT_CHUNK_TOKENS], w[TRIT_CHUNK_TOKENS], largest[LANES];
    for (size_t t = 0; t < TRIT_CHUNK_TOKENS; t++)
        score[t] = (float)dots[t] * (k_scale[t] * q_mul);
    for (size_t t = n_valid; t < TRIT_CHUNK_TOKENS; t++)
        score[t] = score[0];

    for (size_t j = 0; j < LANES; j++)
        largest[j] = score[j + LANES] > score[j] ? score[j + LANES] : score[j];
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            largest[j] = largest[j + width] > largest[j] ? largest[j + width] : largest[j];
    float m = largest[0];
    *m_c = m;

    for (size_t t = 0; t < TRIT_CHUNK_TOKENS; t++)
        e[t] = exp_lane(score[t] - m);
    for (size_t t = 0; t < TRIT_CHUNK_TOKENS; t++)
        w[t] = e[t] * v_scale[t];
    for (size_t t = n_valid; t < TRIT_CHUNK_TOKENS; t++)
        e[t] = w[t] = 0.0f;
    *l_c = lane_sum_chunk(e);

    float total = at_least(lane_sum_chunk(w), 1e-30f);
    float s = 32704.0f / total;
    for (size_t t = 0; t < TRIT_CHUNK_TOKENS; t++)
        a[t] = (int16_t)round_clamped(w[t] * s, 32767.0f);
    *w_scale = total / 32704.0f;
}

static void chunk_softmax(const int32_t *restrict dots, const float *restrict k_scale, const float *restrict v_scale,
                          size_t n_q, const int32_t *restrict n_valid, const float *restrict q_mul, int16_t *restrict a,
                          float *restrict m_c, float *restrict l_c, float *restrict w_scale)
{
    for (size_t i = 0; i < n_q; i++)
        softmax_lanes(dots + i * TRIT_CHUNK_TOKENS, k_scale, v_scale, (size_t)n_valid[i], q_mul[i],
                      a + i * TRIT_CHUNK_TOKENS, &m_c[i], &l_c[i], &w_scale[i]);
}

enum { MERGE_QUERIES = 16 };

/* Up to MERGE_QUERIES queries: their factors first, as vectors. */
static void merge_some(const int32_t *restrict acc, size_t stride, size_t n_q, size_t n, const float *restrict w_scale,
                       const float *restrict m_c, const float *restrict l_c, float *restrict m, float *restrict l,
                       float *restrict o)
{
    float keep[MERGE_QUERIES] = {0}, take[MERGE_QUERIES] = {0};
    for (size_t i = 0; i < n_q; i++) {
        float larger = m_c[i] > m[i] ? m_c[i] : m[i];
        keep[i] = m[i] - larger;
        take[i] = m_c[i] - larger;
        m[i] = larger;
    }
    for (size_t i = 0; i < MERGE_QUERIES; i++) {
        keep[i] = exp_lane(keep[i]);
        take[i] = exp_lane(take[i]);
    }
    for (size_t i = 0; i < n_q; i++) {
        l[i] = fmaf(l[i], keep[i], l_c[i] * take[i]);
        for (size_t j = 0; j < n; j++)
            o[i * stride + j] = fmaf(o[i * stride + j], keep[i], ((float)acc[i * stride + j] * w_scale[i]) * take[i]);
    }
}

static void chunk_merge(const int32_t *restrict acc, size_t stride, size_t n_q, size_t n, const float *restrict w_scale,
                        const float *restrict m_c, const float *restrict l_c, int first, float *restrict m,
                        float *restrict l, float *restrict o)
{
    for (size_t i = 0; first && i < n_q; i++) {
        m[i] = m_c[i];
        l[i] = l_c[i];
        for (size_t j = 0; j < n; j++)
            o[i * stride + j] = (float)acc[i * stride + j] * w_scale[i];
    }
    for (size_t i = 0; !first && i < n_q; i += MERGE_QUERIES)
        merge_some(acc + i * stride, stride, n_q - i < MERGE_QUERIES ? n_q - i : MERGE_QUERIES, n, w_scale + i, m_c + i,
                   l_c + i, m + i, l + i, o + i * stride);
}

static void scale(const float *o, float factor, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = o[i] * factor;
}

static int log_sum_exp(const float *restrict logits, size_t n, float *restrict lse)
{
    if (n == 0 || !(absmax(logits, n) < INFINITY))
        return 0;
    float largest[LANES];
    for (size_t j = 0; j < LANES; j++)
        largest[j] = logits[0];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            largest[j] = logits[i + j] > largest[j] ? logits[i + j] : largest[j];
    for (; i < n; i++)
        largest[0] = logits[i] > largest[0] ? logits[i] : largest[0];
    float m = largest[0];
    for (size_t j = 1; j < LANES; j++)
        m = largest[j] > m ? largest[j] : m;

    float s[LANES] = {0};
    for (i = 0; i + LANES <= n; i += LANES) {
        float e[LANES];
        for (size_t j = 0; j < LANES; j++)
            e[j] = exp_lane(logits[i + j] - m);
        for (size_t j = 0; j < LANES; j++)
            s[j] = s[j] + e[j];
    }
    for (size_t j = 0; i + j < n; j++)
        s[j] = s[j] + exp_lane(logits[i + j] - m);
    *lse = m + log1(fold(s));
    return 1;
}

const trit_row_ops TRIT_ROWS = {
    .rmsnorm = rmsnorm,
    .quant_i8 = quant_i8,
    .quant_head = quant_head,
    .quant_l2 = quant_l2,
    .quant_v = quant_v,
    .quant_kv8 = quant_kv8,
    .hadamard = hadamard,
    .rope = rope,
    .add = add,
    .relu2_mul = relu2_mul,
    .silu_mul = silu_mul,
    .chunk_softmax = chunk_softmax,
    .chunk_merge = chunk_merge,
    .scale = scale,
    .log_sum_exp = log_sum_exp,
    .exp1 = exp1,
    .log1 = log1,
};
