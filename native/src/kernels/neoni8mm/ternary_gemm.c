/*
 * Ternary linear of several rows with usmmla: 2 outputs x 2 rows x 8 inputs an instruction, twice sdot's products.
 *
 * Two neighbouring groups of a quarter (ternary.c of neon), zipped by fours of bytes, hold 2 outputs x 8 inputs twice; masked to field f
 * in place they are unsigned operands of 4^f times the codes, field 3 too. Less 4^f times the sum of x, a sum is at most 127 * 64 * K in size,
 * inside int32 for K up to 2^18 whatever the partial sums wrap to, and is shifted right at the end, exactly. A tile is four rows x the 16
 * outputs of a quarter: 16 sums.
 */
#include <arm_neon.h>
#include <string.h>

#include "ops.h"

enum { QUARTERS = 4, FIELDS = 4, PAIRS = 2, TILE_ROWS = 2 * PAIRS };

trit_ternary_fn trit_gemm_i8t2_4x16__neoni8mm;

#define INLINE static inline __attribute__((always_inline))

/* Eight inputs of two rows; the second row may be the first again. */
INLINE int8x16_t load_rows(const int8_t *first, const int8_t *second)
{
    return vcombine_s8(vld1_s8(first), vld1_s8(second));
}

/* sums [row][64]: field f, quarter q at 16f + 4q, of the codes times 4^f. x: rows of the tile. */
INLINE void sum_quarter(const int8_t *const x[TILE_ROWS], const uint8_t *w, size_t groups, size_t quarter,
                        int32_t sums[TILE_ROWS][TRIT_PANEL])
{
    int32x4_t acc[FIELDS][2][PAIRS]; /* of outputs 2h, 2h + 1 (rows of the product) and a pair of rows (its columns) */
    for (size_t f = 0; f < FIELDS; f++)
        for (size_t h = 0; h < 2; h++)
            for (size_t p = 0; p < PAIRS; p++)
                acc[f][h][p] = vdupq_n_s32(0);
    for (size_t g = 0; g < groups; g += 2) {
        uint32x4_t even = vreinterpretq_u32_u8(vld1q_u8(w + g * 64 + quarter * 16));
        uint32x4_t odd = vreinterpretq_u32_u8(vld1q_u8(w + (g + 1) * 64 + quarter * 16));
        const uint8x16_t codes[2] = {vreinterpretq_u8_u32(vzip1q_u32(even, odd)),
                                     vreinterpretq_u8_u32(vzip2q_u32(even, odd))};
        const int8x16_t inputs[PAIRS] = {load_rows(x[0] + g * TRIT_GROUP, x[1] + g * TRIT_GROUP),
                                         load_rows(x[2] + g * TRIT_GROUP, x[3] + g * TRIT_GROUP)};
        for (size_t f = 0; f < FIELDS; f++)
            for (size_t h = 0; h < 2; h++) {
                uint8x16_t field = vandq_u8(codes[h], vdupq_n_u8((uint8_t)(3u << 2 * f)));
                for (size_t p = 0; p < PAIRS; p++)
                    acc[f][h][p] = vusmmlaq_s32(acc[f][h][p], field, inputs[p]);
            }
    }
    for (size_t f = 0; f < FIELDS; f++)
        for (size_t h = 0; h < 2; h++)
            for (size_t p = 0; p < PAIRS; p++) {
                int32_t product[4];
                vst1q_s32(product, acc[f][h][p]);
                for (size_t output = 0; output < 2; output++)
                    for (size_t row = 0; row < 2; row++)
                        sums[2 * p + row][16 * f + 4 * quarter + 2 * h + output] = product[2 * output + row];
            }
}

/* y points at the panel's first output of the row; width of its 64 are there. */
static void store_row(float *y, size_t width, const int32_t *sums, int32_t x_sum, float row_scale)
{
    float out[TRIT_PANEL];
    for (size_t i = 0; i < TRIT_PANEL; i += 4) {
        int32_t shift = 2 * (int32_t)(i / 16);
        int32x4_t minus = vdupq_n_s32((int32_t)((uint32_t)x_sum << shift));
        int32x4_t acc = vshlq_s32(vsubq_s32(vld1q_s32(sums + i), minus), vdupq_n_s32(-shift));
        vst1q_f32(out + i, vmulq_n_f32(vcvtq_f32_s32(acc), row_scale));
    }
    memcpy(y, out, width * sizeof *y);
}

void trit_gemm_i8t2_4x16__neoni8mm(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                                   const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                   size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                   size_t y_stride)
{
    for (size_t panel = panel0; panel < panel1; panel++) {
        size_t n = panel * TRIT_PANEL, width = n_outputs - n < TRIT_PANEL ? n_outputs - n : TRIT_PANEL;
        for (size_t row0 = 0; row0 < m; row0 += TILE_ROWS) {
            size_t rows = m - row0 < TILE_ROWS ? m - row0 : TILE_ROWS;
            const int8_t *tile_x[TILE_ROWS]; /* rows that are not there repeat the last */
            int32_t sums[TILE_ROWS][TRIT_PANEL];
            for (size_t i = 0; i < TILE_ROWS; i++)
                tile_x[i] = x + (row0 + (i < rows ? i : rows - 1)) * x_stride;
            for (size_t quarter = 0; quarter < QUARTERS; quarter++)
                sum_quarter(tile_x, w + panel * groups * 64, groups, quarter, sums);
            for (size_t i = 0; i < rows; i++)
                store_row(y + (row0 + i) * y_stride + n, width, sums[i], x_sum[row0 + i], row_scale[row0 + i]);
        }
    }
}
