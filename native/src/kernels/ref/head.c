/* Output head: dots[m][n] = sum over k of plane[n][k] * h[m][k], int64. */
#include "ops.h"

trit_head_fn trit_head_i8i16_1x1__ref;

void trit_head_i8i16_1x1__ref(const int16_t *restrict h, const int8_t *restrict h_hi, const int8_t *restrict h_lo,
                              size_t h_stride, size_t m, const int8_t *restrict plane, size_t groups, size_t panel0,
                              size_t panel1, int64_t *restrict dots, size_t dots_stride)
{
    (void)h_hi;
    (void)h_lo;
    for (size_t n = panel0 * TRIT_HEAD_PANEL; n < panel1 * TRIT_HEAD_PANEL; n++) {
        size_t first = n / TRIT_HEAD_PANEL * groups * 64 + n % TRIT_HEAD_PANEL * TRIT_GROUP;
        for (size_t row = 0; row < m; row++) {
            int64_t dot = 0;
            for (size_t k = 0; k < groups * TRIT_GROUP; k++)
                dot += plane[first + k / TRIT_GROUP * 64 + k % TRIT_GROUP] * h[row * h_stride + k];
            dots[row * dots_stride + n] = dot;
        }
    }
}
