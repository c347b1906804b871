/*
 * Probabilities times values of one chunk: a tile of 16 queries times 16 channels; the chunk's 64 tokens are one step. Channels past
 * head_dim are masked, tokens of blocks that are not there are zero.
 */
#include "planes.h"

trit_av_fn TRIT_KERNEL(trit_av_i16_16x16);

/* V of the blocks, [8][head_dim][2] each, at channels j .. j + 15 under `lanes`: row r is tokens 4r .. 4r + 3 of each channel. ahead: of the
 * blocks' size, of which as many lines are prefetched as are read here, in the order of memory; or NULL. */
static void split_values(planes *values, const int16_t *const *v_blocks, size_t n_blocks, size_t head_dim, size_t j,
                         __mmask16 lanes, const void *const *ahead)
{
    const __m512i pick = pick_by_column();
    for (size_t row = 0; row < n_blocks * TRIT_BLOCK_TOKENS / TRIT_GROUP; row++) {
        size_t block = row * TRIT_GROUP / TRIT_BLOCK_TOKENS, token = row * TRIT_GROUP % TRIT_BLOCK_TOKENS;
        const int16_t *from = v_blocks[block] + token * head_dim + 2 * j;
        if (ahead != NULL) {
            const char *lines = (const char *)ahead[block] + (j / TILE * TRIT_BLOCK_TOKENS + token) / 2 * TILE_BYTES;
            prefetch(lines);
            prefetch(lines + TILE_BYTES);
        }
        split(values, row, pick, _mm512_maskz_loadu_epi32(lanes, from),
              _mm512_maskz_loadu_epi32(lanes, from + 2 * head_dim));
    }
}

static void split_probabilities(planes *to, const int16_t *a, size_t rows)
{
    const __m512i pick = pick_in_order();
    for (size_t row = 0; row < rows; row++) {
        const int16_t *from = a + row * TRIT_CHUNK_TOKENS;
        split(to, row, pick, _mm512_load_si512(from), _mm512_load_si512(from + TRIT_CHUNK_TOKENS / 2));
    }
}

void TRIT_KERNEL(trit_av_i16_16x16)(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks,
                                    size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                                    const void *const *ahead)
{
    _Alignas(64) planes queries[MAX_TILES], values;
    _Alignas(64) weights sums;
    size_t n_tiles = tile_count(n_q), rows = tile_rows(n_q);
    configure_tiles(rows, B_HI);
    memset(&values, 0, sizeof values);
    for (size_t tile0 = 0; tile0 < n_tiles; tile0 += MAX_TILES) {
        size_t tiles = n_tiles - tile0 < MAX_TILES ? n_tiles - tile0 : MAX_TILES;
        for (size_t tile = 0; tile < tiles; tile++)
            split_probabilities(&queries[tile], a + tile_first_row(n_q, tile0 + tile) * TRIT_CHUNK_TOKENS, rows);
        for (size_t j = 0; j < head_dim; j += TILE) {
            __mmask16 lanes = first_lanes(head_dim - j);
            split_values(&values, v_blocks, n_blocks, head_dim, j, lanes, tile0 == 0 ? ahead : NULL);
            for (size_t tile = 0; tile < tiles; tile++) {
                zero_sums();
                add_planes(&queries[tile], &values);
                store_sums(&sums);
                int32_t *to = acc + tile_first_row(n_q, tile0 + tile) * acc_stride + j;
                for (size_t row = 0; row < rows; row++)
                    _mm512_mask_storeu_epi32(to + row * acc_stride, lanes, join(&sums, row));
            }
        }
    }
    tile_release();
}
