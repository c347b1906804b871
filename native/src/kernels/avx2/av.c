/*
 * Probabilities times values of one chunk: vpmaddwd of a broadcast token pair with 16 channels. A tile of MR queries keeps its sums in
 * registers over all tokens of the chunk. The channels after the last multiple of 16 are read and written under a mask.
 */
#include <immintrin.h>
#include <string.h>

#include "ops.h"

trit_av_fn trit_av_i16_6x16__avx2;

enum { MR = 6, VECTORS = 2 };

#define FLATTEN static inline __attribute__((always_inline))

static inline __m256i broadcast_pair(const int16_t *from)
{
    int32_t two;
    memcpy(&two, from, sizeof two);
    return _mm256_set1_epi32(two);
}

/* All ones in the first n of eight lanes. */
static __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8 ? n : 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* rows queries x 8 * n_vectors channels from channel j; a mask if partial. rows, n_vectors, partial are constants where inlined. */
FLATTEN void sum_tile(const size_t rows, const size_t n_vectors, const int partial, const int16_t *a,
                      const int16_t *const *v_blocks, size_t n_blocks, size_t head_dim, size_t j, int32_t *acc,
                      size_t acc_stride)
{
    const __m256i mask = first_lanes(head_dim - j);
    __m256i sums[MR][VECTORS];
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n_vectors; i++)
            sums[r][i] = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t t = 0; t < TRIT_BLOCK_TOKENS; t += 2) {
            const int16_t *pair = v_blocks[b] + t * head_dim + 2 * j;
            __m256i v[VECTORS];
            for (size_t i = 0; i < n_vectors; i++)
                v[i] = partial ? _mm256_maskload_epi32((const int *)(const void *)(pair + 16 * i), mask)
                               : _mm256_loadu_si256((const __m256i *)(const void *)(pair + 16 * i));
            for (size_t r = 0; r < rows; r++) {
                __m256i tokens = broadcast_pair(a + r * TRIT_CHUNK_TOKENS + b * TRIT_BLOCK_TOKENS + t);
                for (size_t i = 0; i < n_vectors; i++)
                    sums[r][i] = _mm256_add_epi32(sums[r][i], _mm256_madd_epi16(v[i], tokens));
            }
        }
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n_vectors; i++) {
            int32_t *out = acc + r * acc_stride + j + 8 * i;
            if (partial)
                _mm256_maskstore_epi32(out, mask, sums[r][i]);
            else
                _mm256_storeu_si256((__m256i *)(void *)out, sums[r][i]);
        }
}

FLATTEN void sum_rows(const size_t rows, const int16_t *a, const int16_t *const *v_blocks, size_t n_blocks,
                      size_t head_dim, int32_t *acc, size_t acc_stride)
{
    size_t j = 0;
    for (; j + 16 <= head_dim; j += 16)
        sum_tile(rows, 2, 0, a, v_blocks, n_blocks, head_dim, j, acc, acc_stride);
    for (; j < head_dim; j += 8)
        sum_tile(rows, 1, 1, a, v_blocks, n_blocks, head_dim, j, acc, acc_stride);
}

void trit_av_i16_6x16__avx2(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks,
                            size_t n_blocks, size_t head_dim, int32_t *restrict acc, size_t acc_stride)
{
    for (size_t i = 0; i < n_q; i += MR) {
        const int16_t *rows_a = a + i * TRIT_CHUNK_TOKENS;
        int32_t *out = acc + i * acc_stride;
        switch (n_q - i) {
        case 1: sum_rows(1, rows_a, v_blocks, n_blocks, head_dim, out, acc_stride); break;
        case 2: sum_rows(2, rows_a, v_blocks, n_blocks, head_dim, out, acc_stride); break;
        case 3: sum_rows(3, rows_a, v_blocks, n_blocks, head_dim, out, acc_stride); break;
        case 4: sum_rows(4, rows_a, v_blocks, n_blocks, head_dim, out, acc_stride); break;
        case 5: sum_rows(5, rows_a, v_blocks, n_blocks, head_dim, out, acc_stride); break;
        default: sum_rows(MR, rows_a, v_blocks, n_blocks, head_dim, out, acc_stride); break;
        }
    }
}
