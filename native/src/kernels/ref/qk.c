/*
 * Queries times keys of one chunk, the specification: dots[i][t] = sum over j of q[i][j] * k[t][j], int16 into int32.
 *
 * K of a block: [head_dim / 2][16 tokens][2]. With q and k scaled to an L2 norm of 32,000 the sum stays in int32; for other
 * bytes (a damaged region) it wraps, the same on every instruction set, hence the unsigned arithmetic.
 */
#include "ops.h"

trit_qk_fn trit_qk_i16_1x1__ref;
trit_qk8_fn trit_qk_i16i8_1x1__ref;

/* One text for keys of both types. Of int8 keys 32,000 times the norm of 256 values of 127 is 65 million: no sum wraps. */
#define DOT_PRODUCTS(function, key_type)                                                                            \
    void function(const int16_t *restrict q, size_t q_stride, size_t n_q, const key_type *const *restrict k_blocks, \
                  size_t n_blocks, size_t head_dim, int32_t *restrict dots, const void *const *ahead)               \
    {                                                                                                               \
        (void)ahead;                                                                                                \
        for (size_t i = 0; i < n_q; i++)                                                                            \
            for (size_t t = 0; t < n_blocks * TRIT_BLOCK_TOKENS; t++) {                                             \
                const key_type *k = k_blocks[t / TRIT_BLOCK_TOKENS];                                                \
                uint32_t dot = 0;                                                                                   \
                for (size_t j = 0; j < head_dim; j++) {                                                             \
                    int32_t key = k[(j / 2 * TRIT_BLOCK_TOKENS + t % TRIT_BLOCK_TOKENS) * 2 + j % 2];               \
                    dot += (uint32_t)(q[i * q_stride + j] * key);                                                   \
                }                                                                                                   \
                dots[i * TRIT_CHUNK_TOKENS + t] = (int32_t)dot;                                                     \
            }                                                                                                       \
    }

DOT_PRODUCTS(trit_qk_i16_1x1__ref, int16_t)
DOT_PRODUCTS(trit_qk_i16i8_1x1__ref, int8_t)
