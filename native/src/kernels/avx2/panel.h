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

#include "ops.h"
#include "tile.h"

enum { EVEN_FIELD_GROUPS = 64, ODD_FIELD_GROUPS = 16 };

/* int16 sums of the four fields of a half. */
typedef struct half_sums {
    __m256i f0, f1, f2, f3;
} half_sums;

/* The four fields of a half times the inputs of up to two rows; rows is a constant where inlined. */
FLATTEN void add_half(const size_t rows, const uint8_t *w, __m256i x0, half_sums *s0, __m256i x1, half_sums *s1)
{
    const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0c);
    __m256i v = load(w), u = _mm256_srli_epi16(v, 4);
#define FIELD(name, codes)                    \
    do {                                      \
        __m256i codes_ = codes;               \
        add_bytes(&s0->name, codes_, x0);     \
        if (rows > 1)                         \
            add_bytes(&s1->name, codes_, x1); \
    } while (0)
    FIELD(f0, _mm256_and_si256(v, low));
    FIELD(f1, _mm256_and_si256(v, high));
    FIELD(f2, _mm256_and_si256(u, low));
    FIELD(f3, _mm256_and_si256(u, high));
#undef FIELD
}

/* Eight int32 sums of pairs of int16. */
static inline __m256i widen(__m256i pairs)
{
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* Add the exact sums of a half to the row's 64; start != 0 begins them. */
static inline void flush_half(int32_t *sums, size_t half, const half_sums *s, int start)
{
    const __m256i wide[4] = {widen(s->f0), _mm256_srai_epi32(widen(s->f1), 2), widen(s->f2),
                             _mm256_srai_epi32(widen(s->f3), 2)};
    for (size_t field = 0; field < 4; field++) {
        int32_t *at = sums + 16 * field + 8 * half;
        store(at, start ? wide[field] : _mm256_add_epi32(load(at), wide[field]));
    }
}

/* Outputs n .. n + 7 of the row at y, as far as there are so many. */
static inline void store_eight(float *y, size_t n, size_t n_outputs, __m256i acc, float row_scale)
{
    __m256 values = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(row_scale));
    if (n + 8 <= n_outputs) {
        _mm256_storeu_ps(y + n, values);
    } else if (n < n_outputs) {
        float last[8];
        _mm256_storeu_ps(last, values);
        memcpy(y + n, last, (n_outputs - n) * sizeof *y);
    }
}

/* sums: of the codes 0, 1, 2 times x, for the panel's 64 outputs. y points at the row. */
static inline void store_panel(float *y, size_t panel, size_t n_outputs, const int32_t *sums, int32_t x_sum,
                               float row_scale)
{
    for (size_t i = 0; i < TRIT_PANEL; i += 8) {
        __m256i acc = _mm256_sub_epi32(load(sums + i), _mm256_set1_epi32(x_sum));
        store_eight(y, panel * TRIT_PANEL + i, n_outputs, acc, row_scale);
    }
}

#endif
