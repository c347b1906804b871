/*
 * planes.h - what qk and av share: int16 by int16 as four products of bytes.
 *
 *      a = 256 * a_hi + a_lo,  a_hi in [-128, 127], a_lo in [0, 255];  b likewise
 *      sum of a * b = 2^16 * sum a_hi b_hi + 2^8 * (sum a_hi b_lo + sum a_lo b_hi) + sum a_lo b_lo
 *
 * The true sum is inside int32 (docs/numerics.md, "Attention"), and every operation here, in the tiles and in join(), is addition, subtraction or
 * multiplication modulo 2^32. So the result is the true sum whatever the partial ones wrap to; for other bytes (a damaged region) it is
 * the true sum modulo 2^32, as in the reference. The middle sums share a tile.
 *
 * An operand is taken apart by vpermi2b, which picks any 64 of 128 bytes.
 */
#ifndef TRIT_AMX_PLANES_H
#define TRIT_AMX_PLANES_H

#include "tiles.h"

/* C by weight, A and B by plane. */
#define C_HIGH 0
#define C_MIDDLE 1
#define C_LOW 2
#define A_HI 3
#define A_LO 4
#define B_HI 5
#define B_LO 6

enum { MAX_TILES = 4 }; /* tiles of 16 queries that pass over one chunk's planes; more come again */

/* A tile operand in planes. */
typedef struct planes {
    uint8_t hi[TILE][TILE_BYTES], lo[TILE][TILE_BYTES];
} planes;

/* C in its three weights. */
typedef struct weights {
    int32_t high[TILE][TILE], middle[TILE][TILE], low[TILE][TILE];
} weights;

/*
 * Bytes of the 128 of two vectors that make a plane of A, 64 consecutive elements: the even ones (low) or the odd. And of B, where both
 * vectors hold 16 columns of pairs: the low (or high) bytes of four elements of column 0, of column 1, ...
 */
static inline __m512i pick_in_order(void)
{
    _Alignas(64) uint8_t from[TILE_BYTES];
    for (size_t i = 0; i < TILE_BYTES; i++)
        from[i] = (uint8_t)(2 * i);
    return _mm512_load_si512(from);
}

static inline __m512i pick_by_column(void)
{
    _Alignas(64) uint8_t from[TILE_BYTES];
    for (size_t i = 0; i < TILE_BYTES; i++)
        from[i] = (uint8_t)(i / 4 * 4 + i % 2 * 2 + (i % 4 < 2 ? 0 : 64));
    return _mm512_load_si512(from);
}

/* pick: of the low plane; the high bytes stand next to the low ones. */
static inline void split(planes *to, size_t row, __m512i pick, __m512i first, __m512i second)
{
    __m512i odd = _mm512_or_si512(pick, _mm512_set1_epi8(1));
    _mm512_store_si512(to->lo[row], _mm512_permutex2var_epi8(first, pick, second));
    _mm512_store_si512(to->hi[row], _mm512_permutex2var_epi8(first, odd, second));
}

static inline void zero_sums(void)
{
    TILE_ZERO(C_HIGH);
    TILE_ZERO(C_MIDDLE);
    TILE_ZERO(C_LOW);
}

static inline void add_planes(const planes *a, const planes *b)
{
    TILE_LOAD(A_HI, a->hi, TILE_BYTES);
    TILE_LOAD(B_HI, b->hi, TILE_BYTES);
    TILE_DOT(ss, C_HIGH, A_HI, B_HI);
    TILE_LOAD(B_LO, b->lo, TILE_BYTES);
    TILE_DOT(su, C_MIDDLE, A_HI, B_LO);
    TILE_LOAD(A_LO, a->lo, TILE_BYTES);
    TILE_DOT(us, C_MIDDLE, A_LO, B_HI);
    TILE_DOT(uu, C_LOW, A_LO, B_LO);
}

static inline void store_sums(weights *w)
{
    TILE_STORE(C_HIGH, w->high, TILE_BYTES);
    TILE_STORE(C_MIDDLE, w->middle, TILE_BYTES);
    TILE_STORE(C_LOW, w->low, TILE_BYTES);
}

/* One row of C as int32. */
static inline __m512i join(const weights *w, size_t row)
{
    __m512i high = _mm512_slli_epi32(_mm512_load_si512(w->high[row]), 16);
    __m512i middle = _mm512_slli_epi32(_mm512_load_si512(w->middle[row]), 8);
    return _mm512_add_epi32(_mm512_add_epi32(high, middle), _mm512_load_si512(w->low[row]));
}

#endif
