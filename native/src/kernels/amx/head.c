/*
 * Output head: 16 vectors of a byte plane (16 vocabulary rows x 64 inputs) are a B tile as they lie, the two digits of 16 hidden rows A
 * tiles, h = 256 * h_hi + h_lo, all signed. Two panels at once: four products per four tiles loaded. A sum of BLOCK steps is at most
 * 128 * 128 * 64 * BLOCK < 2^31.
 *
 * A single row is bound by the stream of the plane: its four products wait 52 cycles for those before them, some 40 bytes a cycle.
 */
#include "tiles.h"

trit_head_fn TRIT_KERNEL(trit_head_i8i16_16x32);

enum { BLOCK = 1024, PANELS = 2 };

/* C by panel and digit of h, B by panel, A by digit. */
#define C0_HI 0
#define C0_LO 1
#define C1_HI 2
#define C1_LO 3
#define A_HI 4
#define A_LO 5
#define B0 6
#define B1 7

/* Sums by digit. */
typedef struct digit_sums {
    int32_t hi[TILE][TILE], lo[TILE][TILE];
} digit_sums;

static inline void prefetch_tile(const int8_t *from)
{
    for (size_t i = 0; i < TILE; i++)
        prefetch_ahead(from + i * TILE_BYTES);
}

/* n_steps of 64 inputs, one or two panels (a constant where inlined), panel1_bytes apart. */
FLATTEN void add_tiles(const size_t panels, const int8_t *h_hi, const int8_t *h_lo, size_t h_stride,
                       const int8_t *plane, size_t panel_bytes, size_t n_steps, digit_sums sums[PANELS])
{
    TILE_ZERO(C0_HI);
    TILE_ZERO(C0_LO);
    TILE_ZERO(C1_HI);
    TILE_ZERO(C1_LO);
    for (size_t step = 0; step < n_steps; step++) {
        const int8_t *from = plane + step * TILE * TILE_BYTES;
        prefetch_tile(from);
        TILE_LOAD(A_HI, h_hi + step * TILE_BYTES, h_stride);
        TILE_LOAD(A_LO, h_lo + step * TILE_BYTES, h_stride);
        TILE_LOAD(B0, from, TILE_BYTES);
        TILE_DOT(ss, C0_HI, A_HI, B0);
        TILE_DOT(ss, C0_LO, A_LO, B0);
        if (panels > 1) {
            prefetch_tile(from + panel_bytes);
            TILE_LOAD(B1, from + panel_bytes, TILE_BYTES);
            TILE_DOT(ss, C1_HI, A_HI, B1);
            TILE_DOT(ss, C1_LO, A_LO, B1);
        }
    }
    TILE_STORE(C0_HI, sums[0].hi, TILE_BYTES);
    TILE_STORE(C0_LO, sums[0].lo, TILE_BYTES);
    if (panels > 1) {
        TILE_STORE(C1_HI, sums[1].hi, TILE_BYTES);
        TILE_STORE(C1_LO, sums[1].lo, TILE_BYTES);
    }
}

/* dots at the tile's first row and the panel's first vocabulary row. */
static void flush(const digit_sums *sums, size_t rows, int64_t *dots, size_t dots_stride, int begins)
{
    for (size_t row = 0; row < rows; row++)
        for (size_t n = 0; n < TRIT_HEAD_PANEL; n++) {
            int64_t *dot = &dots[row * dots_stride + n];
            *dot = (begins ? 0 : *dot) + (int64_t)sums->hi[row][n] * 256 + sums->lo[row][n];
        }
}

void TRIT_KERNEL(trit_head_i8i16_16x32)(const int16_t *restrict h, const int8_t *restrict h_hi,
                                        const int8_t *restrict h_lo, size_t h_stride, size_t m,
                                        const int8_t *restrict plane, size_t groups, size_t panel0, size_t panel1,
                                        int64_t *restrict dots, size_t dots_stride)
{
    (void)h;
    _Alignas(64) digit_sums sums[PANELS];
    size_t n_steps = groups / TILE, rows = tile_rows(m), panel_bytes = groups * TILE_BYTES;
    size_t n_blocks = (n_steps + BLOCK - 1) / BLOCK;
    configure_tiles(rows, B0);
    for (size_t panel = panel0; panel < panel1; panel += PANELS) {
        size_t panels = panel1 - panel < PANELS ? panel1 - panel : PANELS;
        for (size_t tile = 0; tile < tile_count(m); tile++) {
            size_t row = tile_first_row(m, tile);
            int64_t *to = dots + row * dots_stride + panel * TRIT_HEAD_PANEL;
            for (size_t block = 0; block < n_blocks; block++) {
                size_t from = block * BLOCK, steps = n_steps - from < BLOCK ? n_steps - from : BLOCK;
                size_t at = row * h_stride + from * TILE_BYTES;
                const int8_t *w = plane + panel * panel_bytes + from * TILE * TILE_BYTES;
                if (panels > 1)
                    add_tiles(2, h_hi + at, h_lo + at, h_stride, w, panel_bytes, steps, sums);
                else
                    add_tiles(1, h_hi + at, h_lo + at, h_stride, w, panel_bytes, steps, sums);
                for (size_t p = 0; p < panels; p++)
                    flush(&sums[p], rows, to + p * TRIT_HEAD_PANEL, dots_stride, block == 0);
            }
        }
    }
    tile_release();
}
