/*
 * Ternary linear of one row over T5_P64G4 without taking a digit out. With s the byte of a digit and s' that of the next one,
 * 3 s = 256 digit + s', so that
 *
 *      256 * sum of digit * x  =  3 * sum of s * x  -  sum of s' * x
 *
 * and both sums are vpdpbusd of plain bytes: two products and two additions (the tripling) for 64 weights, where the masks of T2_P64G4
 * take one and one. Sums wrap modulo 2^32: right as long as the left side fits, |sum of digit * x| < 2^23, some 33,000 inputs.
 */
#include "zmm.h"

trit_ternary_fn TRIT_KERNEL(trit_gemv_i8t5_1x64);

enum { STRETCH_GROUPS = 8190 }; /* whole blocks, at most 32,760 inputs */

/* Sums of a field: of s * x and of s' * x. */
typedef struct field_sums {
    __m512i now, next;
} field_sums;

static inline __m512i triple(__m512i v)
{
    return _mm512_add_epi8(v, _mm512_add_epi8(v, v));
}

FLATTEN __m512i add_digit(__m512i s, __m512i inputs, field_sums *sums)
{
    add_bytes(&sums->now, s, inputs);
    s = triple(s);
    add_bytes(&sums->next, s, inputs);
    return s;
}

FLATTEN void add_fields(__m512i s, __m512i inputs, field_sums *f0, field_sums *f1, field_sums *f2, field_sums *f3)
{
    s = add_digit(s, inputs, f3);
    s = add_digit(s, inputs, f2);
    s = add_digit(s, inputs, f1);
    (void)add_digit(s, inputs, f0);
}

/* 3 now - next is 256 times the sum of digit * x: exact after the shift. */
static inline __m512i finish(const field_sums *f)
{
    __m512i three = _mm512_add_epi32(f->now, _mm512_add_epi32(f->now, f->now));
    return _mm512_srai_epi32(_mm512_sub_epi32(three, f->next), 8);
}

/* Groups beyond whole blocks are the panel's last. sums (64). */
APART void add_stretch(const int8_t *x, const uint8_t *w, size_t n_groups, int start, int32_t *sums)
{
    const __m512i zero = _mm512_setzero_si512();
    field_sums f0 = {zero, zero}, f1 = f0, f2 = f0, f3 = f0;
    size_t g = 0;
    for (; g + TRIT_DENSE_GROUPS <= n_groups; g += TRIT_DENSE_GROUPS, w += TRIT_DENSE_VECTORS * 64) {
        __m512i fifth = broadcast(x + (g + 4) * TRIT_GROUP);
#define VECTOR(j, field)                                                        \
    do {                                                                        \
        prefetch_ahead(w + j * 64);                                             \
        __m512i s = add_digit(_mm512_load_si512(w + j * 64), fifth, &field);    \
        add_fields(s, broadcast(x + (g + j) * TRIT_GROUP), &f0, &f1, &f2, &f3); \
    } while (0)
        VECTOR(0, f0);
        VECTOR(1, f1);
        VECTOR(2, f2);
        VECTOR(3, f3);
#undef VECTOR
    }
    for (; g < n_groups; g++, w += 64)
        add_fields(triple(_mm512_load_si512(w)), broadcast(x + g * TRIT_GROUP), &f0, &f1, &f2, &f3);
    const __m512i found[4] = {finish(&f0), finish(&f1), finish(&f2), finish(&f3)};
    for (size_t field = 0; field < 4; field++) {
        int32_t *at = sums + 16 * field;
        _mm512_store_si512(at, start ? found[field] : _mm512_add_epi32(_mm512_load_si512(at), found[field]));
    }
}

void TRIT_KERNEL(trit_gemv_i8t5_1x64)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                      size_t m, const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                      size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                      size_t y_stride)
{
    _Alignas(64) int32_t sums[TRIT_PANEL];
    for (size_t row = 0; row < m; row++)
        for (size_t panel = panel0; panel < panel1; panel++) {
            const uint8_t *panel_w = w + panel * trit_dense_vectors(groups) * 64;
            for (size_t g = 0; g < groups; g += STRETCH_GROUPS)
                add_stretch(x + row * x_stride + g * TRIT_GROUP, panel_w + trit_dense_vectors(g) * 64,
                            groups - g < STRETCH_GROUPS ? groups - g : STRETCH_GROUPS, g == 0, sums);
            for (size_t i = 0; i < TRIT_PANEL && panel * TRIT_PANEL + i < n_outputs; i += LANES) {
                size_t n = panel * TRIT_PANEL + i;
                __m512i acc = _mm512_sub_epi32(_mm512_load_si512(sums + i), _mm512_set1_epi32(x_sum[row]));
                _mm512_mask_storeu_ps(y + row * y_stride + n, first_lanes(n_outputs - n),
                                      _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(row_scale[row])));
            }
        }
}
