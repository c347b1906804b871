/*
 * Queries times keys of one chunk: vpmaddwd of a broadcast channel pair with 16 tokens. A tile of MR queries keeps its sums in registers
 * over all channels of a block.
 */
#include <immintrin.h>
#include <string.h>

#include "ops.h"

trit_qk_fn trit_qk_i16_6x16__avx2;

enum { MR = 6, VECTORS = 2 };

#define FLATTEN static inline __attribute__((always_inline))

static inline __m256i broadcast_pair(const int16_t *from)
{
    int32_t two;
    memcpy(&two, from, sizeof two);
    return _mm256_set1_epi32(two);
}

/* rows queries x 16 tokens; `rows` is a constant where inlined. */
FLATTEN void dot_tile(const size_t rows, const int16_t *q, size_t q_stride, const int16_t *k, size_t head_dim,
                      int32_t *dots)
{
    __m256i acc[MR][VECTORS];
    for (size_t r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (size_t j = 0; j < head_dim; j += 2) {
        const int16_t *pair = k + j * TRIT_BLOCK_TOKENS;
        __m256i k0 = _mm256_load_si256((const __m256i *)(const void *)pair);
        __m256i k1 = _mm256_load_si256((const __m256i *)(const void *)(pair + 16));
        for (size_t r = 0; r < rows; r++) {
            __m256i channels = broadcast_pair(q + r * q_stride + j);
            acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(k0, channels));
            acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(k1, channels));
        }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < VECTORS; i++)
            _mm256_storeu_si256((__m256i *)(void *)(dots + r * TRIT_CHUNK_TOKENS + 8 * i), acc[r][i]);
}

void trit_qk_i16_6x16__avx2(const int16_t *restrict q, size_t q_stride, size_t n_q,
                            const int16_t *const *restrict k_blocks, size_t n_blocks, size_t head_dim,
                            int32_t *restrict dots)
{
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t i = 0; i < n_q; i += MR) {
            const int16_t *rows_q = q + i * q_stride;
            int32_t *out = dots + i * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS;
            switch (n_q - i) {
            case 1: dot_tile(1, rows_q, q_stride, k_blocks[b], head_dim, out); break;
            case 2: dot_tile(2, rows_q, q_stride, k_blocks[b], head_dim, out); break;
            case 3: dot_tile(3, rows_q, q_stride, k_blocks[b], head_dim, out); break;
            case 4: dot_tile(4, rows_q, q_stride, k_blocks[b], head_dim, out); break;
            case 5: dot_tile(5, rows_q, q_stride, k_blocks[b], head_dim, out); break;
            default: dot_tile(MR, rows_q, q_stride, k_blocks[b], head_dim, out); break;
            }
        }
}
