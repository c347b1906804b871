/*
 * Ternary linear of one row over T5_P64G4 without taking a digit out. Let s be the byte of a digit less 128, as a signed byte, and s' that
 * of the next one. Then 3 s = 256 (digit - 1) + s', so that
 *
 *      256 * sum of weight * x  =  3 * sum of s * x  -  sum of s' * x
 *
 * and both sums are sdot of plain bytes. They wrap modulo 2^32: right as long as the left side fits, |sum of weight * x| < 2^23, some
 * 66,000 inputs.
 */
#include <arm_neon.h>
#include <string.h>

#include "ops.h"

trit_ternary_fn trit_gemv_i8t5_1x64__neon;

enum { STRETCH_GROUPS = 16380, FIELDS = 4 }; /* whole blocks, at most 65,520 inputs */

#define INLINE static inline __attribute__((always_inline))

typedef struct field_sums {
    int32x4_t now, next;
} field_sums;

INLINE int8x16_t load_biased(const uint8_t *w)
{
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(0x80)));
}

INLINE int8x16_t triple(int8x16_t v)
{
    return vaddq_s8(v, vaddq_s8(v, v));
}

INLINE int8x16_t broadcast(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

INLINE int8x16_t add_digit(int8x16_t s, int8x16_t inputs, field_sums *sums)
{
    sums->now = vdotq_s32(sums->now, s, inputs);
    s = triple(s);
    sums->next = vdotq_s32(sums->next, s, inputs);
    return s;
}

INLINE void add_fields(int8x16_t s, int8x16_t inputs, field_sums sums[FIELDS])
{
    for (size_t field = FIELDS; field-- > 0;)
        s = add_digit(s, inputs, &sums[field]);
}

/* One quarter (16 bytes of every vector): outputs 16 field + 4 quarter + 0..3. sums (64). */
static void add_quarter(const int8_t *restrict x, const uint8_t *restrict w, size_t n_groups, size_t quarter,
                        int32_t *restrict sums)
{
    field_sums f[FIELDS];
    for (size_t field = 0; field < FIELDS; field++)
        f[field] = (field_sums){vdupq_n_s32(0), vdupq_n_s32(0)};
    w += 16 * quarter;
    size_t g = 0;
    for (; g + TRIT_DENSE_GROUPS <= n_groups; g += TRIT_DENSE_GROUPS, w += TRIT_DENSE_VECTORS * 64) {
        int8x16_t fifth = broadcast(x + (g + 4) * TRIT_GROUP);
        for (size_t j = 0; j < TRIT_DENSE_VECTORS; j++) {
            int8x16_t s = add_digit(load_biased(w + j * 64), fifth, &f[j]);
            add_fields(s, broadcast(x + (g + j) * TRIT_GROUP), f);
        }
    }
    for (; g < n_groups; g++, w += 64)
        add_fields(triple(load_biased(w)), broadcast(x + g * TRIT_GROUP), f);
    for (size_t field = 0; field < FIELDS; field++) {
        int32_t *at = sums + 16 * field + 4 * quarter;
        int32x4_t found = vshrq_n_s32(vsubq_s32(vmulq_n_s32(f[field].now, 3), f[field].next), 8);
        vst1q_s32(at, vaddq_s32(vld1q_s32(at), found));
    }
}

void trit_gemv_i8t5_1x64__neon(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    (void)x_sum;
    for (size_t panel = panel0; panel < panel1; panel++) {
        size_t n = panel * TRIT_PANEL, width = n_outputs - n < TRIT_PANEL ? n_outputs - n : TRIT_PANEL;
        const uint8_t *panel_w = w + panel * trit_dense_vectors(groups) * 64;
        for (size_t row = 0; row < m; row++) {
            int32_t sums[TRIT_PANEL] = {0};
            for (size_t g = 0; g < groups; g += STRETCH_GROUPS)
                for (size_t quarter = 0; quarter < 4; quarter++)
                    add_quarter(x + row * x_stride + g * TRIT_GROUP, panel_w + trit_dense_vectors(g) * 64,
                                groups - g < STRETCH_GROUPS ? groups - g : STRETCH_GROUPS, quarter, sums);
            for (size_t i = 0; i < width; i++)
                y[row * y_stride + n + i] = (float)sums[i] * row_scale[row];
        }
    }
}
