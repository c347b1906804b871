/*
 * Ternary linear with sdot: gemv for one row, gemm for tiles of 4 rows.
 *
 * A 64-byte vector of T2_P64G4 is four 16-byte quarters. Byte 4j + i of quarter r holds, in its fields f = 0..3, outputs
 * 16f + 4r + j for input i of the group, so that masked to one field it is an sdot operand: four outputs times four inputs. The
 * activations of four groups are one register, and sdot by element picks a group: nothing is broadcast.
 *
 * Fields 0 to 2 are masked where they lie, codes 0, 1, 2 times 4^f, and the sum is shifted right by 2f at the end, exactly: at
 * most 131,072 inputs times 127 times 32 stays below 2^30. Field 3 in place would be 0, 64, 128, which a signed byte does not hold,
 * so it is shifted down. Either way one operation per field. The sum of the activations turns codes into weights.
 */
#include <arm_neon.h>
#include <string.h>

#include "ops.h"

enum { QUARTERS = 4, FIELDS = 4, TILE_ROWS = 4, BLOCK_GROUPS = 256 };

trit_ternary_fn trit_gemv_i8t2_1x64__neon;
trit_ternary_fn trit_gemm_i8t2_4x16__neon;

#define INLINE static inline __attribute__((always_inline))

/* acc[row][field] += quarter of group 4g + lane, times that group of x[row]. The lane of sdot is part of the instruction. */
#define ADD_GROUP(quarter, lane)                                                         \
    do {                                                                                 \
        uint8x16_t bytes = vld1q_u8(quarter);                                            \
        const int8x16_t field[FIELDS] = {                                                \
            vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0x03))),                      \
            vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0x0c))),                      \
            vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0x30))),                      \
            vreinterpretq_s8_u8(vshrq_n_u8(bytes, 6)),                                   \
        };                                                                               \
        for (size_t row = 0; row < rows; row++)                                          \
            for (size_t f = 0; f < FIELDS; f++)                                          \
                acc[row][f] = vdotq_laneq_s32(acc[row][f], field[f], inputs[row], lane); \
    } while (0)

/* Sums times 4^f (3: times 1) of outputs 16f + 4 * quarter + 0..3. */
INLINE int32x4_t unscale(int32x4_t sum, size_t f)
{
    return f == 0 ? sum : f == 1 ? vshrq_n_s32(sum, 2) : f == 2 ? vshrq_n_s32(sum, 4) : sum;
}

INLINE void store(float *y, int32x4_t code_sum, int32_t x_sum, float scale)
{
    vst1q_f32(y, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(code_sum, vdupq_n_s32(x_sum))), scale));
}

/* ---- gemv ------------------------------------------------------------------------------------------------------- */

/* One row, one panel: 16 accumulators, enough to hide the latency of sdot on two to four pipes. y (64). */
static void panel_times_row(const int8_t *restrict x, int32_t x_sum, const uint8_t *restrict w, size_t groups,
                            float scale, float *restrict y)
{
    enum { rows = 1 };
    int32x4_t sums[QUARTERS][rows][FIELDS];
    for (size_t q = 0; q < QUARTERS; q++)
        for (size_t f = 0; f < FIELDS; f++)
            sums[q][0][f] = vdupq_n_s32(0);
    for (size_t g = 0; g < groups; g += 4) {
        const int8x16_t inputs[rows] = {vld1q_s8(x + g * TRIT_GROUP)};
        for (size_t q = 0; q < QUARTERS; q++) {
            int32x4_t(*acc)[FIELDS] = sums[q];
            const uint8_t *quarter = w + g * 64 + q * 16;
            ADD_GROUP(quarter, 0);
            ADD_GROUP(quarter + 64, 1);
            ADD_GROUP(quarter + 128, 2);
            ADD_GROUP(quarter + 192, 3);
        }
    }
    for (size_t q = 0; q < QUARTERS; q++)
        for (size_t f = 0; f < FIELDS; f++)
            store(y + 16 * f + 4 * q, unscale(sums[q][0][f], f), x_sum, scale);
}

void trit_gemv_i8t2_1x64__neon(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    for (size_t panel = panel0; panel < panel1; panel++) {
        size_t n = panel * TRIT_PANEL, width = n_outputs - n < TRIT_PANEL ? n_outputs - n : TRIT_PANEL;
        for (size_t row = 0; row < m; row++) {
            float out[TRIT_PANEL];
            panel_times_row(x + row * x_stride, x_sum[row], w + panel * groups * 64, groups, row_scale[row], out);
            memcpy(y + row * y_stride + n, out, width * sizeof *out);
        }
    }
}

/* ---- gemm ------------------------------------------------------------------------------------------------------- */

/*
 * sums[row][64] += a block of groups of one panel, `rows` (1..4, a constant where inlined) rows of x, a quarter at a time: 16 outputs
 * x 4 rows are 16 accumulators, 4 registers of inputs, 1 of weights and 4 of fields, 3 of masks: 28 of 32. The weights are decoded
 * once per tile of rows, four operations for sixteen sdot. The block (16 KiB of weights, 4 KiB of inputs) stays in the first-level
 * cache over its quarters.
 */
INLINE void add_block(const int8_t *restrict x, size_t x_stride, size_t rows, const uint8_t *restrict w, size_t groups,
                      int32_t (*restrict sums)[TRIT_PANEL])
{
    for (size_t q = 0; q < QUARTERS; q++) {
        int32x4_t acc[TILE_ROWS][FIELDS];
        for (size_t row = 0; row < rows; row++)
            for (size_t f = 0; f < FIELDS; f++)
                acc[row][f] = vld1q_s32(sums[row] + 16 * f + 4 * q);
        for (size_t g = 0; g < groups; g += 4) {
            int8x16_t inputs[TILE_ROWS];
            for (size_t row = 0; row < rows; row++)
                inputs[row] = vld1q_s8(x + row * x_stride + g * TRIT_GROUP);
            const uint8_t *quarter = w + g * 64 + q * 16;
            ADD_GROUP(quarter, 0);
            ADD_GROUP(quarter + 64, 1);
            ADD_GROUP(quarter + 128, 2);
            ADD_GROUP(quarter + 192, 3);
        }
        for (size_t row = 0; row < rows; row++)
            for (size_t f = 0; f < FIELDS; f++)
                vst1q_s32(sums[row] + 16 * f + 4 * q, acc[row][f]);
    }
}

static void add_blocks(const int8_t *restrict x, size_t x_stride, size_t rows, const uint8_t *restrict w, size_t groups,
                       int32_t (*restrict sums)[TRIT_PANEL])
{
    for (size_t g = 0; g < groups; g += BLOCK_GROUPS) {
        size_t count = groups - g < BLOCK_GROUPS ? groups - g : BLOCK_GROUPS;
        switch (rows) {
        case 4: add_block(x + g * TRIT_GROUP, x_stride, 4, w + g * 64, count, sums); break;
        case 3: add_block(x + g * TRIT_GROUP, x_stride, 3, w + g * 64, count, sums); break;
        case 2: add_block(x + g * TRIT_GROUP, x_stride, 2, w + g * 64, count, sums); break;
        default: add_block(x + g * TRIT_GROUP, x_stride, 1, w + g * 64, count, sums); break;
        }
    }
}

void trit_gemm_i8t2_4x16__neon(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    for (size_t panel = panel0; panel < panel1; panel++) {
        size_t n = panel * TRIT_PANEL, width = n_outputs - n < TRIT_PANEL ? n_outputs - n : TRIT_PANEL;
        for (size_t row0 = 0; row0 < m; row0 += TILE_ROWS) {
            size_t rows = m - row0 < TILE_ROWS ? m - row0 : TILE_ROWS;
            int32_t sums[TILE_ROWS][TRIT_PANEL] = {{0}};
            add_blocks(x + row0 * x_stride, x_stride, rows, w + panel * groups * 64, groups, sums);
            for (size_t row = 0; row < rows; row++) {
                float out[TRIT_PANEL];
                for (size_t f = 0; f < FIELDS; f++)
                    for (size_t j = 16 * f; j < 16 * f + 16; j += 4)
                        store(out + j, unscale(vld1q_s32(sums[row] + j), f), x_sum[row0 + row], row_scale[row0 + row]);
                memcpy(y + (row0 + row) * y_stride + n, out, width * sizeof *out);
            }
        }
    }
}
