/*
 * Output head. The two bytes of a weight are joined into an int16 again, e + 128 = 256 * hi + (lo ^ 0x80), and multiplied by the two
 * digits of the hidden value apart, so that the int32 sums of a block of BLOCK groups are exact: |(e + 128) * digit| * 2 is at most
 * 2^23. A block's sums are then widened to int64.
 *
 *      D = sum of e * h = 256 * sum of (e + 128) * h_hi + sum of (e + 128) * h_lo - 128 * sum of h
 *
 * 22 vector operations per 128 bytes for one row: some 20 bytes per cycle, several times what memory gives.
 */
#include <immintrin.h>
#include <string.h>

#include "ops.h"

trit_head_fn trit_head_i16_3x16__avx2;

enum { BLOCK = 128, MR = 3, MAX_ROWS = 48, QUARTERS = 4 };

#define FLATTEN static inline __attribute__((always_inline))

/* Both digits of four inputs of a group as int16. */
typedef struct digits {
    int16_t hi[TRIT_GROUP], lo[TRIT_GROUP];
} digits;

/* Sums of a row for the panel's 16 vocabulary rows: quarter i holds int64 lanes of the four rows quarter_rows[i]. */
typedef int64_t row_sums[QUARTERS][4];

/* What unpacking bytes within 128-bit lanes does to the order of rows. */
static const uint8_t quarter_rows[QUARTERS][4] = {{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}};

static __m256i load(const void *from)
{
    return _mm256_load_si256((const __m256i *)from);
}

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

/* rows hidden rows x `halves` halves of the panel from quarter 2 * first_half; rows and halves are constants where inlined. */
FLATTEN void add_tile(const size_t rows, const size_t halves, const digits (*h)[BLOCK], const int8_t *hi,
                      const int8_t *lo, size_t n_groups, size_t first_half, row_sums *sums)
{
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    __m256i acc_hi[MR][QUARTERS], acc_lo[MR][QUARTERS];
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < 2 * halves; i++)
            acc_hi[r][i] = acc_lo[r][i] = _mm256_setzero_si256();
    for (size_t g = 0; g < n_groups; g++)
        for (size_t half = 0; half < halves; half++) {
            __m256i high = load(hi + g * 64 + (first_half + half) * 32);
            __m256i low = _mm256_xor_si256(load(lo + g * 64 + (first_half + half) * 32), flip);
            __m256i e[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
            for (size_t r = 0; r < rows; r++) {
                __m256i h_hi = broadcast_digits(h[r][g].hi), h_lo = broadcast_digits(h[r][g].lo);
                for (size_t i = 0; i < 2; i++) {
                    acc_hi[r][2 * half + i] = _mm256_add_epi32(acc_hi[r][2 * half + i], _mm256_madd_epi16(e[i], h_hi));
                    acc_lo[r][2 * half + i] = _mm256_add_epi32(acc_lo[r][2 * half + i], _mm256_madd_epi16(e[i], h_lo));
                }
            }
        }
    /* The biases come to 2^32 * 257 for each block. */
    const __m256i bias = _mm256_set1_epi64x((int64_t)257 << 32);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < 2 * halves; i++) {
            __m256i *sum = (__m256i *)(void *)sums[r][2 * first_half + i];
            __m256i block =
                _mm256_add_epi64(_mm256_slli_epi64(add_neighbours(acc_hi[r][i]), 8), add_neighbours(acc_lo[r][i]));
            _mm256_storeu_si256(sum, _mm256_add_epi64(_mm256_loadu_si256(sum), _mm256_sub_epi64(block, bias)));
        }
}

static void add_rows(size_t rows, const digits (*h)[BLOCK], const int8_t *hi, const int8_t *lo, size_t n_groups,
                     row_sums *sums)
{
    if (rows == 1) {
        add_tile(1, 2, h, hi, lo, n_groups, 0, sums);
        return;
    }
    for (size_t half = 0; half < 2; half++)
        if (rows == 2)
            add_tile(2, 1, h, hi, lo, n_groups, half, sums);
        else
            add_tile(MR, 1, h, hi, lo, n_groups, half, sums);
}

/* 2^-shift by its exponent field. */
static float exp2_negated(int8_t shift)
{
    uint32_t bits = (uint32_t)(127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

void trit_head_i16_3x16__avx2(const int8_t *restrict h_hi, const int8_t *restrict h_lo, size_t h_stride, size_t m,
                              const int8_t *restrict hi, const int8_t *restrict lo, size_t groups, size_t panel0,
                              size_t panel1, size_t vocab, const int8_t *restrict shift, const float *restrict h_scale,
                              float *restrict logits, size_t logits_stride)
{
    for (size_t row0 = 0; row0 < m; row0 += MAX_ROWS) {
        size_t n_rows = m - row0 < MAX_ROWS ? m - row0 : MAX_ROWS;
        int64_t offsets[MAX_ROWS];
        for (size_t r = 0; r < n_rows; r++)
            offsets[r] =
                128 * sum_hidden(h_hi + (row0 + r) * h_stride, h_lo + (row0 + r) * h_stride, groups * TRIT_GROUP);
        for (size_t panel = panel0; panel < panel1; panel++) {
            _Alignas(64) row_sums sums[MAX_ROWS] = {0};
            for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
                size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
                size_t first = (panel * groups + g0) * 64;
                for (size_t r = 0; r < n_rows; r += MR) {
                    _Alignas(32) digits h[MR][BLOCK];
                    size_t rows = n_rows - r < MR ? n_rows - r : MR;
                    for (size_t i = 0; i < rows; i++) {
                        size_t at = (row0 + r + i) * h_stride + g0 * TRIT_GROUP;
                        split_digits(h_hi + at, h_lo + at, n_groups, h[i]);
                    }
                    add_rows(rows, (const digits(*)[BLOCK])h, hi + first, lo + first, n_groups, sums + r);
                }
            }
            for (size_t r = 0; r < n_rows; r++)
                for (size_t i = 0; i < TRIT_HEAD_PANEL; i++) {
                    size_t n = panel * TRIT_HEAD_PANEL + quarter_rows[i / 4][i % 4];
                    if (n < vocab)
                        logits[(row0 + r) * logits_stride + n] =
                            ((float)(sums[r][i / 4][i % 4] - offsets[r]) * h_scale[row0 + r]) * exp2_negated(shift[n]);
                }
        }
    }
}
