/*
 * Ternary linear of several rows. Per panel and block of 64 groups the weights are decoded once into bytes of codes (16 KiB, half of
 * the first-level cache) and used by up to MAX_ROWS rows; a register tile is MR rows x 16 outputs.
 *
 * MR = 6: twelve int16 accumulators, two vectors of codes, a broadcast and a product fill the sixteen registers. A block of 64
 * groups is what an int16 holds before it must be widened. Two and three rows do not repay the decoded copy: they use the fields in place.
 */
#include "panel.h"

trit_ternary_fn trit_gemm_i8t2_6x16__avx2;

enum { BLOCK = EVEN_FIELD_GROUPS, MAX_ROWS = 128, MR = 6, FIELDS = 4, FEW_ROWS = 3 };

#define FLATTEN static inline __attribute__((always_inline))

/* The exact sums so far of up to MAX_ROWS rows of a panel, in order of outputs. */
typedef int32_t panel_sums[MAX_ROWS][TRIT_PANEL];

/* codes [field][group][2 halves][32]: the two halves of a field are 16 adjacent outputs. */
static void decode_block(const uint8_t *w, size_t n_groups, uint8_t codes[FIELDS][BLOCK][64])
{
    const __m256i mask = _mm256_set1_epi8(3);
    for (size_t g = 0; g < n_groups; g++)
        for (size_t half = 0; half < 2; half++) {
            __m256i v = _mm256_load_si256((const __m256i *)(const void *)(w + g * 64 + half * 32));
            for (int field = 0; field < FIELDS; field++) {
                __m256i code = _mm256_and_si256(_mm256_srli_epi16(v, 2 * field), mask);
                _mm256_store_si256((__m256i *)(void *)(codes[field][g] + half * 32), code);
            }
        }
}

/* rows rows x 16 outputs x n_groups groups; `rows` is a constant wherever this is inlined. */
FLATTEN void add_tile(const size_t rows, const int8_t *x, size_t x_stride, const uint8_t *codes, size_t n_groups,
                      int first, int32_t *sums)
{
    __m256i narrow[MR][2];
    for (size_t r = 0; r < rows; r++)
        narrow[r][0] = narrow[r][1] = _mm256_setzero_si256();
    for (size_t g = 0; g < n_groups; g++) {
        __m256i c0 = _mm256_load_si256((const __m256i *)(const void *)(codes + g * 64));
        __m256i c1 = _mm256_load_si256((const __m256i *)(const void *)(codes + g * 64 + 32));
        for (size_t r = 0; r < rows; r++) {
            __m256i inputs = broadcast_inputs(x + r * x_stride + g * TRIT_GROUP);
            narrow[r][0] = _mm256_add_epi16(narrow[r][0], _mm256_maddubs_epi16(c0, inputs));
            narrow[r][1] = _mm256_add_epi16(narrow[r][1], _mm256_maddubs_epi16(c1, inputs));
        }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t half = 0; half < 2; half++) {
            __m256i *sum = (__m256i *)(void *)(sums + r * TRIT_PANEL + half * 8);
            __m256i wide = widen(narrow[r][half]);
            _mm256_storeu_si256(sum, first ? wide : _mm256_add_epi32(_mm256_loadu_si256(sum), wide));
        }
}

static void add_rows(size_t rows, const int8_t *x, size_t x_stride, const uint8_t *codes, size_t n_groups, int first,
                     int32_t *sums)
{
    switch (rows) {
    case 1: add_tile(1, x, x_stride, codes, n_groups, first, sums); break;
    case 2: add_tile(2, x, x_stride, codes, n_groups, first, sums); break;
    case 3: add_tile(3, x, x_stride, codes, n_groups, first, sums); break;
    case 4: add_tile(4, x, x_stride, codes, n_groups, first, sums); break;
    case 5: add_tile(5, x, x_stride, codes, n_groups, first, sums); break;
    default: add_tile(MR, x, x_stride, codes, n_groups, first, sums); break;
    }
}

static void add_panel(const int8_t *x, size_t x_stride, size_t m, const uint8_t *w, size_t groups, panel_sums sums)
{
    _Alignas(64) uint8_t codes[FIELDS][BLOCK][64];
    for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
        size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
        decode_block(w + g0 * 64, n_groups, codes);
        for (size_t row = 0; row < m; row += MR)
            for (size_t field = 0; field < FIELDS; field++)
                add_rows(m - row < MR ? m - row : MR, x + row * x_stride + g0 * TRIT_GROUP, x_stride, codes[field][0],
                         n_groups, g0 == 0, &sums[row][16 * field]);
    }
}

/* Two or three rows: the half that is being read, in place, for all of them. */
FLATTEN void add_few(const size_t rows, const int8_t *x, size_t x_stride, const uint8_t *w, size_t groups,
                     panel_sums sums)
{
    const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0c);
    for (size_t half = 0; half < 2; half++)
        for (size_t g0 = 0; g0 < groups; g0 += ODD_FIELD_GROUPS) {
            __m256i narrow[FEW_ROWS][FIELDS];
            for (size_t r = 0; r < rows; r++)
                for (int field = 0; field < FIELDS; field++)
                    narrow[r][field] = _mm256_setzero_si256();
            for (size_t g = g0; g < g0 + ODD_FIELD_GROUPS; g++) {
                __m256i v = _mm256_load_si256((const __m256i *)(const void *)(w + g * 64 + half * 32));
                __m256i u = _mm256_srli_epi16(v, 4);
                __m256i fields[FIELDS] = {_mm256_and_si256(v, low), _mm256_and_si256(v, high), _mm256_and_si256(u, low),
                                          _mm256_and_si256(u, high)};
                for (size_t r = 0; r < rows; r++) {
                    __m256i inputs = broadcast_inputs(x + r * x_stride + g * TRIT_GROUP);
                    for (int field = 0; field < FIELDS; field++)
                        narrow[r][field] =
                            _mm256_add_epi16(narrow[r][field], _mm256_maddubs_epi16(fields[field], inputs));
                }
            }
            for (size_t r = 0; r < rows; r++)
                for (int field = 0; field < FIELDS; field++) {
                    __m256i *sum = (__m256i *)(void *)&sums[r][16 * field + 8 * (int)half];
                    __m256i wide = widen(narrow[r][field]);
                    if (field % 2)
                        wide = _mm256_srai_epi32(wide, 2);
                    _mm256_storeu_si256(sum, g0 == 0 ? wide : _mm256_add_epi32(_mm256_loadu_si256(sum), wide));
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
            const int8_t *rows_x = x + row0 * x_stride;
            const uint8_t *panel_w = w + panel * groups * 64;
            switch (n_rows) {
            case 2: add_few(2, rows_x, x_stride, panel_w, groups, sums); break;
            case 3: add_few(3, rows_x, x_stride, panel_w, groups, sums); break;
            default: add_panel(rows_x, x_stride, n_rows, panel_w, groups, sums); break;
            }
            for (size_t r = 0; r < n_rows; r++)
                for (size_t at = 0; at < TRIT_PANEL; at += 8) {
                    size_t row = row0 + r, n = panel * TRIT_PANEL + at;
                    __m256i acc = _mm256_load_si256((const __m256i *)(const void *)(sums[r] + at));
                    store_outputs(y + row * y_stride + n, n, n_outputs, acc, x_sum[row], row_scale[row]);
                }
        }
}
