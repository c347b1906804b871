/*
 * panel.h - what gemv and gemm share. Field f of a T2_P64G4 vector, masked in place, is an unsigned vpdpbusd operand of 4^f times the
 * codes of outputs 16f .. 16f + 15: a lane per output.
 *
 * Sums start at -4^f * (sum of x), so that code - 1 is what is summed: at most 127 * 64 * K in size, inside int32 for K up to 2^18, whatever the
 * partial sums wrap to on the way. One arithmetic shift at the end takes the 4^f out, exactly.
 */
#ifndef TRIT_AVX512VNNI_PANEL_H
#define TRIT_AVX512VNNI_PANEL_H

#include "zmm.h"

/* The sums of one row for the panel's 64 outputs. */
typedef struct panel_row {
    __m512i f0, f1, f2, f3;
} panel_row;

FLATTEN panel_row start_row(int32_t x_sum)
{
    uint32_t minus = 0u - (uint32_t)x_sum;
    panel_row row = {_mm512_set1_epi32((int32_t)minus), _mm512_set1_epi32((int32_t)(minus << 2)),
                     _mm512_set1_epi32((int32_t)(minus << 4)), _mm512_set1_epi32((int32_t)(minus << 6))};
    return row;
}

/* The four fields of one vector of weights. */
FLATTEN panel_row split_fields(const uint8_t *w)
{
    __m512i v = _mm512_load_si512(w);
    panel_row fields = {_mm512_and_si512(v, _mm512_set1_epi8(0x03)), _mm512_and_si512(v, _mm512_set1_epi8(0x0c)),
                        _mm512_and_si512(v, _mm512_set1_epi8(0x30)), _mm512_and_si512(v, _mm512_set1_epi8((char)0xc0))};
    return fields;
}

FLATTEN void add_group(panel_row *row, const panel_row *fields, const int8_t *x)
{
    __m512i inputs = broadcast(x);
    add_bytes(&row->f0, fields->f0, inputs);
    add_bytes(&row->f1, fields->f1, inputs);
    add_bytes(&row->f2, fields->f2, inputs);
    add_bytes(&row->f3, fields->f3, inputs);
}

FLATTEN void store_field(float *y, size_t n, size_t n_outputs, __m512i acc, float row_scale)
{
    if (n < n_outputs)
        _mm512_mask_storeu_ps(y + n, first_lanes(n_outputs - n),
                              _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(row_scale)));
}

/* y points at the row. */
FLATTEN void store_row(float *y, size_t panel, size_t n_outputs, const panel_row *row, float row_scale)
{
    size_t n = panel * TRIT_PANEL;
    store_field(y, n, n_outputs, row->f0, row_scale);
    store_field(y, n + 16, n_outputs, _mm512_srai_epi32(row->f1, 2), row_scale);
    store_field(y, n + 32, n_outputs, _mm512_srai_epi32(row->f2, 4), row_scale);
    store_field(y, n + 48, n_outputs, _mm512_srai_epi32(row->f3, 6), row_scale);
}

#endif
