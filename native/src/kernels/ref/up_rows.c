/*
 * Ternary rows, the specification: y[m][n] = (float)(sum over k of weight[n][k] * x[m][k]) * row_scale[m] where the gate is open, else 0.
 *
 * Layout T2_ROWS: units of 256 inputs in 64 bytes; bits 2f, 2f+1 of byte b hold the weight plus one of input 64f + b. Padded inputs are
 * 0: they add nothing.
 */
#include "ops.h"

trit_up_rows_fn trit_up_rows_i8t2_1x1__ref;

static int32_t weight_at(const uint8_t *row, size_t input)
{
    return (int32_t)(((unsigned)row[input / 256 * 64 + input % 64] >> (input % 256 / 64 * 2)) & 3u) - 1;
}

void trit_up_rows_i8t2_1x1__ref(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                                const uint8_t *restrict w, size_t row_bytes, size_t n0, size_t n1,
                                const float *restrict row_scale, const float *restrict gate, float *restrict y,
                                size_t y_stride)
{
    (void)x_sum; /* only needed by kernels that multiply by the codes 0, 1, 2 */
    for (size_t n = n0; n < n1; n++)
        for (size_t row = 0; row < m; row++) {
            if (gate != NULL && gate[row * y_stride + n] <= 0.0f) {
                y[row * y_stride + n] = 0.0f;
                continue;
            }
            int32_t acc = 0;
            for (size_t k = 0; k < 4 * row_bytes; k++)
                acc += weight_at(w + n * row_bytes, k) * x[row * x_stride + k];
            y[row * y_stride + n] = (float)acc * row_scale[row];
        }
}
