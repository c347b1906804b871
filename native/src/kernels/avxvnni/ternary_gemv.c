/*
 * Ternary linear of one row: eight masks and eight vpdpbusd per 64 bytes of weights, into eight sums, which hide the latency of four to
 * five cycles. With the masks, a vector of weights, a field and the inputs they are the sixteen registers of VEX code.
 */
#include "fields.h"

trit_ternary_fn TRIT_KERNEL(trit_gemv_i8t2_1x64);

/* The four fields of a half. */
FLATTEN void add_fields(half_sums *s, const uint8_t *w, __m256i inputs)
{
    __m256i v = load(w);
    add_dots(&s->f0, _mm256_and_si256(v, field_mask(0)), inputs);
    add_dots(&s->f1, _mm256_and_si256(v, field_mask(1)), inputs);
    add_dots(&s->f2, _mm256_and_si256(v, field_mask(2)), inputs);
    add_dots(&s->f3, _mm256_and_si256(v, field_mask(3)), inputs);
}

FLATTEN void store_half(float *y, size_t panel, size_t n_outputs, size_t half, const half_sums *s, float row_scale)
{
    store_field(y, panel, n_outputs, 0, half, s->f0, row_scale);
    store_field(y, panel, n_outputs, 1, half, s->f1, row_scale);
    store_field(y, panel, n_outputs, 2, half, s->f2, row_scale);
    store_field(y, panel, n_outputs, 3, half, s->f3, row_scale);
}

void TRIT_KERNEL(trit_gemv_i8t2_1x64)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                      size_t m, const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                      size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                      size_t y_stride)
{
    for (size_t row = 0; row < m; row++)
        for (size_t panel = panel0; panel < panel1; panel++) {
            const int8_t *row_x = x + row * x_stride;
            const uint8_t *panel_w = w + panel * groups * 64;
            half_sums s0 = {start_field(x_sum[row], 0), start_field(x_sum[row], 1), start_field(x_sum[row], 2),
                            start_field(x_sum[row], 3)};
            half_sums s1 = s0;
            for (size_t g = 0; g < groups; g++) {
                prefetch_ahead(panel_w + g * 64);
                __m256i inputs = broadcast(row_x + g * TRIT_GROUP);
                add_fields(&s0, panel_w + g * 64, inputs);
                add_fields(&s1, panel_w + g * 64 + 32, inputs);
            }
            store_half(y + row * y_stride, panel, n_outputs, 0, &s0, row_scale[row]);
            store_half(y + row * y_stride, panel, n_outputs, 1, &s1, row_scale[row]);
        }
}
