/*
 * Probabilities times values of one chunk: vpmaddwd of a broadcast token pair with 16 channels, up to six queries at once, over all tokens
 * of the chunk. int8 values are widened as they are loaded. Channels after the last multiple of 16 go through copies.
 */
#include "ops.h"
#include "tile.h"

trit_av_fn TRIT_KERNEL(trit_av_i16_6x16);
trit_av8_fn TRIT_KERNEL(trit_av_i16i8_6x16);

enum { TILE_CHANNELS = 16, MAX_BLOCKS = TRIT_CHUNK_TOKENS / TRIT_BLOCK_TOKENS };

/*
 * rows queries x 16 channels; v_blocks[b] + offset: the channels of block b's first token pair, elements of `width` bytes, pair_bytes from
 * pair to pair; acc (rows, acc_stride). ahead: of the blocks' size, to be prefetched, or NULL.
 */
FLATTEN void sum_tile(const size_t rows, const size_t width, const int16_t *a, const void *const *v_blocks,
                      size_t offset, size_t n_blocks, size_t pair_bytes, int32_t *acc, size_t acc_stride,
                      const void *const *ahead)
{
    const __m256i zero = _mm256_setzero_si256();
    tile_row r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t t = 0; t < TRIT_BLOCK_TOKENS; t += 2) {
            const char *pairs = (const char *)v_blocks[b] + t / 2 * pair_bytes + offset;
            if (ahead != NULL) /* as many bytes as this tile has of the block, in the order of memory */
                prefetch((const char *)ahead[b] + (offset * TRIT_BLOCK_TOKENS / 2 + t * TILE_CHANNELS * width));
            __m256i first = load_words(pairs, width), second = load_words(pairs + 16 * width, width);
#define ADD(i)    \
    if (rows > i) \
        add_row_words(&r##i, first, second, a + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS + t);
            EACH_ROW(ADD)
#undef ADD
        }
#define STORE(i)                                      \
    if (rows > i) {                                   \
        store(acc + i * acc_stride, r##i.first);      \
        store(acc + i * acc_stride + 8, r##i.second); \
    }
    EACH_ROW(STORE)
#undef STORE
}

APART void sum_wide(size_t rows, const int16_t *a, const void *const *v_blocks, size_t offset, size_t n_blocks,
                    size_t pair_bytes, int32_t *acc, size_t acc_stride, const void *const *ahead){
#define TILE(n) sum_tile(n, sizeof(int16_t), a, v_blocks, offset, n_blocks, pair_bytes, acc, acc_stride, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

APART void sum_narrow(size_t rows, const int16_t *a, const void *const *v_blocks, size_t offset, size_t n_blocks,
                      size_t pair_bytes, int32_t *acc, size_t acc_stride, const void *const *ahead)
{
#define TILE(n) sum_tile(n, sizeof(int8_t), a, v_blocks, offset, n_blocks, pair_bytes, acc, acc_stride, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

typedef void sum_fn(size_t rows, const int16_t *a, const void *const *v_blocks, size_t offset, size_t n_blocks,
                    size_t pair_bytes, int32_t *acc, size_t acc_stride, const void *const *ahead);

/* The channels from j on, fewer than 16: values through a copy that is wide enough, sums likewise. */
static void sum_rest(sum_fn *sum, size_t width, const int16_t *a, size_t n_q, const void *const *v_blocks,
                     size_t n_blocks, size_t head_dim, size_t j, int32_t *acc, size_t acc_stride)
{
    char wide[MAX_BLOCKS][TRIT_BLOCK_TOKENS / 2][2 * TILE_CHANNELS * sizeof(int16_t)] = {{{0}}};
    int32_t sums[TILE_ROWS][TILE_CHANNELS];
    const void *blocks[MAX_BLOCKS];
    size_t pair_bytes = 2 * TILE_CHANNELS * width, rest = head_dim - j;
    for (size_t b = 0; b < n_blocks; b++) {
        for (size_t p = 0; p < TRIT_BLOCK_TOKENS / 2; p++)
            memcpy(wide[b][0] + p * pair_bytes, (const char *)v_blocks[b] + (p * head_dim + j) * 2 * width,
                   rest * 2 * width);
        blocks[b] = wide[b];
    }
    for (size_t i = 0; i < n_q; i += TILE_ROWS) {
        size_t rows = n_q - i < TILE_ROWS ? n_q - i : TILE_ROWS;
        sum(rows, a + i * TRIT_CHUNK_TOKENS, blocks, 0, n_blocks, pair_bytes, sums[0], TILE_CHANNELS, NULL);
        for (size_t r = 0; r < rows; r++)
            memcpy(acc + (i + r) * acc_stride + j, sums[r], rest * sizeof sums[r][0]);
    }
}

FLATTEN void sum_all(sum_fn *sum, size_t width, const int16_t *a, size_t n_q, const void *const *v_blocks,
                     size_t n_blocks, size_t head_dim, int32_t *acc, size_t acc_stride, const void *const *ahead)
{
    size_t whole = head_dim / TILE_CHANNELS * TILE_CHANNELS;
    for (size_t i = 0; i < n_q; i += TILE_ROWS)
        for (size_t j = 0; j < whole; j += TILE_CHANNELS)
            sum(n_q - i, a + i * TRIT_CHUNK_TOKENS, v_blocks, j * 2 * width, n_blocks, head_dim * 2 * width,
                acc + i * acc_stride + j, acc_stride, i == 0 ? ahead : NULL);
    if (whole < head_dim)
        sum_rest(sum, width, a, n_q, v_blocks, n_blocks, head_dim, whole, acc, acc_stride);
}

void TRIT_KERNEL(trit_av_i16_6x16)(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks,
                                   size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                                   const void *const *ahead)
{
    sum_all(sum_wide, sizeof(int16_t), a, n_q, (const void *const *)v_blocks, n_blocks, head_dim, acc, acc_stride,
            ahead);
}

void TRIT_KERNEL(trit_av_i16i8_6x16)(const int16_t *restrict a, size_t n_q, const int8_t *const *restrict v_blocks,
                                     size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                                     const void *const *ahead)
{
    sum_all(sum_narrow, sizeof(int8_t), a, n_q, (const void *const *)v_blocks, n_blocks, head_dim, acc, acc_stride,
            ahead);
}
