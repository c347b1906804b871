/*
 * Ternary rows: dot products along K with vpdpbusd, so that an output that no gate asks for costs nothing. Per output, the rows of x that
 * need it, six at a time; one alone has an accumulator per field, masked in place (panel.h), several one each.
 */
#include "zmm.h"

trit_up_rows_fn TRIT_KERNEL(trit_up_rows_i8t2_6x1);

enum { UNIT_BYTES = 64 };

FLATTEN __m512i field_in_place(__m512i v, int mask)
{
    return _mm512_and_si512(v, _mm512_set1_epi8((char)mask));
}

/* Sum of code * x. */
APART int32_t dot_one(const int8_t *x, const uint8_t *w, size_t row_bytes)
{
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t at = 0; at < row_bytes; at += UNIT_BYTES) {
        const int8_t *inputs = x + 4 * at;
        __m512i v = _mm512_load_si512(w + at);
        add_bytes(&s0, field_in_place(v, 0x03), _mm512_load_si512(inputs));
        add_bytes(&s1, field_in_place(v, 0x0c), _mm512_load_si512(inputs + 64));
        add_bytes(&s2, field_in_place(v, 0x30), _mm512_load_si512(inputs + 128));
        add_bytes(&s3, field_in_place(v, 0xc0), _mm512_load_si512(inputs + 192));
    }
    __m512i low = _mm512_add_epi32(s0, _mm512_srai_epi32(s1, 2));
    __m512i high = _mm512_add_epi32(_mm512_srai_epi32(s2, 4), _mm512_srai_epi32(s3, 6));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

/* Of up to six rows of x. */
FLATTEN void dot_tile(const size_t rows, const int8_t *const *x, const uint8_t *w, size_t row_bytes, int32_t *dots)
{
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0;
    const __m512i mask = _mm512_set1_epi8(3);
    for (size_t at = 0; at < row_bytes; at += UNIT_BYTES) {
        __m512i v = _mm512_load_si512(w + at);
        for (size_t f = 0; f < 4; f++) {
            __m512i codes = _mm512_and_si512(v, mask);
            v = _mm512_srli_epi32(v, 2);
#define ADD(i)    \
    if (rows > i) \
        add_bytes(&s##i, codes, _mm512_load_si512(x[i] + 4 * at + 64 * f));
            EACH_ROW(ADD)
#undef ADD
        }
    }
#define STORE(i)  \
    if (rows > i) \
        dots[i] = _mm512_reduce_add_epi32(s##i);
    EACH_ROW(STORE)
#undef STORE
}

APART void dot_rows(size_t rows, const int8_t *const *x, const uint8_t *w, size_t row_bytes, int32_t *dots)
{
    if (rows == 1) {
        dots[0] = dot_one(x[0], w, row_bytes);
        return;
    }
#define TILE(n) dot_tile(n, x, w, row_bytes, dots)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_up_rows_i8t2_6x1)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                        size_t m, const uint8_t *restrict w, size_t row_bytes, size_t n0, size_t n1,
                                        const float *restrict row_scale, const float *restrict gate, float *restrict y,
                                        size_t y_stride)
{
    for (size_t n = n0; n < n1; n++) {
        const int8_t *rows_x[TILE_ROWS];
        size_t rows[TILE_ROWS], count = 0;
        int32_t dots[TILE_ROWS];
        for (size_t row = 0; row < m; row++) {
            y[row * y_stride + n] = 0.0f;
            if (gate == NULL || !(gate[row * y_stride + n] <= 0.0f)) {
                rows[count] = row;
                rows_x[count++] = x + row * x_stride;
            }
            if (count == 0 || (count < TILE_ROWS && row + 1 < m))
                continue;
            dot_rows(count, rows_x, w + n * row_bytes, row_bytes, dots);
            for (size_t i = 0; i < count; i++)
                y[rows[i] * y_stride + n] = (float)(dots[i] - x_sum[rows[i]]) * row_scale[rows[i]];
            count = 0;
        }
    }
}
