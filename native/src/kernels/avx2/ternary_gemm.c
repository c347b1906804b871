/*
 * Ternary linear of several rows, panel by panel: rows in tiles of six x 16 outputs, inputs in blocks of 64 groups. The first tile decodes
 * the block's weights into bytes of codes (16 KiB, half of the first-level cache) while it multiplies, the others read those; a lone tile
 * keeps none. One or two rows use the fields in place.
 *
 * One thread, AMD EPYC (Zen 3), K 2560, as shares of the multiply-add pair's peak (334 Gop/s, 1.6 pairs a cycle): 91 % at 512 rows, 87 at 16,
 * 81 at 8, 83 at 6, 78 at 4, 73 at 3, 71 at 2. Decoding a block before its first tile gave 85 (as linked), 81 and 72 at 512, 16 and 8 rows; in
 * place, two rows at a time, 71 and 65 at 4 and 3. Codes of one field of 256 groups at a time, so that x is read four times as often
 * from the second-level cache: 86 at 512.
 */
#include "codes.h"

trit_ternary_fn trit_gemm_i8t2_6x16__avx2;

enum { BLOCK = CODES_GROUPS, MAX_ROWS = 16 * TILE_ROWS, FIELDS = 4, FEW = 2 };

/* The exact sums so far of up to MAX_ROWS rows of a panel, in order of outputs. */
typedef int32_t panel_sums[MAX_ROWS][TRIT_PANEL];

/* x, x_sum, row_scale and y at the first of the rows that pass over a panel together. */
typedef struct pass {
    const int8_t *x;
    size_t x_stride, m;
    const int32_t *x_sum;
    const float *row_scale;
    float *y;
    size_t y_stride, n_outputs;
} pass;

/* The lines that a tile's rows will write, while there is still a block to multiply: 256 bytes of rows far apart. */
FLATTEN void prefetch_outputs(const pass *p, size_t row, size_t rows, size_t panel)
{
    for (size_t r = row; r < row + rows; r++)
        for (size_t i = 0; i < TRIT_PANEL; i += 16)
            _mm_prefetch((const char *)(p->y + r * p->y_stride + panel * TRIT_PANEL + i), _MM_HINT_T0);
}

/* The next tile's inputs of this block; past the last row they are not needed, but harmless. */
FLATTEN void prefetch_inputs(const int8_t *x, size_t x_stride, size_t rows)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < BLOCK * TRIT_GROUP; i += 64)
            _mm_prefetch((const char *)(x + r * x_stride + i), _MM_HINT_T0);
}

static void store_rows(const pass *p, size_t row, size_t rows, size_t panel, panel_sums sums)
{
    for (size_t r = row; r < row + rows; r++)
        store_panel(p->y + r * p->y_stride, panel, p->n_outputs, sums[r], p->x_sum[r], p->row_scale[r]);
}

static void do_panel(const pass *p, const uint8_t *w, size_t groups, size_t panel, panel_sums sums)
{
    _Alignas(64) uint8_t codes[FIELDS][BLOCK][64];
    size_t n_tiles = (p->m + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
        size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK, row = 0;
        for (size_t tile = 0; tile < n_tiles; tile++) {
            size_t rows = p->m / n_tiles + (tile < p->m % n_tiles);
            const int8_t *x = p->x + row * p->x_stride + g0 * TRIT_GROUP;
            int last = g0 + n_groups == groups, start = g0 == 0;
            if (last)
                prefetch_outputs(p, row, rows, panel);
            prefetch_inputs(x + rows * p->x_stride, p->x_stride, rows);
            for (size_t field = 0; field < FIELDS; field++) {
                int32_t *tile_sums = &sums[row][16 * field];
                uint8_t *kept = n_tiles > 1 ? codes[field][0] : NULL;
                if (tile == 0)
                    add_field((int)field, rows, x, p->x_stride, w + g0 * 64, kept, n_groups, start, tile_sums);
                else
                    add_codes(rows, x, p->x_stride, kept, n_groups, start, tile_sums);
            }
            if (last)
                store_rows(p, row, rows, panel, sums);
            row += rows;
        }
    }
}

/* One or two rows x 64 outputs x n_groups groups of a block. */
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

static void do_panel_of_few(const pass *p, const uint8_t *w, size_t groups, size_t panel, panel_sums sums)
{
    for (size_t g0 = 0; g0 < groups; g0 += BLOCK) {
        size_t n_groups = groups - g0 < BLOCK ? groups - g0 : BLOCK;
        const int8_t *x = p->x + g0 * TRIT_GROUP;
        if (p->m == 1)
            add_one_in_place(x, w + g0 * 64, n_groups, g0 == 0, sums[0]);
        else
            add_two_in_place(x, p->x_stride, w + g0 * 64, n_groups, g0 == 0, sums[0]);
    }
    store_rows(p, 0, p->m, panel, sums);
}

void trit_gemm_i8t2_6x16__avx2(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    _Alignas(64) panel_sums sums;
    for (size_t row = 0; row < m; row += MAX_ROWS) {
        const pass p = {.x = x + row * x_stride,
                        .x_stride = x_stride,
                        .m = m - row < MAX_ROWS ? m - row : MAX_ROWS,
                        .x_sum = x_sum + row,
                        .row_scale = row_scale + row,
                        .y = y + row * y_stride,
                        .y_stride = y_stride,
                        .n_outputs = n_outputs};
        for (size_t panel = panel0; panel < panel1; panel++) {
            const uint8_t *panel_w = w + panel * groups * 64;
            if (p.m <= FEW)
                do_panel_of_few(&p, panel_w, groups, panel, sums);
            else
                do_panel(&p, panel_w, groups, panel, sums);
        }
    }
}
