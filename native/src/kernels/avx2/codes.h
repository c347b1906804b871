/*
 * codes.h - tiles of up to six rows x 16 outputs over codes 0, 1, 2: decoded ones, a byte each, or those of a field of packed weights,
 * decoded on the way.
 *
 * Codes of a group are two vectors: the first holds 8 outputs x 4 inputs, the second the next 8. A tile covers at most CODES_GROUPS
 * groups, what an int16 holds before it must be widened, and adds to int32 sums.
 */
#ifndef TRIT_AVX2_CODES_H
#define TRIT_AVX2_CODES_H

#include "panel.h"

enum { CODES_GROUPS = EVEN_FIELD_GROUPS, DECODED = -1 };

FLATTEN void flush_row(int32_t *sums, const tile_row *row, int start)
{
    __m256i first = widen(row->first), second = widen(row->second);
    store(sums, start ? first : _mm256_add_epi32(load(sums), first));
    store(sums + 8, start ? second : _mm256_add_epi32(load(sums + 8), second));
}

/* The mask stays in memory: every register of a tile is taken. */
FLATTEN __m256i field_codes(const uint8_t *w, const int field)
{
    static const _Alignas(32) uint8_t low_bits[32] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3,
                                                      3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3};
    __m256i v = load(w);
    if (field > 0)
        v = _mm256_srli_epi16(v, 2 * field);
    __asm__("vpand %[mask], %[v], %[v]" : [v] "+x"(v) : [mask] "m"(low_bits));
    return v;
}

/* Where row i of a tile reads its inputs. */
#define INPUTS_0 "(%[x])"
#define INPUTS_1 "(%[x],%[stride])"
#define INPUTS_2 "(%[x],%[stride],2)"
#define INPUTS_3 "(%[x],%[stride3])"
#define INPUTS_4 "(%[x],%[stride],4)"
#define INPUTS_5 "(%[x],%[stride5])"

/*
 * One row of a group, as one piece of assembly. Both products come before both sums: product, sum, product, sum lost up to 7 %, depending
 * on where the linker put the loop (AMD EPYC, Zen 3: 282 to 305 Gop/s at 512 rows; in this order 302 to 304 anywhere). Addresses are written
 * out and two groups a turn taken, because every other instruction beside the 24 that multiply and add costs up to 3 %, and more
 * while someone else's thread shares the core: then two groups a turn gave 3 to 9 % over one, four no more.
 */
#define ADD_ROW(at, i)                                                                                              \
    if (rows > i)                                                                                                   \
        __asm__ volatile(                                                                                           \
            "vpbroadcastd " at INPUTS_##i ", %[inputs]\n\t"                                                         \
                                          "vpmaddubsw %[inputs], %[first], %[pairs]\n\t"                            \
                                          "vpmaddubsw %[inputs], %[second], %[inputs]\n\t"                          \
                                          "vpaddw %[pairs], %[sum0], %[sum0]\n\t"                                   \
                                          "vpaddw %[inputs], %[sum1], %[sum1]"                                      \
            : [sum0] "+x"(r##i.first), [sum1] "+x"(r##i.second), [inputs] "=&x"(inputs), [pairs] "=&x"(pairs)       \
            : [first] "x"(first), [second] "x"(second), [x] "r"(x), [stride] "r"(x_stride), [stride3] "r"(stride3), \
              [stride5] "r"(stride5)                                                                                \
            : "memory");
#define ADD_EVEN(i) ADD_ROW("", i)
#define ADD_ODD(i) ADD_ROW("4", i)

/* A group's codes: see add_tile. */
FLATTEN void take_codes(const int field, const uint8_t *from, uint8_t *kept, __m256i *first, __m256i *second)
{
    if (field == DECODED) {
        *first = load(from);
        *second = load(from + 32);
        return;
    }
    if (field == 0)
        prefetch_ahead(from);
    *first = field_codes(from, field);
    *second = field_codes(from + 32, field);
    if (kept != NULL) {
        store(kept, *first);
        store(kept + 32, *second);
    }
}

/*
 * rows x 16 outputs x n_groups groups, an even number; sums (rows, 64), of which 16 are written; start != 0 begins them. from: with field
 * DECODED the codes (n_groups, 64), else packed weights, whose codes of the field also go to kept unless that is NULL. rows and field are
 * constants where inlined.
 */
FLATTEN void add_tile(const size_t rows, const int field, const int8_t *x, size_t x_stride, const uint8_t *from,
                      uint8_t *kept, size_t n_groups, int start, int32_t *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    size_t stride3 = 3 * x_stride, stride5 = 5 * x_stride;
    for (size_t g = 0; g < n_groups; g += 2) {
        __m256i first, second, inputs, pairs;
        take_codes(field, from + g * 64, kept == NULL ? NULL : kept + g * 64, &first, &second);
        EACH_ROW(ADD_EVEN)
        take_codes(field, from + (g + 1) * 64, kept == NULL ? NULL : kept + (g + 1) * 64, &first, &second);
        EACH_ROW(ADD_ODD)
        x += 2 * TRIT_GROUP;
    }
#define FLUSH(i)  \
    if (rows > i) \
        flush_row(sums + i * TRIT_PANEL, &r##i, start);
    EACH_ROW(FLUSH)
#undef FLUSH
}

/* rows 1..6 */
APART void add_codes(size_t rows, const int8_t *x, size_t x_stride, const uint8_t *codes, size_t n_groups, int start,
                     int32_t *sums){
#define TILE(n) add_tile(n, DECODED, x, x_stride, codes, NULL, n_groups, start, sums)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

/* The same from field 0..3 of packed weights. */
APART void add_field(int field, size_t rows, const int8_t *x, size_t x_stride, const uint8_t *w, uint8_t *kept,
                     size_t n_groups, int start, int32_t *sums)
{
#define TILE_OF(field, n) add_tile(n, field, x, x_stride, w, kept, n_groups, start, sums)
#define TILE_0(n) TILE_OF(0, n)
#define TILE_1(n) TILE_OF(1, n)
#define TILE_2(n) TILE_OF(2, n)
#define TILE_3(n) TILE_OF(3, n)
    switch (field) {
    case 0: SWITCH_ROWS(rows, TILE_0) break;
    case 1: SWITCH_ROWS(rows, TILE_1) break;
    case 2: SWITCH_ROWS(rows, TILE_2) break;
    default: SWITCH_ROWS(rows, TILE_3)
    }
#undef TILE_OF
#undef TILE_0
#undef TILE_1
#undef TILE_2
#undef TILE_3
}

#endif
