/*
 * Output head. The two bytes of a weight are joined into an int16 again, e + 128 = 256 * hi + (lo ^ 0x80), and multiplied by the two
 * digits of the hidden value apart, so that the int32 sums of a block of BLOCK groups are exact: |(e + 128) * digit| * 2 is at most
 * 2^23. A block's sums are then widened to int64.
 *
 *      D = sum of e * h = 256 * sum of (e + 128) * h_hi + sum of (e + 128) * h_lo - 128 * sum of h
 *
 * 22 vector operations per 128 bytes for one row: some 20 bytes per cycle, several times what memory gives.
 */
#include "ops.h"
#include "tile.h"

trit_head_fn trit_head_i16_2x16__avx2;

enum { BLOCK = 128, MR = 2, MAX_ROWS = 48, PANELS = 4, QUARTERS = 4 };

/* Both digits of four inputs of a group as int16. */
typedef struct digits {
    int16_t hi[TRIT_GROUP], lo[TRIT_GROUP];
} digits;

/* Sums of a row for the panel's 16 vocabulary rows: quarter i holds int64 lanes of the four rows quarter_rows[i]. */
typedef int64_t row_sums[QUARTERS][4];

/* What unpacking bytes within 128-bit lanes does to the order of rows. */
static const uint8_t quarter_rows[QUARTERS][4] = {{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}};

static __m256i broadcast_digits(const int16_t *from)
{
    int64_t four;
    memcpy(&four, from, sizeof four);
    return _mm256_set1_epi64x(four);
}

static void split_digits(const int8_t *h_hi, const int8_t *h_lo, size_t n_groups, digits *out)
{
    for (size_t g = 0; g < n_groups; g += 4) {
        __m256i hi = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(const void *)(h_hi + g * TRIT_GROUP)));
        __m256i lo = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(const void *)(h_lo + g * TRIT_GROUP)));
        __m256i even = _mm256_unpacklo_epi64(hi, lo), odd = _mm256_unpackhi_epi64(hi, lo);
        _mm256_storeu_si256((__m256i *)(void *)(out + g), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((__m256i *)(void *)(out + g + 2), _mm256_permute2x128_si256(even, odd, 0x31));
    }
}

static int64_t sum_hidden(const int8_t *h_hi, const int8_t *h_lo, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += 256 * h_hi[i] + h_lo[i];
    return sum;
}

/* int64 sums of neighbouring int32, each plus 2^32. */
static inline __m256i add_neighbours(__m256i v)
{
    __m256i biased = _mm256_xor_si256(v, _mm256_set1_epi32(INT32_MIN));
    __m256i even = _mm256_and_si256(biased, _mm256_set1_epi64x(0xffffffff));
    return _mm256_add_epi64(even, _mm256_srli_epi64(biased, 32));
}

/* int32 sums of one hidden row for two quarters, by the digit of the hidden value. */
typedef struct digit_sums {
    __m256i hi0, hi1, lo0, lo1;
} digit_sums;

FLATTEN void add_group(digit_sums *s, __m256i e0, __m256i e1, const digits *h)
{
    __m256i h_hi = broadcast_digits(h->hi), h_lo = broadcast_digits(h->lo);
    add_words(&s->hi0, e0, h_hi);
    add_words(&s->hi1, e1, h_hi);
    add_words(&s->lo0, e0, h_lo);
    add_words(&s->lo1, e1, h_lo);
}

FLATTEN void flush_quarter(int64_t *sums, __m256i hi, __m256i lo)
{
    const __m256i bias = _mm256_set1_epi64x((int64_t)257 << 32); /* of add_neighbours, 256 times and once */
    __m256i block = _mm256_add_epi64(_mm256_slli_epi64(add_neighbours(hi), 8), add_neighbours(lo));
    store(sums, _mm256_add_epi64(load(sums), _mm256_sub_epi64(block, bias)));
}

FLATTEN void flush_half(row_sums sums, size_t half, const digit_sums *s)
{
    flush_quarter(sums[2 * half], s->hi0, s->lo0);
    flush_quarter(sums[2 * half + 1], s->hi1, s->lo1);
}

/* e + 128 of a half of the panel: eight rows x four inputs. */
#define JOIN(at)                                                                                     \
    __m256i high = load(hi + (at)), low = _mm256_xor_si256(load(lo + (at)), _mm256_set1_epi8(-128)); \
    __m256i e0 = _mm256_unpacklo_epi8(low, high), e1 = _mm256_unpackhi_epi8(low, high)

/* One hidden row: both halves at once, so that each plane is one stream. */
APART void add_one(const digits *h, const int8_t *hi, const int8_t *lo, size_t n_groups, row_sums *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    digit_sums s0 = {zero, zero, zero, zero}, s1 = s0;
    for (size_t g = 0; g < n_groups; g++) {
        prefetch_ahead(hi + g * 64);
        prefetch_ahead(lo + g * 64);
        {
            JOIN(g * 64);
            add_group(&s0, e0, e1, &h[g]);
        }
        {
            JOIN(g * 64 + 32);
            add_group(&s1, e0, e1, &h[g]);
        }
    }
    flush_half(sums[0], 0, &s0);
    flush_half(sums[0], 1, &s1);
}

/* Two hidden rows, a half of the panel at a time. Three fill the registers and were slower for each (AMD EPYC, Zen 3). */
APART void add_two(const digits (*h)[BLOCK], const int8_t *hi, const int8_t *lo, size_t n_groups, row_sums *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    for (size_t half = 0; half < 2; half++) {
        digit_sums s0 = {zero, zero, zero, zero}, s1 = s0;
        for (size_t g = 0; g < n_groups; g++) {
            JOIN(g * 64 + half * 32);
            add_group(&s0, e0, e1, &h[0][g]);
            add_group(&s1, e0, e1, &h[1][g]);
        }
        flush_half(sums[0], half, &s0);
        flush_half(sums[1], half, &s1);
    }
}

/* 2^-shift by its exponent field. */
static float exp2_negated(int8_t shift)
{
    uint32_t bits = (uint32_t)(127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/*
 * Sums of n_panels panels for rows h_hi, h_lo (n_rows, h_stride); hi and lo at the first panel. The digits of a pair of rows are split
 * once per block and used by all panels of the call.
 */
static void sum_panels(const int8_t *h_hi, const int8_t *h_lo, size_t h_stride, size_t n_rows, const int8_t *hi,
                       const int8_t *lo, size_t groups, size_t n_panels, row_sums sums[PANELS][MAX_ROWS])
{
    _Alignas(32) digits h[MR][BLOCK];
    for (size_t p = 0; p < n_panels; p++)
        memset(sums[p], 0, n_rows * sizeof sums[p][0]);
    for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
        size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
        for (size_t r = 0; r < n_rows; r += MR) {
            size_t rows = n_rows - r < MR ? n_rows - r : MR;
            for (size_t i = 0; i < rows; i++) {
                size_t at = (r + i) * h_stride + g0 * TRIT_GROUP;
                split_digits(h_hi + at, h_lo + at, n_groups, h[i]);
            }
            for (size_t p = 0; p < n_panels; p++) {
                size_t first = (p * groups + g0) * 64;
                if (rows == 1)
                    add_one(h[0], hi + first, lo + first, n_groups, sums[p] + r);
                else
                    add_two((const digits(*)[BLOCK])h, hi + first, lo + first, n_groups, sums[p] + r);
            }
        }
    }
}

void trit_head_i16_2x16__avx2(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t m,
                              const int8_t *restrict hi, const int8_t *restrict lo, size_t groups, size_t panel0,
                              size_t panel1, size_t vocab, const int8_t *restrict shift, const float *restrict h_scale,
                              float *restrict logits, size_t logits_stride)
{
    _Alignas(64) row_sums sums[PANELS][MAX_ROWS];
    int64_t offsets[MAX_ROWS];
    size_t together = m == 1 ? 1 : PANELS; /* one row streams: a panel to its end */
    for (size_t row0 = 0; row0 < m; row0 += MAX_ROWS) {
        size_t n_rows = m - row0 < MAX_ROWS ? m - row0 : MAX_ROWS;
        const int8_t *rows_hi = h_hi + row0 * h_stride, *rows_lo = h_lo + row0 * h_stride;
        for (size_t r = 0; r < n_rows; r++)
            offsets[r] = 128 * sum_hidden(rows_hi + r * h_stride, rows_lo + r * h_stride, groups * TRIT_GROUP);
        for (size_t panel = panel0; panel < panel1; panel += together) {
            size_t n_panels = panel1 - panel < together ? panel1 - panel : together;
            size_t first = panel * groups * 64;
            sum_panels(rows_hi, rows_lo, h_stride, n_rows, hi + first, lo + first, groups, n_panels, sums);
            for (size_t r = 0; r < n_rows; r++)
                for (size_t i = 0; i < n_panels * TRIT_HEAD_PANEL; i++) {
                    size_t p = i / TRIT_HEAD_PANEL, quarter = i % TRIT_HEAD_PANEL / 4;
                    size_t n = (panel + p) * TRIT_HEAD_PANEL + quarter_rows[quarter][i % 4];
                    if (n < vocab)
                        logits[(row0 + r) * logits_stride + n] =
                            ((float)(sums[p][r][quarter][i % 4] - offsets[r]) * h_scale[row0 + r]) *
                            exp2_negated(shift[n]);
                }
        }
    }
}
