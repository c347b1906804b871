/*
 * Probabilities times values of one chunk: vpdpwssd of a broadcast token pair with 16 channels, up to six queries at once, over all tokens of
 * the chunk. int8 values are widened as they are loaded. Channels past head_dim are masked.
 */
#include "zmm.h"

trit_av_fn TRIT_KERNEL(trit_av_i16_6x16);
trit_av8_fn TRIT_KERNEL(trit_av_i16i8_6x16);

/* rows queries x channels j .. j + 15, elements of `width` bytes; acc (rows, acc_stride) at channel j. */
FLATTEN void sum_tile(const size_t rows, const size_t width, const int16_t *a, const void *const *v_blocks,
                      size_t n_blocks, size_t head_dim, size_t j, int32_t *acc, size_t acc_stride,
                      const void *const *ahead)
{
    const __mmask16 lanes = first_lanes(head_dim - j);
    __m512i r0 = _mm512_setzero_si512(), r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t t = 0; t < TRIT_BLOCK_TOKENS; t += 2) {
            if (ahead != NULL) /* as many bytes as this tile has of the block, in the order of memory */
                prefetch((const char *)ahead[b] + (j * TRIT_BLOCK_TOKENS + t * LANES) * width);
            __m512i values = load_pairs(lanes, (const char *)v_blocks[b] + (t * head_dim + 2 * j) * width, width);
#define ADD(i)    \
    if (rows > i) \
        add_words(&r##i, values, broadcast(a + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS + t));
            EACH_ROW(ADD)
#undef ADD
        }
#define STORE(i)  \
    if (rows > i) \
        _mm512_mask_storeu_epi32(acc + i * acc_stride, lanes, r##i);
    EACH_ROW(STORE)
#undef STORE
}

APART void sum_wide(size_t rows, const int16_t *a, const void *const *v_blocks, size_t n_blocks, size_t head_dim,
                    size_t j, int32_t *acc, size_t acc_stride, const void *const *ahead){
#define TILE(n) sum_tile(n, sizeof(int16_t), a, v_blocks, n_blocks, head_dim, j, acc, acc_stride, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

APART void sum_narrow(size_t rows, const int16_t *a, const void *const *v_blocks, size_t n_blocks, size_t head_dim,
                      size_t j, int32_t *acc, size_t acc_stride, const void *const *ahead)
{
#define TILE(n) sum_tile(n, sizeof(int8_t), a, v_blocks, n_blocks, head_dim, j, acc, acc_stride, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_av_i16_6x16)(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks,
                                   size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                                   const void *const *ahead)
{
    for (size_t i = 0; i < n_q; i += TILE_ROWS)
        for (size_t j = 0; j < head_dim; j += LANES)
            sum_wide(n_q - i, a + i * TRIT_CHUNK_TOKENS, (const void *const *)v_blocks, n_blocks, head_dim, j,
                     acc + i * acc_stride + j, acc_stride, i == 0 ? ahead : NULL);
}

void TRIT_KERNEL(trit_av_i16i8_6x16)(const int16_t *restrict a, size_t n_q, const int8_t *const *restrict v_blocks,
                                     size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                                     const void *const *ahead)
{
    for (size_t i = 0; i < n_q; i += TILE_ROWS)
        for (size_t j = 0; j < head_dim; j += LANES)
            sum_narrow(n_q - i, a + i * TRIT_CHUNK_TOKENS, (const void *const *)v_blocks, n_blocks, head_dim, j,
                       acc + i * acc_stride + j, acc_stride, i == 0 ? ahead : NULL);
}
