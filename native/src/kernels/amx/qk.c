/*
 * Queries times keys of one chunk: a tile of 16 queries times the 16 tokens of a block, 64 channels a step. The chunk's keys are taken
 * apart once, into 32 KiB at head_dim 128, and serve up to 64 queries.
 */
#include "planes.h"

trit_qk_fn TRIT_KERNEL(trit_qk_i16_16x16);

enum { MAX_STEPS = 256 / TILE_BYTES, MAX_BLOCKS = TRIT_CHUNK_TOKENS / TRIT_BLOCK_TOKENS, PAIRS = TILE_BYTES / 2 };

/* K of a block, [head_dim / 2][16][2]: row r of step s is channels 64s + 4r .. + 3 of each token. Rows past head_dim are zero. ahead: of the
 * block's size, to be prefetched. */
static void split_keys(planes keys[MAX_STEPS], const int16_t *k, size_t head_dim, const char *ahead)
{
    const __m512i pick = pick_by_column(), zero = _mm512_setzero_si512();
    size_t n_pairs = head_dim / 2, n_steps = (head_dim + TILE_BYTES - 1) / TILE_BYTES;
    for (size_t pair = 0; pair < n_steps * PAIRS; pair += 2) {
        const int16_t *from = k + pair * 2 * TRIT_BLOCK_TOKENS;
        prefetch(ahead + pair * TILE_BYTES);
        prefetch(ahead + (pair + 1) * TILE_BYTES);
        __m512i first = pair < n_pairs ? _mm512_load_si512(from) : zero;
        __m512i second = pair + 1 < n_pairs ? _mm512_load_si512(from + 2 * TRIT_BLOCK_TOKENS) : zero;
        split(&keys[pair / PAIRS], pair % PAIRS / 2, pick, first, second);
    }
}

/* q (rows, q_stride), padded with zeros to a multiple of 32 channels. */
static void split_queries(planes queries[MAX_STEPS], const int16_t *q, size_t q_stride, size_t rows)
{
    const __m512i pick = pick_in_order(), zero = _mm512_setzero_si512();
    for (size_t row = 0; row < rows; row++)
        for (size_t j = 0; j < q_stride; j += TILE_BYTES) {
            const int16_t *from = q + row * q_stride + j;
            __m512i second = j + TILE_BYTES / 2 < q_stride ? _mm512_load_si512(from + TILE_BYTES / 2) : zero;
            split(&queries[j / TILE_BYTES], row, pick, _mm512_load_si512(from), second);
        }
}

void TRIT_KERNEL(trit_qk_i16_16x16)(const int16_t *restrict q, size_t q_stride, size_t n_q,
                                    const int16_t *const *restrict k_blocks, size_t n_blocks, size_t head_dim,
                                    int32_t *restrict dots, const void *const *ahead)
{
    _Alignas(64) planes keys[MAX_BLOCKS][MAX_STEPS], queries[MAX_STEPS];
    _Alignas(64) weights sums;
    size_t n_steps = (head_dim + TILE_BYTES - 1) / TILE_BYTES, rows = tile_rows(n_q);
    configure_tiles(rows, B_HI);
    for (size_t b = 0; b < n_blocks; b++)
        split_keys(keys[b], k_blocks[b], head_dim, ahead[b]);
    for (size_t tile = 0; tile < tile_count(n_q); tile++) {
        size_t first = tile_first_row(n_q, tile);
        split_queries(queries, q + first * q_stride, q_stride, rows);
        for (size_t b = 0; b < n_blocks; b++) {
            zero_sums();
            for (size_t step = 0; step < n_steps; step++)
                add_planes(&queries[step], &keys[b][step]);
            store_sums(&sums);
            for (size_t row = 0; row < rows; row++)
                _mm512_store_si512(dots + (first + row) * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS, join(&sums, row));
        }
    }
    tile_release();
}
