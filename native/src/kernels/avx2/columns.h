/*
 * columns.h - what down_inputs and down_pairs share: two inputs' runs side by side.
 *
 * The runs of two inputs, interleaved byte by byte, hold in each field the codes of eight outputs (per 128 bits) x 2 inputs: an unsigned
 * operand of vpmaddubsw. A vector covers two panels, one per 128-bit lane: field f of the low (high) interleaving are the outputs 16f .. 16f + 7
 * (16f + 8 .. 16f + 15) of both.
 */
#ifndef TRIT_AVX2_COLUMNS_H
#define TRIT_AVX2_COLUMNS_H

#include "ops.h"
#include "tile.h"

enum { RUN_PANEL_BYTES = 16, TWO_PANELS = 128, PAIR_VECTORS = 8, MAX_PAIRS = 64 };

/* 32 bytes of a run, or its last 16 and zeros. */
FLATTEN __m256i load_run(const uint8_t *run, const size_t bytes)
{
    return bytes == 32 ? load_unaligned(run)
                       : _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)run));
}

/* sums [4 fields][low, high][16] int16 of at most MAX_PAIRS products; acc (64 n_panels): += */
static inline void widen_sums(const int16_t *sums, size_t n_panels, int32_t *acc)
{
    for (size_t v = 0; v < PAIR_VECTORS; v++) {
        int32_t *to = acc + v / 2 * 16 + v % 2 * 8;
        __m256i both = load(sums + 16 * v);
        store(to, _mm256_add_epi32(load_unaligned(to), _mm256_cvtepi16_epi32(_mm256_castsi256_si128(both))));
        if (n_panels == 2) {
            to += TRIT_PANEL;
            store(to, _mm256_add_epi32(load_unaligned(to), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(both, 1))));
        }
    }
}

#endif
