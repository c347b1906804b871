/*
 * Ternary linear of several rows on tiles. 16 vectors of T2_P64G4 (64 outputs x 64 inputs), masked to field f, are an unsigned B tile of
 * 4^f times the codes of 16 outputs; 64 int8 of 16 rows are a signed A tile where they lie.
 *
 *      y = ((sum of 4^f code * x - 4^f * sum of x) >> 2f) * row_scale
 *
 * The difference is 4^f times a sum of weights -1, 0, 1: at most 127 * 64 * K in size, inside int32 for K up to 2^18, whatever the
 * partial sums wrap to. The shift is exact.
 *
 * What bounds it, in 64-byte rows and cycles of the product (16 a tile; an L2 gives less than a row a cycle, an L1 two):
 *  - 2 x 2 sums need one tile loaded per product, 16 rows in 16 cycles: more than L2 gives, so half of them must come from L1. Hence K in
 *    blocks of up to K_BLOCK steps: two fields of a block are 32 KiB, and stay in L1 while all rows pass over them.
 *  - The price is that sums are stored and loaded once per block: 8 tiles beside up to 64 products.
 *  - A panel's block is decoded once per ROW_BLOCK rows: 64 masks and stores beside 4 products per 16 rows, 6 % with 256 rows. x of a row
 *    block, read once per panel, stays within X_BYTES of the L2's 2 MiB.
 */
#include "tiles.h"

trit_ternary_fn TRIT_KERNEL(trit_gemm_i8t2_32x32);

enum { FIELDS = 4, K_BLOCK = 16, ROW_BLOCK = 256, MAX_TILES = ROW_BLOCK / TILE, X_BYTES = 1 << 20 };

/* C of two tiles of rows times two fields, A of the rows, B of the fields. */
#define C00 0
#define C01 1
#define C10 2
#define C11 3
#define A0 4
#define A1 5
#define B0 6
#define B1 7

/* One step of 64 inputs of one field. */
typedef uint8_t b_tile[TILE][TILE_BYTES];

/* Sums of a tile of rows for the panel's 64 outputs. */
typedef int32_t row_tile[TILE][TRIT_PANEL];

static void decode(const uint8_t *w, size_t n_steps, b_tile fields[FIELDS][K_BLOCK])
{
    const __m512i mask0 = _mm512_set1_epi8(0x03), mask1 = _mm512_set1_epi8(0x0c), mask2 = _mm512_set1_epi8(0x30),
                  mask3 = _mm512_set1_epi8((char)0xc0);
    for (size_t step = 0; step < n_steps; step++)
        for (size_t group = 0; group < TILE; group++) {
            const uint8_t *from = w + (step * TILE + group) * TILE_BYTES;
            prefetch_ahead(from);
            __m512i v = _mm512_load_si512(from);
            _mm512_store_si512(fields[0][step][group], _mm512_and_si512(v, mask0));
            _mm512_store_si512(fields[1][step][group], _mm512_and_si512(v, mask1));
            _mm512_store_si512(fields[2][step][group], _mm512_and_si512(v, mask2));
            _mm512_store_si512(fields[3][step][group], _mm512_and_si512(v, mask3));
        }
}

/*
 * Two tiles of rows (one if x1 is NULL; a constant where inlined) times two fields over n_steps. x0, x1 at the rows' first input of the
 * block; sums at the first field of the rows.
 */
FLATTEN void add_tiles(const int8_t *x0, const int8_t *x1, size_t x_stride, const b_tile *first, const b_tile *second,
                       size_t n_steps, int32_t *sums0, int32_t *sums1, int begins)
{
    enum { SUMS_STRIDE = TRIT_PANEL * sizeof(int32_t) };
    TILE_ZERO(C00);
    TILE_ZERO(C01);
    TILE_ZERO(C10);
    TILE_ZERO(C11);
    if (!begins) {
        TILE_LOAD(C00, sums0, SUMS_STRIDE);
        TILE_LOAD(C01, sums0 + TILE, SUMS_STRIDE);
        if (x1 != NULL) {
            TILE_LOAD(C10, sums1, SUMS_STRIDE);
            TILE_LOAD(C11, sums1 + TILE, SUMS_STRIDE);
        }
    }
    for (size_t step = 0; step < n_steps; step++) {
        TILE_LOAD(A0, x0 + step * TILE_BYTES, x_stride);
        TILE_LOAD(B0, first[step], TILE_BYTES);
        TILE_DOT(su, C00, A0, B0);
        TILE_LOAD(B1, second[step], TILE_BYTES);
        TILE_DOT(su, C01, A0, B1);
        if (x1 != NULL) {
            TILE_LOAD(A1, x1 + step * TILE_BYTES, x_stride);
            TILE_DOT(su, C10, A1, B0);
            TILE_DOT(su, C11, A1, B1);
        }
    }
    TILE_STORE(C00, sums0, SUMS_STRIDE);
    TILE_STORE(C01, sums0 + TILE, SUMS_STRIDE);
    if (x1 != NULL) {
        TILE_STORE(C10, sums1, SUMS_STRIDE);
        TILE_STORE(C11, sums1 + TILE, SUMS_STRIDE);
    }
}

/* The rows of the call, and of them the tiles of a row block. */
typedef struct row_block {
    const int8_t *x;
    size_t x_stride, m, tile0, n_tiles;
} row_block;

static const int8_t *tile_x(const row_block *rows, size_t tile, size_t step)
{
    return rows->x + tile_first_row(rows->m, rows->tile0 + tile) * rows->x_stride + step * TILE_BYTES;
}

/* The block's rows times one panel. */
static void sum_panel(const row_block *rows, const uint8_t *w, size_t n_steps, row_tile sums[MAX_TILES])
{
    _Alignas(64) b_tile fields[FIELDS][K_BLOCK];
    size_t n_blocks = (n_steps + K_BLOCK - 1) / K_BLOCK;
    for (size_t block = 0; block < n_blocks; block++) {
        size_t from = n_steps * block / n_blocks, steps = n_steps * (block + 1) / n_blocks - from;
        decode(w + from * TILE * TILE_BYTES, steps, fields);
        for (size_t field = 0; field < FIELDS; field += 2) {
            const b_tile *first = fields[field], *second = fields[field + 1];
            size_t tile = 0;
            for (; tile + 2 <= rows->n_tiles; tile += 2)
                add_tiles(tile_x(rows, tile, from), tile_x(rows, tile + 1, from), rows->x_stride, first, second, steps,
                          &sums[tile][0][field * TILE], &sums[tile + 1][0][field * TILE], block == 0);
            if (tile < rows->n_tiles)
                add_tiles(tile_x(rows, tile, from), NULL, rows->x_stride, first, second, steps,
                          &sums[tile][0][field * TILE], NULL, block == 0);
        }
    }
}

/* Outputs of one row; y points at the row. */
static void store_row(float *y, size_t panel, size_t n_outputs, const int32_t *sums, int32_t x_sum, float row_scale)
{
    for (size_t field = 0; field < FIELDS; field++) {
        size_t n = panel * TRIT_PANEL + field * TILE;
        if (n >= n_outputs)
            return;
        __m512i minus = _mm512_set1_epi32((int32_t)((0u - (uint32_t)x_sum) << 2 * field));
        __m512i scaled = _mm512_add_epi32(_mm512_load_si512(sums + field * TILE), minus);
        __m512 acc = _mm512_cvtepi32_ps(_mm512_srai_epi32(scaled, (unsigned)(2 * field)));
        _mm512_mask_storeu_ps(y + n, first_lanes(n_outputs - n), _mm512_mul_ps(acc, _mm512_set1_ps(row_scale)));
    }
}

void TRIT_KERNEL(trit_gemm_i8t2_32x32)(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum,
                                       size_t m, const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1,
                                       size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                       size_t y_stride)
{
    _Alignas(64) row_tile sums[MAX_TILES];
    size_t n_steps = groups / TILE, n_tiles = tile_count(m), rows = tile_rows(m);
    size_t tiles_in_cache = X_BYTES / (n_steps * TILE_BYTES * TILE) / 2 * 2;
    size_t most = tiles_in_cache < 2 ? 2 : tiles_in_cache < MAX_TILES ? tiles_in_cache : MAX_TILES;
    configure_tiles(rows, B0);
    for (size_t tile0 = 0; tile0 < n_tiles; tile0 += most) {
        const row_block block = {x, x_stride, m, tile0, n_tiles - tile0 < most ? n_tiles - tile0 : most};
        for (size_t panel = panel0; panel < panel1; panel++) {
            sum_panel(&block, w + panel * groups * TRIT_PANEL, n_steps, sums);
            for (size_t tile = 0; tile < block.n_tiles; tile++)
                for (size_t i = 0, row = tile_first_row(m, tile0 + tile); i < rows; i++, row++)
                    store_row(y + row * y_stride, panel, n_outputs, sums[tile][i], x_sum[row], row_scale[row]);
        }
    }
    tile_release();
}
