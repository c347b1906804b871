/*
 * Ternary linear, the specification: y[m][n] = (float)(sum over k of weight[n][k] * x[m][k]) * row_scale[m].
 *
 * Layout T2_P64G4: one 64-byte vector per (panel of 64 outputs, group of 4 inputs). Bits 2f, 2f+1 of byte b hold the weight plus
 * one of output 16f + b / 4 and input b % 4. Padded weights are 0 (code 1) and padded inputs are 0: they add nothing.
 */
#include "ops.h"

trit_ternary_fn trit_linear_i8t2_1x1__ref;

static int32_t weight_at(const uint8_t *vector, size_t output, size_t input)
{
    size_t field = output / 16;
    size_t byte = (output % 16) * 4 + input;
    return (int32_t)((vector[byte] >> (2 * field)) & 3u) - 1;
}

void trit_linear_i8t2_1x1__ref(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    (void)x_sum; /* only needed by kernels that multiply by the codes 0, 1, 2 */
    for (size_t n = panel0 * TRIT_PANEL; n < panel1 * TRIT_PANEL && n < n_outputs; n++) {
        const uint8_t *panel = w + n / TRIT_PANEL * groups * 64;
        for (size_t row = 0; row < m; row++) {
            int32_t acc = 0;
            for (size_t g = 0; g < groups; g++)
                for (size_t i = 0; i < TRIT_GROUP; i++)
                    acc += weight_at(panel + g * 64, n % TRIT_PANEL, i) * x[row * x_stride + g * TRIT_GROUP + i];
            y[row * y_stride + n] = (float)acc * row_scale[row];
        }
    }
}
