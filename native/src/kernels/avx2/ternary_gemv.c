/*
 * Ternary linear of one row: streams the weights once per row and keeps the sums of a panel's 64 outputs in registers.
 *
 * 13 vector operations per 32 bytes of weights (a shift, four masks, four vpmaddubsw, four vpaddw): some 9 bytes per cycle, more than
 * one core reads from memory.
 */
#include "panel.h"

trit_ternary_fn trit_gemv_i8t2_1x64__avx2;

enum { HALVES = 2, FIELDS = 4, VECTORS = HALVES * FIELDS };

/* The products of one 32-byte half, added to its four int16 accumulators. */
static inline void add_half(const uint8_t *w, __m256i x, __m256i narrow[FIELDS])
{
    const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0c);
    __m256i v = _mm256_load_si256((const __m256i *)(const void *)w);
    __m256i u = _mm256_srli_epi16(v, 4);
    narrow[0] = _mm256_add_epi16(narrow[0], _mm256_maddubs_epi16(_mm256_and_si256(v, low), x));
    narrow[1] = _mm256_add_epi16(narrow[1], _mm256_maddubs_epi16(_mm256_and_si256(v, high), x));
    narrow[2] = _mm256_add_epi16(narrow[2], _mm256_maddubs_epi16(_mm256_and_si256(u, low), x));
    narrow[3] = _mm256_add_epi16(narrow[3], _mm256_maddubs_epi16(_mm256_and_si256(u, high), x));
}

void trit_gemv_i8t2_1x64__avx2(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    for (size_t row = 0; row < m; row++)
        for (size_t panel = panel0; panel < panel1; panel++) {
            const uint8_t *panel_w = w + panel * groups * 64;
            const int8_t *row_x = x + row * x_stride;
            __m256i wide[VECTORS];
            for (size_t i = 0; i < VECTORS; i++)
                wide[i] = _mm256_setzero_si256();
            for (size_t g0 = 0; g0 < groups; g0 += ODD_FIELD_GROUPS) {
                __m256i narrow[VECTORS];
                for (size_t i = 0; i < VECTORS; i++)
                    narrow[i] = _mm256_setzero_si256();
                for (size_t g = g0; g < g0 + ODD_FIELD_GROUPS; g++) {
                    __m256i inputs = broadcast_inputs(row_x + g * TRIT_GROUP);
                    add_half(panel_w + g * 64, inputs, narrow);
                    add_half(panel_w + g * 64 + 32, inputs, narrow + FIELDS);
                }
                for (size_t i = 0; i < VECTORS; i++)
                    wide[i] = _mm256_add_epi32(wide[i], widen(narrow[i]));
            }
            for (size_t i = 0; i < VECTORS; i++) {
                size_t half = i / FIELDS, field = i % FIELDS, n = panel * TRIT_PANEL + 16 * field + 8 * half;
                __m256i acc = field % 2 ? _mm256_srai_epi32(wide[i], 2) : wide[i];
                store_outputs(y + row * y_stride + n, n, n_outputs, acc, x_sum[row], row_scale[row]);
            }
        }
}
