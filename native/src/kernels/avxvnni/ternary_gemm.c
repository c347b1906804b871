/*
 * Ternary linear of several rows: a register tile is up to six rows x the 16 outputs of a field, twelve sums, over all of K. A field is
 * masked on the way, twice per twelve products, which saves the decoded copy that AVX2 needs: its masks go to the port that vpdpbusd
 * does not use. The rows of a tile stay in the first-level cache over the four fields, the panel in the second over all rows.
 */
#include "fields.h"

trit_ternary_fn TRIT_KERNEL(trit_gemm_i8t2_6x16);

/* The panel and the rows of a tile, at its first row. */
typedef struct work {
    const int8_t *x;
    size_t x_stride;
    const int32_t *x_sum;
    const uint8_t *w;
    size_t groups, panel, n_outputs;
    const float *row_scale;
    float *y;
    size_t y_stride;
} work;

/* rows is a constant where inlined. */
FLATTEN void do_tile(const size_t rows, const work *t, size_t field)
{
    const __m256i mask = field_mask(field);
#define START(i)                                                      \
    tile_row r##i = {_mm256_setzero_si256(), _mm256_setzero_si256()}; \
    if (rows > i)                                                     \
        r##i.first = r##i.second = start_field(t->x_sum[i], field);
    EACH_ROW(START)
#undef START
    for (size_t g = 0; g < t->groups; g++) {
        prefetch_ahead(t->w + g * 64);
        __m256i first = _mm256_and_si256(load(t->w + g * 64), mask);
        __m256i second = _mm256_and_si256(load(t->w + g * 64 + 32), mask);
#define ADD(i)                                                               \
    if (rows > i) {                                                          \
        __m256i inputs = broadcast(t->x + i * t->x_stride + g * TRIT_GROUP); \
        add_dots(&r##i.first, first, inputs);                                \
        add_dots(&r##i.second, second, inputs);                              \
    }
        EACH_ROW(ADD)
#undef ADD
    }
#define STORE(i)                                                                                             \
    if (rows > i) {                                                                                          \
        store_field(t->y + i * t->y_stride, t->panel, t->n_outputs, field, 0, r##i.first, t->row_scale[i]);  \
        store_field(t->y + i * t->y_stride, t->panel, t->n_outputs, field, 1, r##i.second, t->row_scale[i]); \
    }
    EACH_ROW(STORE)
#undef STORE
}

APART void do_rows(size_t rows, const work *t, size_t field)
{
#define TILE(n) do_tile(n, t, field)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_gemm_i8t2_6x16)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                      size_t m, const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                      size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                      size_t y_stride)
{
    for (size_t panel = panel0; panel < panel1; panel++)
        for (size_t row = 0; row < m; row += TILE_ROWS) {
            const work t = {
                x + row * x_stride, x_stride,           x_sum + row, w + panel * groups * 64, groups, panel, n_outputs,
                row_scale + row,    y + row * y_stride, y_stride};
            for (size_t field = 0; field < FIELDS; field++)
                do_rows(m - row, &t, field);
        }
}
