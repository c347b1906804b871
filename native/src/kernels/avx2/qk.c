/*
 * Queries times keys of one chunk: vpmaddwd of a broadcast channel pair with the 16 tokens of a block, up to six queries at once. int8 keys are
 * widened as they are loaded: once for all queries of a tile.
 */
#include "ops.h"
#include "tile.h"

trit_qk_fn TRIT_KERNEL(trit_qk_i16_6x16);
trit_qk8_fn TRIT_KERNEL(trit_qk_i16i8_6x16);

/* rows queries x 16 tokens; k: elements of `width` bytes; dots (rows, 64). ahead: of the block's size, to be prefetched, or NULL. */
FLATTEN void dot_tile(const size_t rows, const size_t width, const int16_t *q, size_t q_stride, const char *k,
                      size_t head_dim, int32_t *dots, const char *ahead)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t j = 0; j < head_dim; j += 2) {
        const char *pairs = k + j * TRIT_BLOCK_TOKENS * width;
        __m256i first = load_words(pairs, width), second = load_words(pairs + 16 * width, width);
        if (ahead != NULL)
            prefetch(ahead + j * TRIT_BLOCK_TOKENS * width);
#define ADD(i)    \
    if (rows > i) \
        add_row_words(&r##i, first, second, q + i * q_stride + j);
        EACH_ROW(ADD)
#undef ADD
    }
#define STORE(i)                                              \
    if (rows > i) {                                           \
        store(dots + i * TRIT_CHUNK_TOKENS, r##i.first);      \
        store(dots + i * TRIT_CHUNK_TOKENS + 8, r##i.second); \
    }
    EACH_ROW(STORE)
#undef STORE
}

APART void dot_wide(size_t rows, const int16_t *q, size_t q_stride, const void *k, size_t head_dim, int32_t *dots,
                    const void *ahead){
#define TILE(n) dot_tile(n, sizeof(int16_t), q, q_stride, k, head_dim, dots, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

APART void dot_narrow(size_t rows, const int16_t *q, size_t q_stride, const void *k, size_t head_dim, int32_t *dots,
                      const void *ahead)
{
#define TILE(n) dot_tile(n, sizeof(int8_t), q, q_stride, k, head_dim, dots, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_qk_i16_6x16)(const int16_t *restrict q, size_t q_stride, size_t n_q,
                                   const int16_t *const *restrict k_blocks, size_t n_blocks, size_t head_dim,
                                   int32_t *restrict dots, const void *const *ahead)
{
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t i = 0; i < n_q; i += TILE_ROWS)
            dot_wide(n_q - i, q + i * q_stride, q_stride, k_blocks[b], head_dim,
                     dots + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS, i == 0 ? ahead[b] : NULL);
}

void TRIT_KERNEL(trit_qk_i16i8_6x16)(const int16_t *restrict q, size_t q_stride, size_t n_q,
                                     const int8_t *const *restrict k_blocks, size_t n_blocks, size_t head_dim,
                                     int32_t *restrict dots, const void *const *ahead)
{
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t i = 0; i < n_q; i += TILE_ROWS)
            dot_narrow(n_q - i, q + i * q_stride, q_stride, k_blocks[b], head_dim,
                       dots + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS, i == 0 ? ahead[b] : NULL);
}
