/*
 * panel.h - what gemv and gemm share: the fields of a ternary vector as unsigned operands, and the store of eight outputs.
 *
 * One 32-byte half of a T2_P64G4 vector holds 8 outputs x 4 inputs in each of its four fields; half h, field f are the outputs
 * 16f + 8h .. 16f + 8h + 7. A field need not be shifted down to be multiplied: fields 0 and 1 are taken in place (0x03, 0x0c), fields 2 and 3
 * likewise after one shift by 4 for both, so that odd fields come out as four times their code. With |x| <= 127 a pair of products is at
 * most 508, or 2,032 for an odd field: 64 and 16 pairs fit an int16.
 */
#ifndef TRIT_AVX2_PANEL_H
#define TRIT_AVX2_PANEL_H

#include <immintrin.h>
#include <string.h>

#include "ops.h"

enum { EVEN_FIELD_GROUPS = 64, ODD_FIELD_GROUPS = 16 };

/* Four int8 inputs of a group, eight times. */
static inline __m256i broadcast_inputs(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Eight int32 sums of pairs of int16. */
static inline __m256i widen(__m256i pairs)
{
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* acc: exact sums of codes 0, 1, 2 times x. y points at output n of the row. */
static inline void store_outputs(float *y, size_t n, size_t n_outputs, __m256i acc, int32_t x_sum, float row_scale)
{
    __m256 values =
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(acc, _mm256_set1_epi32(x_sum))), _mm256_set1_ps(row_scale));
    if (n + 8 <= n_outputs) {
        _mm256_storeu_ps(y, values);
    } else if (n < n_outputs) {
        float last[8];
        _mm256_storeu_ps(last, values);
        memcpy(y, last, (n_outputs - n) * sizeof *y);
    }
}

#endif
