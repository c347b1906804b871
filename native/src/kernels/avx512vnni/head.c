/*
 * Output head, one byte plane. Its bytes become unsigned by adding 128, so that vpdpbusd multiplies them by the two digits of the hidden
 * value; a lane per vocabulary row.
 *
 *      sum b * h = 256 * sum (b + 128) * h_hi + sum (b + 128) * h_lo - 128 * sum h
 *
 * A sum of BLOCK groups is at most 255 * 128 * 4 * BLOCK < 2^31.
 */
#include "zmm.h"

trit_head_fn TRIT_KERNEL(trit_head_i8i16_6x16);

enum { BLOCK = 8192, MAX_ROWS = 48 };

/* Sums by the digit of the hidden value. */
typedef struct digit_sums {
    __m512i hi, lo;
} digit_sums;

static void flush(int64_t *dots, const digit_sums *s, int64_t offset, int begins)
{
    _Alignas(64) int32_t hi[LANES], lo[LANES];
    _mm512_store_si512(hi, s->hi);
    _mm512_store_si512(lo, s->lo);
    for (size_t i = 0; i < LANES; i++)
        dots[i] = (begins ? -offset : dots[i]) + (int64_t)hi[i] * 256 + lo[i];
}

/* What a call works on: the rows of a tile and their offsets, 128 * sum of h. */
typedef struct tile {
    const int8_t *h_hi, *h_lo;
    size_t h_stride;
    const int64_t *offsets;
    int64_t *dots;
    size_t dots_stride;
    int begins;
} tile;

/* rows is a constant where inlined. */
FLATTEN void add_tile(const size_t rows, const tile *t, const int8_t *plane, size_t n_groups)
{
    const __m512i zero = _mm512_setzero_si512(), flip = _mm512_set1_epi8((char)0x80);
    digit_sums r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t g = 0; g < n_groups; g++) {
        prefetch_ahead(plane + g * 64);
        __m512i bytes = _mm512_xor_si512(_mm512_load_si512(plane + g * 64), flip);
#define ADD(i)                                                                             \
    if (rows > i) {                                                                        \
        add_bytes(&r##i.hi, bytes, broadcast(t->h_hi + i * t->h_stride + g * TRIT_GROUP)); \
        add_bytes(&r##i.lo, bytes, broadcast(t->h_lo + i * t->h_stride + g * TRIT_GROUP)); \
    }
        EACH_ROW(ADD)
#undef ADD
    }
#define FLUSH(i)  \
    if (rows > i) \
        flush(t->dots + i * t->dots_stride, &r##i, t->offsets[i], t->begins);
    EACH_ROW(FLUSH)
#undef FLUSH
}

APART void add_rows(size_t rows, const tile *t, const int8_t *plane, size_t n_groups)
{
#define TILE(n) add_tile(n, t, plane, n_groups)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

static int64_t sum_hidden(const int16_t *h, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += h[i];
    return sum;
}

void TRIT_KERNEL(trit_head_i8i16_6x16)(const int16_t *restrict h, const int8_t *restrict h_hi,
                                       const int8_t *restrict h_lo, size_t h_stride, size_t m,
                                       const int8_t *restrict plane, size_t groups, size_t panel0, size_t panel1,
                                       int64_t *restrict dots, size_t dots_stride)
{
    for (size_t row0 = 0; row0 < m; row0 += MAX_ROWS) {
        size_t n_rows = m - row0 < MAX_ROWS ? m - row0 : MAX_ROWS;
        int64_t offsets[MAX_ROWS];
        for (size_t r = 0; r < n_rows; r++)
            offsets[r] = 128 * sum_hidden(h + (row0 + r) * h_stride, groups * TRIT_GROUP);
        for (size_t panel = panel0; panel < panel1; panel++)
            for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
                size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
                for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                    size_t at = (row0 + r) * h_stride + g0 * TRIT_GROUP;
                    const tile t = {.h_hi = h_hi + at,
                                    .h_lo = h_lo + at,
                                    .h_stride = h_stride,
                                    .offsets = offsets + r,
                                    .dots = dots + (row0 + r) * dots_stride + panel * TRIT_HEAD_PANEL,
                                    .dots_stride = dots_stride,
                                    .begins = g0 == 0};
                    add_rows(n_rows - r, &t, plane + (panel * groups + g0) * 64, n_groups);
                }
            }
    }
}
