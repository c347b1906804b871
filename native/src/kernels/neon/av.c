/* Probabilities times values of one chunk: a tile is four queries x 16 channels, 16 accumulators over the tokens of all blocks. */
#include <string.h>

#include "pairs.h"

enum { BLOCK_PAIRS = TRIT_BLOCK_TOKENS / 2, MAX_BLOCKS = TRIT_CHUNK_TOKENS / TRIT_BLOCK_TOKENS };

trit_av_fn trit_av_i16_4x16__neon;
trit_av8_fn trit_av_i16i8_4x16__neon;

/* v_blocks[b] + offset bytes: 16 channels of each token pair, pairs pair_bytes apart; out: at the first of the channels. */
INLINE void tile(const int16_t *restrict a, size_t rows, const void *const *v_blocks, size_t width, size_t n_blocks,
                 size_t pair_bytes, size_t offset, int32_t *restrict out, size_t out_stride)
{
    int32x4_t acc[PAIR_ROWS][4];
    pairs_zero(acc);
    for (size_t b = 0; b < n_blocks; b++)
        pairs_add(a + b * TRIT_BLOCK_TOKENS, TRIT_CHUNK_TOKENS, rows, (const char *)v_blocks[b] + offset, width,
                  pair_bytes, BLOCK_PAIRS, acc);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < 4; i++)
            vst1q_s32(out + row * out_stride + 4 * i, acc[row][i]);
}

/* head_dim >= 16. The last tile ends at the last channel, and writes again what it shares with the one before. */
INLINE void all_channels(const int16_t *restrict a, size_t n_q, const void *const *v_blocks, size_t width,
                         size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride)
{
    size_t pair_bytes = 2 * head_dim * width;
    for (size_t i = 0; i < n_q; i += PAIR_ROWS)
        for (size_t next = 0; next < head_dim; next += PAIR_LANES) {
            size_t j = next + PAIR_LANES <= head_dim ? next : head_dim - PAIR_LANES, at = 2 * j * width;
            const int16_t *rows = a + i * TRIT_CHUNK_TOKENS;
            int32_t *out = acc + i * acc_stride + j;
            switch (n_q - i) {
            case 1: tile(rows, 1, v_blocks, width, n_blocks, pair_bytes, at, out, acc_stride); break;
            case 2: tile(rows, 2, v_blocks, width, n_blocks, pair_bytes, at, out, acc_stride); break;
            case 3: tile(rows, 3, v_blocks, width, n_blocks, pair_bytes, at, out, acc_stride); break;
            default: tile(rows, 4, v_blocks, width, n_blocks, pair_bytes, at, out, acc_stride); break;
            }
        }
}

/* head_dim < 16: through copies that are wide enough. */
INLINE void few_channels(const int16_t *restrict a, size_t n_q, const void *const *v_blocks, size_t width,
                         size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride)
{
    char wide[MAX_BLOCKS][BLOCK_PAIRS][2 * PAIR_LANES * sizeof(int16_t)] = {{{0}}};
    const void *blocks[MAX_BLOCKS];
    for (size_t b = 0; b < n_blocks; b++) {
        for (size_t p = 0; p < BLOCK_PAIRS; p++)
            memcpy(wide[b][p], (const char *)v_blocks[b] + p * 2 * head_dim * width, 2 * head_dim * width);
        blocks[b] = wide[b];
    }
    for (size_t i = 0; i < n_q; i++) {
        int32_t out[PAIR_LANES];
        tile(a + i * TRIT_CHUNK_TOKENS, 1, blocks, width, n_blocks, sizeof wide[0][0], 0, out, PAIR_LANES);
        memcpy(acc + i * acc_stride, out, head_dim * sizeof *out);
    }
}

INLINE void sum(const int16_t *restrict a, size_t n_q, const void *const *v_blocks, size_t width, size_t n_blocks,
                size_t head_dim, int32_t *restrict acc, size_t acc_stride)
{
    if (head_dim >= PAIR_LANES)
        all_channels(a, n_q, v_blocks, width, n_blocks, head_dim, acc, acc_stride);
    else
        few_channels(a, n_q, v_blocks, width, n_blocks, head_dim, acc, acc_stride);
}

void trit_av_i16_4x16__neon(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks,
                            size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                            const void *const *ahead)
{
    (void)ahead;
    sum(a, n_q, (const void *const *)v_blocks, sizeof(int16_t), n_blocks, head_dim, acc, acc_stride);
}

void trit_av_i16i8_4x16__neon(const int16_t *restrict a, size_t n_q, const int8_t *const *restrict v_blocks,
                              size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                              const void *const *ahead)
{
    (void)ahead;
    sum(a, n_q, (const void *const *)v_blocks, sizeof(int8_t), n_blocks, head_dim, acc, acc_stride);
}
