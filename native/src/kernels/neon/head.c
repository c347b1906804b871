/*
 * Output head, one byte plane, with sdot: dots[m][n] = 256 * (plane . h_hi) + (plane . h_lo), each an sdot of a 16-byte quarter
 * (4 vocabulary rows x 4 inputs) with a group of the hidden row picked by element.
 *
 * A sum of BLOCK_GROUPS groups is at most 2^14 * 4 * 8,192 = 2^29.
 */
#include <arm_neon.h>

#include "ops.h"

enum { QUARTERS = 4, TILE_ROWS = 2, BLOCK_GROUPS = 8192 };

trit_head_fn trit_head_i8i16_2x16__neon;

#define INLINE static inline __attribute__((always_inline))

/* Group g + lane, all quarters; the lane of sdot is part of the instruction. */
#define ADD_GROUP(lane)                                                           \
    do {                                                                          \
        for (size_t q = 0; q < QUARTERS; q++) {                                   \
            int8x16_t bytes = vld1q_s8(plane + (g + (lane)) * 64 + q * 16);       \
            for (size_t row = 0; row < rows; row++) {                             \
                hi[row][q] = vdotq_laneq_s32(hi[row][q], bytes, x_hi[row], lane); \
                lo[row][q] = vdotq_laneq_s32(lo[row][q], bytes, x_lo[row], lane); \
            }                                                                     \
        }                                                                         \
    } while (0)

/* One panel x `rows` (1 or 2, a constant where inlined) rows: 16 accumulators, 4 registers of inputs, 1 of weights. */
INLINE void add_block(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t rows,
                      const int8_t *restrict plane, size_t groups, int64_t *restrict dots, size_t dots_stride,
                      int begins)
{
    int32x4_t hi[TILE_ROWS][QUARTERS], lo[TILE_ROWS][QUARTERS];
    for (size_t row = 0; row < rows; row++)
        for (size_t q = 0; q < QUARTERS; q++)
            hi[row][q] = lo[row][q] = vdupq_n_s32(0);
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
        for (size_t q = 0; q < QUARTERS; q++)
            for (size_t half = 0; half < 2; half++) {
                int64_t *to = dots + row * dots_stride + 4 * q + 2 * half;
                int32x2_t hi2 = half ? vget_high_s32(hi[row][q]) : vget_low_s32(hi[row][q]);
                int32x2_t lo2 = half ? vget_high_s32(lo[row][q]) : vget_low_s32(lo[row][q]);
                int64x2_t sum = vaddw_s32(vshll_n_s32(hi2, 8), lo2);
                vst1q_s64(to, begins ? sum : vaddq_s64(vld1q_s64(to), sum));
            }
}

void trit_head_i8i16_2x16__neon(const int16_t *restrict h, const int8_t *restrict h_hi, const int8_t *restrict h_lo,
                                size_t h_stride, size_t m, const int8_t *restrict plane, size_t groups, size_t panel0,
                                size_t panel1, int64_t *restrict dots, size_t dots_stride)
{
    (void)h;
    for (size_t panel = panel0; panel < panel1; panel++)
        for (size_t g = 0; g < groups; g += BLOCK_GROUPS) {
            size_t count = groups - g < BLOCK_GROUPS ? groups - g : BLOCK_GROUPS;
            const int8_t *from = plane + (panel * groups + g) * 64;
            for (size_t row = 0; row < m; row += TILE_ROWS) {
                size_t x = row * h_stride + g * TRIT_GROUP;
                int64_t *to = dots + row * dots_stride + panel * TRIT_HEAD_PANEL;
                if (m - row >= TILE_ROWS)
                    add_block(h_hi + x, h_lo + x, h_stride, 2, from, count, to, dots_stride, g == 0);
                else
                    add_block(h_hi + x, h_lo + x, h_stride, 1, from, count, to, dots_stride, g == 0);
            }
        }
}
