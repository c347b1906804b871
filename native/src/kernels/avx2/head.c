/*
 * Output head, one byte plane. Sixteen bytes (four vocabulary rows x four inputs) are widened to int16 and multiplied by the int16 of
 * the hidden row: one vpmaddwd per sixteen products, the bytes widened once for all rows of a tile.
 *
 * |byte x h| * 2 is at most 2^23, so the int32 sums of a block of BLOCK groups are exact: 128 * 32512 * 2 * 256 < 2^31. Every block ends in
 * the int64 sums.
 */
#include "ops.h"
#include "tile.h"

trit_head_fn TRIT_KERNEL(trit_head_i8i16_6x16);

enum { BLOCK = 256, STREAM_ROWS = 3, QUARTER = TRIT_HEAD_PANEL / 4 };

static inline __m256i widen(const int8_t *from)
{
    return _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(const void *)from));
}

/* The four inputs of a group, four times. */
static inline __m256i broadcast_group(const int16_t *from)
{
    int64_t four;
    memcpy(&four, from, sizeof four);
    return _mm256_set1_epi64x(four);
}

/* Add the int32 sums of a quarter, two neighbours per vocabulary row, to its int64 sums. */
FLATTEN void flush(int64_t *dots, __m256i v, int begins)
{
    __m256i biased = _mm256_xor_si256(v, _mm256_set1_epi32(INT32_MIN)); /* each plus 2^31, unsigned */
    __m256i even = _mm256_and_si256(biased, _mm256_set1_epi64x(0xffffffff));
    __m256i sums = _mm256_add_epi64(even, _mm256_srli_epi64(biased, 32));
    sums = _mm256_sub_epi64(sums, _mm256_set1_epi64x((int64_t)1 << 32));
    store(dots, begins ? sums : _mm256_add_epi64(sums, load_unaligned(dots)));
}

/* Up to three rows: the whole panel at once, so that it is one stream. rows is a constant where inlined. */
FLATTEN void add_stream(const size_t rows, const int16_t *h, size_t h_stride, const int8_t *plane, size_t n_groups,
                        int64_t *dots, size_t dots_stride, int begins)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row a0 = {zero, zero}, a1 = a0, a2 = a0, b0 = a0, b1 = a0, b2 = a0;
    for (size_t g = 0; g < n_groups; g++) {
        const int8_t *from = plane + g * 64;
        prefetch_ahead(from);
        __m256i w0 = widen(from), w1 = widen(from + 16), w2 = widen(from + 32), w3 = widen(from + 48);
#define ADD(i)                                                           \
    if (rows > i) {                                                      \
        __m256i in = broadcast_group(h + i * h_stride + g * TRIT_GROUP); \
        add_words(&a##i.first, w0, in), add_words(&a##i.second, w1, in); \
        add_words(&b##i.first, w2, in), add_words(&b##i.second, w3, in); \
    }
        ADD(0) ADD(1) ADD(2)
#undef ADD
    }
#define FLUSH(i)                                                                                   \
    if (rows > i) {                                                                                \
        int64_t *to = dots + i * dots_stride;                                                      \
        flush(to, a##i.first, begins), flush(to + QUARTER, a##i.second, begins);                   \
        flush(to + 2 * QUARTER, b##i.first, begins), flush(to + 3 * QUARTER, b##i.second, begins); \
    }
    FLUSH(0) FLUSH(1) FLUSH(2)
#undef FLUSH
}

/* Up to six rows, half a panel. */
FLATTEN void add_tile(const size_t rows, const int16_t *h, size_t h_stride, const int8_t *plane, size_t n_groups,
                      int64_t *dots, size_t dots_stride, int begins)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t g = 0; g < n_groups; g++) {
        prefetch_ahead(plane + g * 64);
        __m256i w0 = widen(plane + g * 64), w1 = widen(plane + g * 64 + 16);
#define ADD(i)                                                           \
    if (rows > i) {                                                      \
        __m256i in = broadcast_group(h + i * h_stride + g * TRIT_GROUP); \
        add_words(&r##i.first, w0, in), add_words(&r##i.second, w1, in); \
    }
        EACH_ROW(ADD)
#undef ADD
    }
#define FLUSH(i)                                                      \
    if (rows > i) {                                                   \
        flush(dots + i * dots_stride, r##i.first, begins);            \
        flush(dots + i * dots_stride + QUARTER, r##i.second, begins); \
    }
    EACH_ROW(FLUSH)
#undef FLUSH
}

/*
 * One row: two panels at once. One stream got 12.1 GB/s of a core, two 14.6 and, fetched twice as far ahead, 15.0 (AMD EPYC, Zen 3; plain
 * reading gets as much).
 */
enum { PAIR_PREFETCH_BYTES = 2 * PREFETCH_BYTES };

APART void add_pair(const int16_t *h, const int8_t *plane, size_t panel_bytes, size_t n_groups, int64_t *dots,
                    int begins)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row a0 = {zero, zero}, a1 = a0, b0 = a0, b1 = a0;
    for (size_t g = 0; g < n_groups; g++) {
        const int8_t *first = plane + g * 64, *second = first + panel_bytes;
        _mm_prefetch((const char *)first + PAIR_PREFETCH_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)second + PAIR_PREFETCH_BYTES, _MM_HINT_T0);
        __m256i in = broadcast_group(h + g * TRIT_GROUP);
        add_words(&a0.first, widen(first), in), add_words(&a0.second, widen(first + 16), in);
        add_words(&a1.first, widen(first + 32), in), add_words(&a1.second, widen(first + 48), in);
        add_words(&b0.first, widen(second), in), add_words(&b0.second, widen(second + 16), in);
        add_words(&b1.first, widen(second + 32), in), add_words(&b1.second, widen(second + 48), in);
    }
    flush(dots, a0.first, begins), flush(dots + QUARTER, a0.second, begins);
    flush(dots + 2 * QUARTER, a1.first, begins), flush(dots + 3 * QUARTER, a1.second, begins);
    flush(dots + 4 * QUARTER, b0.first, begins), flush(dots + 5 * QUARTER, b0.second, begins);
    flush(dots + 6 * QUARTER, b1.first, begins), flush(dots + 7 * QUARTER, b1.second, begins);
}

APART void add_stream_rows(size_t rows, const int16_t *h, size_t h_stride, const int8_t *plane, size_t n_groups,
                           int64_t *dots, size_t dots_stride, int begins)
{
#define STREAM(n) add_stream(n, h, h_stride, plane, n_groups, dots, dots_stride, begins)
    switch (rows) {
    case 1: STREAM(1); break;
    case 2: STREAM(2); break;
    default: STREAM(3); break;
    }
#undef STREAM
}

APART void add_tile_rows(size_t rows, const int16_t *h, size_t h_stride, const int8_t *plane, size_t n_groups,
                         int64_t *dots, size_t dots_stride, int begins)
{
#define TILE(n) add_tile(n, h, h_stride, plane, n_groups, dots, dots_stride, begins)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_head_i8i16_6x16)(const int16_t *restrict h, const int8_t *restrict h_hi,
                                       const int8_t *restrict h_lo, size_t h_stride, size_t m,
                                       const int8_t *restrict plane, size_t groups, size_t panel0, size_t panel1,
                                       int64_t *restrict dots, size_t dots_stride)
{
    (void)h_hi;
    (void)h_lo;
    size_t n_tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    size_t panel = panel0;
    for (; m == 1 && panel + 2 <= panel1; panel += 2)
        for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
            size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
            add_pair(h + g0 * TRIT_GROUP, plane + (panel * groups + g0) * 64, groups * 64, n_groups,
                     dots + panel * TRIT_HEAD_PANEL, g0 == 0);
        }
    for (; panel < panel1; panel++)
        for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
            size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
            const int8_t *from = plane + (panel * groups + g0) * 64;
            for (size_t tile = 0; tile < n_tiles; tile++) {
                size_t row = m * tile / n_tiles, rows = m * (tile + 1) / n_tiles - row;
                const int16_t *in = h + row * h_stride + g0 * TRIT_GROUP;
                int64_t *to = dots + row * dots_stride + panel * TRIT_HEAD_PANEL;
                if (rows <= STREAM_ROWS) {
                    add_stream_rows(rows, in, h_stride, from, n_groups, to, dots_stride, g0 == 0);
                } else {
                    add_tile_rows(rows, in, h_stride, from, n_groups, to, dots_stride, g0 == 0);
                    add_tile_rows(rows, in, h_stride, from + 32, n_groups, to + 8, dots_stride, g0 == 0);
                }
            }
        }
}
