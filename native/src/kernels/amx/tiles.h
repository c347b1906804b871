/*
 * tiles.h - the AMX instructions that the kernels of this folder use. A tile is up to 16 rows of 64 bytes; a product adds to C, 16 x 16 int32,
 *
 *      C[m][n] += sum over k < 16, i < 4 of A[m][4k + i] * B[k][4n + i]
 *
 * so that B is a matrix of groups of four inputs, as the packed layouts have it: 16 consecutive vectors of 64 bytes are a tile.
 *
 * A kernel configures the tiles when it is called and releases them before it returns, a few hundred cycles beside units of work of
 * tens of microseconds: no thread sleeps, or is switched away from, with eight kilobytes of live tiles, and nobody else need know.
 *
 * As assembly, because gcc 12's intrinsics say too little of memory: its _tile_loadconfig declares 8 of the 64 bytes as read, its
 * _tile_loadd none, and the stores that fill a buffer may then come after it, or never. With TRIT_MODEL, tests/native/amx_model.h stands in.
 */
#ifndef TRIT_AMX_TILES_H
#define TRIT_AMX_TILES_H

#include "../avx512vnni/zmm.h"

enum { TILE = 16, TILE_BYTES = 64 }; /* rows, and bytes of a row */

/* Operand of ldtilecfg. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "as the processor reads it");

#ifdef TRIT_MODEL
#include "amx_model.h"
#else

static inline void tile_configure(const tile_config *config)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*config));
}

static inline void tile_release(void)
{
    __asm__ volatile("tilerelease");
}

/* Tiles are numbered by macros or numbers. from, to: the first row; stride in bytes. */
#define TILE_LOAD(tile, from, stride) TILE_LOAD_(tile, from, stride)
#define TILE_LOAD_(tile, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(tile, to, stride) TILE_STORE_(tile, to, stride)
#define TILE_STORE_(tile, to, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((size_t)(stride)) : "memory")
#define TILE_ZERO(tile) TILE_ZERO_(tile)
#define TILE_ZERO_(tile) __asm__ volatile("tilezero %%tmm" #tile : :)

/* c += a * b, signs of a, b: ss, su, us, uu. */
#define TILE_DOT(signs, c, a, b) TILE_DOT_(signs, c, a, b)
#define TILE_DOT_(signs, c, a, b) __asm__ volatile("tdpb" #signs "d %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#endif

/*
 * A matrix of rows taken 16 at a time: the last tile of more than 16 rows starts early enough to be whole and computes some rows
 * twice, so that no tile reads past the rows and all have one shape.
 */
static inline size_t tile_rows(size_t n_rows)
{
    return n_rows < TILE ? n_rows : TILE;
}

static inline size_t tile_count(size_t n_rows)
{
    return (n_rows + TILE - 1) / TILE;
}

static inline size_t tile_first_row(size_t n_rows, size_t tile)
{
    return (tile + 1) * TILE <= n_rows ? tile * TILE : n_rows - tile_rows(n_rows);
}

/* Tiles below first_b: `rows` rows, as A and C have; the others, B, 16. */
static inline void configure_tiles(size_t rows, size_t first_b)
{
    tile_config config = {.palette = 1};
    for (size_t i = 0; i < 8; i++) {
        config.row_bytes[i] = TILE_BYTES;
        config.rows[i] = (uint8_t)(i < first_b ? rows : TILE);
    }
    tile_configure(&config);
}

#endif
