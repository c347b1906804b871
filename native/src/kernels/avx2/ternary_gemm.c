/*
 * Ternary linear of several rows. Per panel and block of 64 groups the weights are decoded once into bytes of codes (16 KiB, half of
 * the first-level cache) and used by up to MAX_ROWS rows; a register tile is 6 rows x 16 outputs. A block of 64 groups is what an
 * int16 holds before it must be widened.
 *
 * Up to MAX_FEW_ROWS rows do not repay the decoded copy: they use the fields in place, FEW rows at a time.
 */
#include "panel.h"

trit_ternary_fn trit_gemm_i8t2_6x16__avx2;

enum { BLOCK = EVEN_FIELD_GROUPS, MAX_ROWS = 128, FIELDS = 4, FEW = 2, MAX_FEW_ROWS = 4 };

/* The exact sums so far of up to MAX_ROWS rows of a panel, in order of outputs. */
typedef int32_t panel_sums[MAX_ROWS][TRIT_PANEL];

/* codes [field][group][2 halves][32]: the two halves of a field are 16 adjacent outputs. */
APART void decode_block(const uint8_t *w, size_t n_groups, uint8_t codes[FIELDS][BLOCK][64])
{
    const __m256i mask = _mm256_set1_epi8(3);
    for (size_t g = 0; g < n_groups; g++) {
        prefetch_ahead(w + g * 64); /* the next block */
        for (size_t half = 0; half < 64; half += 32) {
            __m256i v = load(w + g * 64 + half);
            store(codes[0][g] + half, _mm256_and_si256(v, mask));
            store(codes[1][g] + half, _mm256_and_si256(_mm256_srli_epi16(v, 2), mask));
            store(codes[2][g] + half, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
            store(codes[3][g] + half, _mm256_and_si256(_mm256_srli_epi16(v, 6), mask));
        }
    }
}

FLATTEN void flush_row(int32_t *sums, const tile_row *row, int start)
{
    __m256i first = widen(row->first), second = widen(row->second);
    store(sums, start ? first : _mm256_add_epi32(load(sums), first));
    store(sums + 8, start ? second : _mm256_add_epi32(load(sums + 8), second));
}

/* rows rows x 16 outputs x n_groups groups; sums (rows, 64). */
FLATTEN void add_tile(const size_t rows, const int8_t *x, size_t x_stride, const uint8_t *codes, size_t n_groups,
                      int start, int32_t *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t g = 0; g < n_groups; g++) {
        __m256i first = load(codes + g * 64), second = load(codes + g * 64 + 32);
#define ADD(i)                                                         \
    if (rows > i) {                                                    \
        __m256i inputs = broadcast(x + i * x_stride + g * TRIT_GROUP); \
        add_bytes(&r##i.first, first, inputs);                         \
        add_bytes(&r##i.second, second, inputs);                       \
    }
        EACH_ROW(ADD)
#undef ADD
    }
#define FLUSH(i)  \
    if (rows > i) \
        flush_row(sums + i * TRIT_PANEL, &r##i, start);
    EACH_ROW(FLUSH)
#undef FLUSH
}

APART void add_rows(size_t rows, const int8_t *x, size_t x_stride, const uint8_t *codes, size_t n_groups, int start,
                    int32_t *sums)
{
#define TILE(n) add_tile(n, x, x_stride, codes, n_groups, start, sums)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

static void sum_panel(const int8_t *x, size_t x_stride, size_t m, const uint8_t *w, size_t groups, panel_sums sums)
{
    _Alignas(64) uint8_t codes[FIELDS][BLOCK][64];
    for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
        size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
        decode_block(w + g0 * 64, n_groups, codes);
        for (size_t row = 0; row < m; row += TILE_ROWS)
            for (size_t field = 0; field < FIELDS; field++)
                add_rows(m - row, x + row * x_stride + g0 * TRIT_GROUP, x_stride, codes[field][0], n_groups, g0 == 0,
                         &sums[row][16 * field]);
    }
}

/* One or two rows x 64 outputs x n_groups groups. */
FLATTEN void add_in_place(const size_t rows, const int8_t *x, size_t x_stride, const uint8_t *w, size_t n_groups,
                          int start, int32_t *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    for (size_t half = 0; half < 2; half++)
        for (size_t g0 = 0; g0 < n_groups; g0 += ODD_FIELD_GROUPS) {
            half_sums s0 = {zero, zero, zero, zero}, s1 = s0;
            for (size_t g = g0; g < g0 + ODD_FIELD_GROUPS; g++) {
                prefetch_ahead(w + g * 64);
                __m256i x0 = broadcast(x + g * TRIT_GROUP);
                __m256i x1 = rows > 1 ? broadcast(x + x_stride + g * TRIT_GROUP) : x0;
                add_half(rows, w + g * 64 + 32 * half, x0, &s0, x1, &s1);
            }
            flush_half(sums, half, &s0, start && g0 == 0);
            if (rows > 1)
                flush_half(sums + TRIT_PANEL, half, &s1, start && g0 == 0);
        }
}

APART void add_one_in_place(const int8_t *x, const uint8_t *w, size_t n_groups, int start, int32_t *sums)
{
    add_in_place(1, x, 0, w, n_groups, start, sums);
}

APART void add_two_in_place(const int8_t *x, size_t x_stride, const uint8_t *w, size_t n_groups, int start,
                            int32_t *sums)
{
    add_in_place(FEW, x, x_stride, w, n_groups, start, sums);
}

static void sum_panel_of_few(const int8_t *x, size_t x_stride, size_t m, const uint8_t *w, size_t groups,
                             panel_sums sums)
{
    for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
        size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
        for (size_t row = 0; row < m; row += FEW) {
            const int8_t *rows_x = x + row * x_stride + g0 * TRIT_GROUP;
            if (m - row == 1)
                add_one_in_place(rows_x, w + g0 * 64, n_groups, g0 == 0, sums[row]);
            else
                add_two_in_place(rows_x, x_stride, w + g0 * 64, n_groups, g0 == 0, sums[row]);
        }
    }
}

void trit_gemm_i8t2_6x16__avx2(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    _Alignas(64) panel_sums sums;
    for (size_t panel = panel0; panel < panel1; panel++)
        for (size_t row0 = 0; row0 < m; row0 += MAX_ROWS) {
            size_t n_rows = m - row0 < MAX_ROWS ? m - row0 : MAX_ROWS;
            const uint8_t *panel_w = w + panel * groups * 64;
            if (n_rows <= MAX_FEW_ROWS)
                sum_panel_of_few(x + row0 * x_stride, x_stride, n_rows, panel_w, groups, sums);
            else
                sum_panel(x + row0 * x_stride, x_stride, n_rows, panel_w, groups, sums);
            for (size_t r = row0; r < row0 + n_rows; r++)
                store_panel(y + r * y_stride, panel, n_outputs, sums[r - row0], x_sum[r], row_scale[r]);
        }
}
