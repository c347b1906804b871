/*
 * Ternary linear of one row: streams the weights once per row and keeps the sums of a panel's 64 outputs in registers.
 *
 * 13 vector operations per 32 bytes of weights (a shift, four masks, four vpmaddubsw, four vpaddw): 28 GB/s out of the cache beside
 * another thread on the same core, more than one core reads from memory (AMD EPYC, Zen 3).
 */
#include "panel.h"

trit_ternary_fn trit_gemv_i8t2_1x64__avx2;

static void sum_panel(const int8_t *x, const uint8_t *w, size_t groups, int32_t *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    for (size_t g0 = 0; g0 < groups; g0 += ODD_FIELD_GROUPS) {
        half_sums s0 = {zero, zero, zero, zero}, s1 = s0;
        for (size_t g = g0; g < g0 + ODD_FIELD_GROUPS; g++) {
            prefetch_ahead(w + g * 64);
            __m256i inputs = broadcast(x + g * TRIT_GROUP);
            add_half(1, w + g * 64, inputs, &s0, inputs, NULL);
            add_half(1, w + g * 64 + 32, inputs, &s1, inputs, NULL);
        }
        flush_half(sums, 0, &s0, g0 == 0);
        flush_half(sums, 1, &s1, g0 == 0);
    }
}

void trit_gemv_i8t2_1x64__avx2(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    _Alignas(64) int32_t sums[TRIT_PANEL] = {0};
    for (size_t row = 0; row < m; row++)
        for (size_t panel = panel0; panel < panel1; panel++) {
            sum_panel(x + row * x_stride, w + panel * groups * 64, groups, sums);
            store_panel(y + row * y_stride, panel, n_outputs, sums, x_sum[row], row_scale[row]);
        }
}
