/*
 * fields.h - what gemv and gemm share. Field f of a T2_P64G4 vector, masked in place, is an unsigned vpdpbusd operand of 4^f times the
 * codes of outputs 16f .. 16f + 15, eight of them in each 32-byte half: a lane per output.
 *
 * Sums start at -4^f * (sum of x), so that code - 1 is what is summed: at most 127 * 64 * K in size, inside int32 for K up to 2^18,
 * whatever the partial sums wrap to on the way. One arithmetic shift at the end takes the 4^f out, exactly.
 */
#ifndef TRIT_AVXVNNI_FIELDS_H
#define TRIT_AVXVNNI_FIELDS_H

#include "../avx2/panel.h"

enum { FIELDS = 4 };

static inline __m256i field_mask(size_t field)
{
    return _mm256_set1_epi8((char)(3 << 2 * field));
}

static inline __m256i start_field(int32_t x_sum, size_t field)
{
    return _mm256_set1_epi32((int32_t)((0u - (uint32_t)x_sum) << 2 * field));
}

/* Outputs 16 field + 8 half .. + 7 of the panel. y points at the row. */
static inline void store_field(float *y, size_t panel, size_t n_outputs, size_t field, size_t half, __m256i sums,
                               float row_scale)
{
    store_eight(y, panel * TRIT_PANEL + 16 * field + 8 * half, n_outputs, _mm256_srai_epi32(sums, 2 * (int)field),
                row_scale);
}

#endif
