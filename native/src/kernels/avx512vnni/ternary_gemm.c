/*
 * Ternary linear of several rows: a register tile is up to six rows x the panel's 64 outputs, 24 sums and four fields of the 32
 * registers, over all of K. A panel of weights stays in the second-level cache while the rows pass over it.
 */
#include "panel.h"

trit_ternary_fn TRIT_KERNEL(trit_gemm_i8t2_6x64);

/* x, x_sum, row_scale and y at the tile's first row; rows is a constant where inlined. */
FLATTEN void do_tile(const size_t rows, const int8_t *x, size_t x_stride, const int32_t *x_sum, const uint8_t *panel_w,
                     size_t groups, size_t panel, size_t n_outputs, const float *row_scale, float *y, size_t y_stride)
{
#define START(i) panel_row r##i = start_row(rows > i ? x_sum[i] : 0);
    EACH_ROW(START)
#undef START
    for (size_t g = 0; g < groups; g++) {
        prefetch_ahead(panel_w + g * 64);
        panel_row fields = split_fields(panel_w + g * 64);
#define ADD(i)    \
    if (rows > i) \
        add_group(&r##i, &fields, x + i * x_stride + g * TRIT_GROUP);
        EACH_ROW(ADD)
#undef ADD
    }
#define STORE(i)  \
    if (rows > i) \
        store_row(y + i * y_stride, panel, n_outputs, &r##i, row_scale[i]);
    EACH_ROW(STORE)
#undef STORE
}

APART void do_rows(size_t rows, const int8_t *x, size_t x_stride, const int32_t *x_sum, const uint8_t *panel_w,
                   size_t groups, size_t panel, size_t n_outputs, const float *row_scale, float *y, size_t y_stride)
{
#define TILE(n) do_tile(n, x, x_stride, x_sum, panel_w, groups, panel, n_outputs, row_scale, y, y_stride)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_gemm_i8t2_6x64)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                      size_t m, const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                      size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                      size_t y_stride)
{
    size_t n_tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
    for (size_t panel = panel0; panel < panel1; panel++)
        for (size_t row = 0, tile = 0; tile < n_tiles; tile++) {
            /* alike: eight rows as two and six would leave two with too few chains to hide the latency */
            size_t rows = m / n_tiles + (tile < m % n_tiles);
            do_rows(rows, x + row * x_stride, x_stride, x_sum + row, w + panel * groups * 64, groups, panel, n_outputs,
                    row_scale + row, y + row * y_stride, y_stride);
            row += rows;
        }
}
