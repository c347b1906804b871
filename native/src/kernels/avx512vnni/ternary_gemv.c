/*
 * Ternary linear of one row: four masks and four vpdpbusd per 64 bytes of weights. Even and odd groups have sums of their own: eight chains
 * hide the latency of four to five cycles.
 */
#include "panel.h"

trit_ternary_fn TRIT_KERNEL(trit_gemv_i8t2_1x64);

void TRIT_KERNEL(trit_gemv_i8t2_1x64)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                      size_t m, const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                      size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                      size_t y_stride)
{
    for (size_t row = 0; row < m; row++)
        for (size_t panel = panel0; panel < panel1; panel++) {
            const int8_t *row_x = x + row * x_stride;
            const uint8_t *panel_w = w + panel * groups * 64;
            panel_row even = start_row(x_sum[row]), odd = start_row(0);
            for (size_t g = 0; g < groups; g += 2) {
                prefetch_ahead(panel_w + g * 64);
                prefetch_ahead(panel_w + g * 64 + 64);
                panel_row fields = split_fields(panel_w + g * 64);
                add_group(&even, &fields, row_x + g * TRIT_GROUP);
                fields = split_fields(panel_w + g * 64 + 64);
                add_group(&odd, &fields, row_x + (g + 1) * TRIT_GROUP);
            }
            even.f0 = _mm512_add_epi32(even.f0, odd.f0);
            even.f1 = _mm512_add_epi32(even.f1, odd.f1);
            even.f2 = _mm512_add_epi32(even.f2, odd.f2);
            even.f3 = _mm512_add_epi32(even.f3, odd.f3);
            store_row(y + row * y_stride, panel, n_outputs, &even, row_scale[row]);
        }
}
