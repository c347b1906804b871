/* int8_amx.c - tdpbsud on whole tiles, four sums. */
#include "../kernels/amx/tiles.h"
#include "measure/int8.h"

enum { SUMS = 4, DEPTH = 32 };

trit_int8_loop_fn trit_int8_loop__amx;

uint64_t trit_int8_loop__amx(uint64_t rounds, int32_t *sink)
{
    _Alignas(64) int32_t sums[TILE][TILE];
    configure_tiles(TILE, TILE);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_ZERO(4);
    TILE_ZERO(5);
    for (uint64_t i = 0; i < rounds * DEPTH; i++) {
        TILE_DOT(su, 0, 4, 5);
        TILE_DOT(su, 1, 4, 5);
        TILE_DOT(su, 2, 4, 5);
        TILE_DOT(su, 3, 4, 5);
    }
    TILE_STORE(0, sums, TILE_BYTES);
    tile_release();
    *sink = sums[0][0];
    return rounds * DEPTH * SUMS * TILE * TILE * TILE_BYTES * 2;
}
