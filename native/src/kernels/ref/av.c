/*
 * Probabilities times values of one chunk, the specification: acc[i][j] = sum over t of a[i][t] * v[t][j], int16 into int32.
 *
 * V of a block: [8][head_dim][2], element (t, j) at [t / 2][j][t % 2]. The a of a query sum to at most 32,736, so the sum stays in
 * int32; for other bytes it wraps, hence the unsigned arithmetic.
 */
#include "ops.h"

trit_av_fn trit_av_i16_1x1__ref;
trit_av8_fn trit_av_i16i8_1x1__ref;

/* One text for values of both types. */
#define WEIGHTED_SUMS(function, value_type)                                                                           \
    void function(const int16_t *restrict a, size_t n_q, const value_type *const *restrict v_blocks, size_t n_blocks, \
                  size_t head_dim, int32_t *restrict acc, size_t acc_stride, const void *const *ahead)                \
    {                                                                                                                 \
        (void)ahead;                                                                                                  \
        for (size_t i = 0; i < n_q; i++)                                                                              \
            for (size_t j = 0; j < head_dim; j++) {                                                                   \
                uint32_t sum = 0;                                                                                     \
                for (size_t t = 0; t < n_blocks * TRIT_BLOCK_TOKENS; t++) {                                           \
                    const value_type *v = v_blocks[t / TRIT_BLOCK_TOKENS];                                            \
                    int32_t value = v[(t % TRIT_BLOCK_TOKENS / 2 * head_dim + j) * 2 + t % 2];                        \
                    sum += (uint32_t)(a[i * TRIT_CHUNK_TOKENS + t] * value);                                          \
                }                                                                                                     \
                acc[i * acc_stride + j] = (int32_t)sum;                                                               \
            }                                                                                                         \
    }

WEIGHTED_SUMS(trit_av_i16_1x1__ref, int16_t)
WEIGHTED_SUMS(trit_av_i16i8_1x1__ref, int8_t)
