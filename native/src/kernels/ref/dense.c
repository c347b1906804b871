/* Ternary linear over T5_P64G4, the specification: see ops.h and trit.h for the layout, ternary.c for the product. */
#include "kernels/dense.h"

trit_ternary_fn trit_gemv_i8t5_1x1__ref;
trit_expand_fn trit_expand_t5_1__ref;
trit_codes_valid_fn trit_codes_valid_t5_1__ref;

/* Digit `place` (4: the fifth, 3..0: the fields) of a byte, minus one. */
static int32_t weight_of(uint8_t byte, size_t place)
{
    static const unsigned power[] = {1, 3, 9, 27, 81};
    return (int32_t)(byte * 243u / 256 / power[place] % 3) - 1;
}

/* The weight of output 16 field + byte / 4 of the panel for input byte % 4 of group g. */
static int32_t weight_at(const uint8_t *panel, size_t groups, size_t g, size_t field, size_t byte)
{
    size_t block = g / TRIT_DENSE_GROUPS, in_block = g % TRIT_DENSE_GROUPS;
    const uint8_t *vectors = panel + block * TRIT_DENSE_VECTORS * 64;
    int whole = (block + 1) * TRIT_DENSE_GROUPS <= groups;
    if (whole && in_block == 4)
        return weight_of(vectors[field * 64 + byte], 4);
    return weight_of(vectors[in_block * 64 + byte], field);
}

void trit_gemv_i8t5_1x1__ref(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                             const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                             const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    (void)x_sum;
    for (size_t n = panel0 * TRIT_PANEL; n < panel1 * TRIT_PANEL && n < n_outputs; n++) {
        const uint8_t *panel = w + n / TRIT_PANEL * trit_dense_vectors(groups) * 64;
        size_t field = n % TRIT_PANEL / 16, byte = n % 16 * 4;
        for (size_t row = 0; row < m; row++) {
            int32_t acc = 0;
            for (size_t g = 0; g < groups; g++)
                for (size_t i = 0; i < TRIT_GROUP; i++)
                    acc += weight_at(panel, groups, g, field, byte + i) * x[row * x_stride + g * TRIT_GROUP + i];
            y[row * y_stride + n] = (float)acc * row_scale[row];
        }
    }
}

void trit_expand_t5_1__ref(const uint8_t *restrict panel_w, size_t groups, uint8_t *restrict t2)
{
    expand_panel_plain(panel_w, groups, t2);
}

int trit_codes_valid_t5_1__ref(const uint8_t *w, size_t bytes)
{
    return dense_valid_plain(w, bytes);
}
