/*
 * Output head. The bytes of a weight become unsigned by adding 128, so that vpdpbusd multiplies them by the two digits of the hidden
 * value; a lane per vocabulary row.
 *
 *      e = 256 * (hi + 128) + (lo + 128) - 32896,   h = 256 * h_hi + h_lo
 *      D = 2^16 * sum hi' h_hi + 2^8 * (sum hi' h_lo + sum lo' h_hi) + sum lo' h_lo - 32896 * sum h
 *
 * A sum of BLOCK groups is at most 255 * 128 * 4 * BLOCK < 2^31.
 */
#include "zmm.h"

trit_head_fn trit_head_i16_6x16__avx512vnni;

enum { BLOCK = 8192, MAX_ROWS = 48, OFFSET = 32896 };

/* int64 sums of a hidden row for the panel's 16 vocabulary rows. */
typedef int64_t row_sums[TRIT_HEAD_PANEL];

/* Named by the digits: of the weight, then of the hidden value. */
typedef struct digit_sums {
    __m512i hi_hi, hi_lo, lo_hi, lo_lo;
} digit_sums;

FLATTEN void add_group(digit_sums *s, __m512i hi, __m512i lo, const int8_t *h_hi, const int8_t *h_lo)
{
    __m512i inputs_hi = broadcast(h_hi), inputs_lo = broadcast(h_lo);
    add_bytes(&s->hi_hi, hi, inputs_hi);
    add_bytes(&s->hi_lo, hi, inputs_lo);
    add_bytes(&s->lo_hi, lo, inputs_hi);
    add_bytes(&s->lo_lo, lo, inputs_lo);
}

static void flush(row_sums sums, const digit_sums *s)
{
    _Alignas(64) int32_t hi_hi[LANES], hi_lo[LANES], lo_hi[LANES], lo_lo[LANES];
    _mm512_store_si512(hi_hi, s->hi_hi);
    _mm512_store_si512(hi_lo, s->hi_lo);
    _mm512_store_si512(lo_hi, s->lo_hi);
    _mm512_store_si512(lo_lo, s->lo_lo);
    for (size_t i = 0; i < LANES; i++)
        sums[i] += (int64_t)hi_hi[i] * 65536 + ((int64_t)hi_lo[i] + lo_hi[i]) * 256 + lo_lo[i];
}

/* rows hidden rows; rows is a constant where inlined. */
FLATTEN void add_tile(const size_t rows, const int8_t *h_hi, const int8_t *h_lo, size_t h_stride, const int8_t *hi,
                      const int8_t *lo, size_t n_groups, row_sums *sums)
{
    const __m512i zero = _mm512_setzero_si512(), flip = _mm512_set1_epi8((char)0x80);
    digit_sums r0 = {zero, zero, zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t g = 0; g < n_groups; g++) {
        prefetch_ahead(hi + g * 64);
        prefetch_ahead(lo + g * 64);
        __m512i high = _mm512_xor_si512(_mm512_load_si512(hi + g * 64), flip);
        __m512i low = _mm512_xor_si512(_mm512_load_si512(lo + g * 64), flip);
#define ADD(i)    \
    if (rows > i) \
        add_group(&r##i, high, low, h_hi + i * h_stride + g * TRIT_GROUP, h_lo + i * h_stride + g * TRIT_GROUP);
        EACH_ROW(ADD)
#undef ADD
    }
#define FLUSH(i)  \
    if (rows > i) \
        flush(sums[i], &r##i);
    EACH_ROW(FLUSH)
#undef FLUSH
}

APART void add_rows(size_t rows, const int8_t *h_hi, const int8_t *h_lo, size_t h_stride, const int8_t *hi,
                    const int8_t *lo, size_t n_groups, row_sums *sums)
{
#define TILE(n) add_tile(n, h_hi, h_lo, h_stride, hi, lo, n_groups, sums)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

static int64_t sum_hidden(const int8_t *h_hi, const int8_t *h_lo, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += 256 * h_hi[i] + h_lo[i];
    return sum;
}

/* 2^-shift by its exponent field. */
static float exp2_negated(int8_t shift)
{
    uint32_t bits = (uint32_t)(127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

void trit_head_i16_6x16__avx512vnni(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t m,
                                    const int8_t *restrict hi, const int8_t *restrict lo, size_t groups, size_t panel0,
                                    size_t panel1, size_t vocab, const int8_t *restrict shift,
                                    const float *restrict h_scale, float *restrict logits, size_t logits_stride)
{
    for (size_t row0 = 0; row0 < m; row0 += MAX_ROWS) {
        size_t n_rows = m - row0 < MAX_ROWS ? m - row0 : MAX_ROWS;
        int64_t offsets[MAX_ROWS];
        for (size_t r = 0; r < n_rows; r++) {
            size_t at = (row0 + r) * h_stride;
            offsets[r] = OFFSET * sum_hidden(h_hi + at, h_lo + at, groups * TRIT_GROUP);
        }
        for (size_t panel = panel0; panel < panel1; panel++) {
            row_sums sums[MAX_ROWS] = {{0}};
            for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
                size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
                size_t first = (panel * groups + g0) * 64;
                for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                    size_t at = (row0 + r) * h_stride + g0 * TRIT_GROUP;
                    add_rows(n_rows - r, h_hi + at, h_lo + at, h_stride, hi + first, lo + first, n_groups, sums + r);
                }
            }
            for (size_t r = 0; r < n_rows; r++)
                for (size_t i = 0; i < TRIT_HEAD_PANEL && panel * TRIT_HEAD_PANEL + i < vocab; i++) {
                    size_t n = panel * TRIT_HEAD_PANEL + i;
                    logits[(row0 + r) * logits_stride + n] =
                        ((float)(sums[r][i] - offsets[r]) * h_scale[row0 + r]) * exp2_negated(shift[n]);
                }
        }
    }
}
