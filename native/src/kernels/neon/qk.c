/* Queries times keys of one chunk: a tile is four queries x the 16 tokens of a block, 16 accumulators over head_dim. */
#include "pairs.h"

trit_qk_fn trit_qk_i16_4x16__neon;
trit_qk8_fn trit_qk_i16i8_4x16__neon;

INLINE void tile(const int16_t *restrict q, size_t q_stride, size_t rows, const char *restrict k, size_t width,
                 size_t head_dim, int32_t *restrict dots)
{
    int32x4_t acc[PAIR_ROWS][4];
    pairs_zero(acc);
    pairs_add(q, q_stride, rows, k, width, 2 * TRIT_BLOCK_TOKENS * width, head_dim / 2, acc);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < 4; i++)
            vst1q_s32(dots + row * TRIT_CHUNK_TOKENS + 4 * i, acc[row][i]);
}

INLINE void all_blocks(const int16_t *restrict q, size_t q_stride, size_t n_q, const void *const *k_blocks,
                       size_t width, size_t n_blocks, size_t head_dim, int32_t *restrict dots)
{
    for (size_t i = 0; i < n_q; i += PAIR_ROWS)
        for (size_t b = 0; b < n_blocks; b++) {
            const int16_t *rows = q + i * q_stride;
            int32_t *out = dots + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS;
            switch (n_q - i) {
            case 1: tile(rows, q_stride, 1, k_blocks[b], width, head_dim, out); break;
            case 2: tile(rows, q_stride, 2, k_blocks[b], width, head_dim, out); break;
            case 3: tile(rows, q_stride, 3, k_blocks[b], width, head_dim, out); break;
            default: tile(rows, q_stride, 4, k_blocks[b], width, head_dim, out); break;
            }
        }
}

void trit_qk_i16_4x16__neon(const int16_t *restrict q, size_t q_stride, size_t n_q,
                            const int16_t *const *restrict k_blocks, size_t n_blocks, size_t head_dim,
                            int32_t *restrict dots, const void *const *ahead)
{
    (void)ahead;
    all_blocks(q, q_stride, n_q, (const void *const *)k_blocks, sizeof(int16_t), n_blocks, head_dim, dots);
}

void trit_qk_i16i8_4x16__neon(const int16_t *restrict q, size_t q_stride, size_t n_q,
                              const int8_t *const *restrict k_blocks, size_t n_blocks, size_t head_dim,
                              int32_t *restrict dots, const void *const *ahead)
{
    (void)ahead;
    all_blocks(q, q_stride, n_q, (const void *const *)k_blocks, sizeof(int8_t), n_blocks, head_dim, dots);
}
