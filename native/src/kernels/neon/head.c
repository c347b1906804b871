/*
 * Output head with sdot on balanced byte planes: logits[m][n] = ((float)D * h_scale[m]) * 2^-shift[n].
 *
 * With e = 256 * hi + lo and the hidden row split alike, D = 65536 (hi . hi) + 256 (hi . lo + lo . hi) + (lo . lo), each an sdot of a
 * 16-byte quarter (4 vocabulary rows x 4 inputs) with a group of the hidden row picked by element. The middle sums share a
 * register: at most 2 * 4 * 2^14 per group, so 8,192 groups stay within int32 before they are added to the int64 sums.
 */
#include <arm_neon.h>
#include <string.h>

#include "ops.h"

enum { QUARTERS = 4, TILE_ROWS = 2, BLOCK_GROUPS = 8192 };

trit_head_fn trit_head_i16_2x16__neon;

#define INLINE static inline __attribute__((always_inline))

/* Group g + lane of both planes, all quarters; the lane of sdot is part of the instruction. */
#define ADD_GROUP(lane)                                                                  \
    do {                                                                                 \
        for (size_t q = 0; q < QUARTERS; q++) {                                          \
            int8x16_t e_hi = vld1q_s8(hi + (g + (lane)) * 64 + q * 16);                  \
            int8x16_t e_lo = vld1q_s8(lo + (g + (lane)) * 64 + q * 16);                  \
            for (size_t row = 0; row < rows; row++) {                                    \
                high[row][q] = vdotq_laneq_s32(high[row][q], e_hi, x_hi[row], lane);     \
                middle[row][q] = vdotq_laneq_s32(middle[row][q], e_hi, x_lo[row], lane); \
                middle[row][q] = vdotq_laneq_s32(middle[row][q], e_lo, x_hi[row], lane); \
                low[row][q] = vdotq_laneq_s32(low[row][q], e_lo, x_lo[row], lane);       \
            }                                                                            \
        }                                                                                \
    } while (0)

/* dots[row][16] += one panel x `rows` (1 or 2, a constant where inlined) rows: 24 accumulators, 4 registers of inputs, 2 of weights. */
INLINE void add_block(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t rows,
                      const int8_t *restrict hi, const int8_t *restrict lo, size_t groups,
                      int64_t (*restrict dots)[TRIT_HEAD_PANEL])
{
    int32x4_t high[TILE_ROWS][QUARTERS], middle[TILE_ROWS][QUARTERS], low[TILE_ROWS][QUARTERS];
    for (size_t row = 0; row < rows; row++)
        for (size_t q = 0; q < QUARTERS; q++)
            high[row][q] = middle[row][q] = low[row][q] = vdupq_n_s32(0);
    for (size_t g = 0; g < groups; g += 4) {
        int8x16_t x_hi[TILE_ROWS], x_lo[TILE_ROWS];
        for (size_t row = 0; row < rows; row++) {
            x_hi[row] = vld1q_s8(h_hi + row * h_stride + g * TRIT_GROUP);
            x_lo[row] = vld1q_s8(h_lo + row * h_stride + g * TRIT_GROUP);
        }
        ADD_GROUP(0);
        ADD_GROUP(1);
        ADD_GROUP(2);
        ADD_GROUP(3);
    }
    for (size_t row = 0; row < rows; row++)
        for (size_t q = 0; q < QUARTERS; q++) {
            int64_t *dot = dots[row] + 4 * q;
            for (size_t half = 0; half < 2; half++) {
                int32x2_t high2 = half ? vget_high_s32(high[row][q]) : vget_low_s32(high[row][q]);
                int32x2_t middle2 = half ? vget_high_s32(middle[row][q]) : vget_low_s32(middle[row][q]);
                int32x2_t low2 = half ? vget_high_s32(low[row][q]) : vget_low_s32(low[row][q]);
                int64x2_t sum = vaddq_s64(vshll_n_s32(high2, 16), vshll_n_s32(middle2, 8));
                vst1q_s64(dot + 2 * half, vaddq_s64(vld1q_s64(dot + 2 * half), vaddw_s32(sum, low2)));
            }
        }
}

/* 2^-shift by its exponent field: 0 for shift = 127, infinite for shift = -128, which no converted model holds. */
INLINE float exp2_negated(int8_t shift)
{
    uint32_t bits = (uint32_t)(127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

void trit_head_i16_2x16__neon(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t m,
                              const int8_t *restrict hi, const int8_t *restrict lo, size_t groups, size_t panel0,
                              size_t panel1, size_t vocab, const int8_t *restrict shift, const float *restrict h_scale,
                              float *restrict logits, size_t logits_stride)
{
    for (size_t panel = panel0; panel < panel1; panel++) {
        size_t n0 = panel * TRIT_HEAD_PANEL, n1 = n0 + TRIT_HEAD_PANEL < vocab ? n0 + TRIT_HEAD_PANEL : vocab;
        for (size_t row0 = 0; row0 < m; row0 += TILE_ROWS) {
            size_t rows = m - row0 < TILE_ROWS ? m - row0 : TILE_ROWS;
            int64_t dots[TILE_ROWS][TRIT_HEAD_PANEL] = {{0}};
            for (size_t g = 0; g < groups; g += BLOCK_GROUPS) {
                size_t count = groups - g < BLOCK_GROUPS ? groups - g : BLOCK_GROUPS;
                size_t x = row0 * h_stride + g * TRIT_GROUP, w = (panel * groups + g) * 64;
                if (rows == TILE_ROWS)
                    add_block(h_hi + x, h_lo + x, h_stride, 2, hi + w, lo + w, count, dots);
                else
                    add_block(h_hi + x, h_lo + x, h_stride, 1, hi + w, lo + w, count, dots);
            }
            for (size_t row = 0; row < rows; row++)
                for (size_t n = n0; n < n1; n++)
                    logits[(row0 + row) * logits_stride + n] =
                        ((float)dots[row][n - n0] * h_scale[row0 + row]) * exp2_negated(shift[n]);
        }
    }
}
