/*
 * Ternary columns, the specification, for the two ways that `down` is computed: by lists of inputs into integer sums, and by lists of pairs
 * of inputs into finished outputs.
 *
 * Layout T2_COLS: a run per input, 16 bytes per panel of 64 outputs; bits 2f, 2f+1 of byte b hold the weight plus one of output 16f + b.
 */
#include "ops.h"

trit_down_inputs_fn trit_down_inputs_i8t2_1x1__ref;
trit_down_pairs_fn trit_down_pairs_i8t2_1x1__ref;

/* Weight plus one of output n in an input's run. */
static int32_t code_at(const uint8_t *run, size_t n)
{
    return (run[n / TRIT_PANEL * 16 + n % 16] >> (n % TRIT_PANEL / 16 * 2)) & 3;
}

void trit_down_inputs_i8t2_1x1__ref(const int8_t *restrict x, const int32_t *restrict inputs, size_t n_inputs,
                                    size_t n_ahead, const uint8_t *restrict w, size_t run_bytes, int32_t *restrict acc)
{
    (void)n_ahead;
    for (size_t i = 0; i < n_inputs; i++) {
        const uint8_t *run = w + (size_t)inputs[i] * run_bytes;
        for (size_t n = 0; n < 4 * run_bytes; n++)
            acc[n] += code_at(run, n) * x[inputs[i]];
    }
}

void trit_down_pairs_i8t2_1x1__ref(const uint32_t *restrict pairs, size_t pairs_stride, const int32_t *restrict n_pairs,
                                   const int32_t *restrict x_sum, size_t m, const uint8_t *restrict w, size_t n_inputs,
                                   size_t panel0, size_t panel1, size_t n_outputs, const float *restrict row_scale,
                                   float *restrict y, size_t y_stride)
{
    (void)n_inputs;
    size_t run_bytes = (n_outputs + TRIT_PANEL - 1) / TRIT_PANEL * 16;
    for (size_t row = 0; row < m; row++)
        for (size_t n = panel0 * TRIT_PANEL; n < panel1 * TRIT_PANEL && n < n_outputs; n++) {
            int32_t acc = -x_sum[row];
            for (int32_t i = 0; i < n_pairs[row]; i++) {
                uint32_t pair = pairs[row * pairs_stride + (size_t)i];
                const uint8_t *first = w + (size_t)(pair >> 16) * 2 * run_bytes;
                acc += code_at(first, n) * (int8_t)(pair & 255u);
                acc += code_at(first + run_bytes, n) * (int8_t)(pair >> 8 & 255u);
            }
            y[row * y_stride + n] = (float)acc * row_scale[row];
        }
}
