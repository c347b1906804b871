/*
 * Output head, the specification: logits[m][n] = ((float)D * h_scale[m]) * 2^-shift[n], D the exact integer dot product of two
 * int16 vectors, each stored as balanced byte planes: value = 256 * hi + lo.
 *
 * Layout I16_P16G4 of one plane: 64-byte vectors [16 rows][4 inputs] int8, one per (panel of 16 rows, group of 4 inputs).
 */
#include <string.h>

#include "ops.h"

trit_head_fn trit_head_i16_1x1__ref;

/* 2^-shift by its exponent field: 0 for shift = 127, infinite for shift = -128, which no converted model holds. */
static float exp2_negated(int8_t shift)
{
    uint32_t bits = (uint32_t)(127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

void trit_head_i16_1x1__ref(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t m,
                            const int8_t *restrict hi, const int8_t *restrict lo, size_t groups, size_t panel0,
                            size_t panel1, size_t vocab, const int8_t *restrict shift, const float *restrict h_scale,
                            float *restrict logits, size_t logits_stride)
{
    for (size_t n = panel0 * TRIT_HEAD_PANEL; n < panel1 * TRIT_HEAD_PANEL && n < vocab; n++) {
        size_t first = n / TRIT_HEAD_PANEL * groups * 64 + n % TRIT_HEAD_PANEL * TRIT_GROUP;
        for (size_t row = 0; row < m; row++) {
            int64_t dot = 0;
            for (size_t k = 0; k < groups * TRIT_GROUP; k++) {
                size_t at = first + k / TRIT_GROUP * 64 + k % TRIT_GROUP;
                int32_t e = 256 * hi[at] + lo[at];
                int32_t h = 256 * h_hi[row * h_stride + k] + h_lo[row * h_stride + k];
                dot += (int64_t)e * h;
            }
            logits[row * logits_stride + n] = ((float)dot * h_scale[row]) * exp2_negated(shift[n]);
        }
    }
}
