/*
 * Probabilities times values of one chunk: vpmaddwd of a broadcast token pair with 16 channels, up to six queries at once, over all tokens
 * of the chunk. Channels after the last multiple of 16 are read and written under masks.
 */
#include "ops.h"
#include "tile.h"

trit_av_fn TRIT_KERNEL(trit_av_i16_6x16);

/* All ones in the first n of eight lanes. */
static inline __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8 ? n : 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline __m256i load_some(const int16_t *from, __m256i lanes)
{
    return _mm256_maskload_epi32((const int *)(const void *)from, lanes);
}

/* rows queries x channels j .. j + 15, or j .. head_dim - 1 if partial; acc (rows, acc_stride). */
FLATTEN void sum_tile(const size_t rows, const int partial, const int16_t *a, const int16_t *const *v_blocks,
                      size_t n_blocks, size_t head_dim, size_t j, int32_t *acc, size_t acc_stride,
                      const void *const *ahead)
{
    const __m256i zero = _mm256_setzero_si256(), lanes = first_lanes(head_dim - j),
                  more_lanes = first_lanes(head_dim - j > 8 ? head_dim - j - 8 : 0);
    tile_row r0 = {zero, zero}, r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t t = 0; t < TRIT_BLOCK_TOKENS; t += 2) {
            const int16_t *pairs = v_blocks[b] + t * head_dim + 2 * j;
            if (ahead != NULL) /* as many lines as this block has, in the order of memory */
                prefetch((const char *)ahead[b] + (j / 16 * TRIT_BLOCK_TOKENS / 2 + t / 2) * 64);
            __m256i first = partial ? load_some(pairs, lanes) : load_unaligned(pairs);
            __m256i second = partial ? load_some(pairs + 16, more_lanes) : load_unaligned(pairs + 16);
#define ADD(i)    \
    if (rows > i) \
        add_row_words(&r##i, first, second, a + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS + t);
            EACH_ROW(ADD)
#undef ADD
        }
#define STORE(i)                                                      \
    if (rows > i) {                                                   \
        int32_t *out = acc + i * acc_stride + j;                      \
        if (partial) {                                                \
            _mm256_maskstore_epi32(out, lanes, r##i.first);           \
            _mm256_maskstore_epi32(out + 8, more_lanes, r##i.second); \
        } else {                                                      \
            store(out, r##i.first);                                   \
            store(out + 8, r##i.second);                              \
        }                                                             \
    }
    EACH_ROW(STORE)
#undef STORE
}

APART void sum_rows(size_t rows, const int16_t *a, const int16_t *const *v_blocks, size_t n_blocks, size_t head_dim,
                    size_t j, int32_t *acc, size_t acc_stride, const void *const *ahead){
#define TILE(n) sum_tile(n, 0, a, v_blocks, n_blocks, head_dim, j, acc, acc_stride, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

APART void sum_rows_partial(size_t rows, const int16_t *a, const int16_t *const *v_blocks, size_t n_blocks,
                            size_t head_dim, size_t j, int32_t *acc, size_t acc_stride, const void *const *ahead)
{
#define TILE(n) sum_tile(n, 1, a, v_blocks, n_blocks, head_dim, j, acc, acc_stride, ahead)
    SWITCH_ROWS(rows, TILE)
#undef TILE
}

void TRIT_KERNEL(trit_av_i16_6x16)(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks,
                                   size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride,
                                   const void *const *ahead)
{
    for (size_t i = 0; i < n_q; i += TILE_ROWS) {
        const int16_t *rows_a = a + i * TRIT_CHUNK_TOKENS;
        int32_t *rows_acc = acc + i * acc_stride;
        size_t j = 0;
        for (; j + 16 <= head_dim; j += 16)
            sum_rows(n_q - i, rows_a, v_blocks, n_blocks, head_dim, j, rows_acc, acc_stride, i == 0 ? ahead : NULL);
        if (j < head_dim)
            sum_rows_partial(n_q - i, rows_a, v_blocks, n_blocks, head_dim, j, rows_acc, acc_stride,
                             i == 0 ? ahead : NULL);
    }
}
