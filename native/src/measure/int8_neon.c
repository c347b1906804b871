/* int8_neon.c - sdot, sixteen chains. */
#include <arm_neon.h>

#include "measure/int8.h"

enum { ACCUMULATORS = 16, DEPTH = 32 };

trit_int8_loop_fn trit_int8_loop__neon;

uint64_t trit_int8_loop__neon(uint64_t rounds, int32_t *sink)
{
    int8x16_t codes = vdupq_n_s8(2), x = vdupq_n_s8(3);
    int32x4_t acc[ACCUMULATORS];
    for (int j = 0; j < ACCUMULATORS; j++)
        acc[j] = vdupq_n_s32(0);
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < DEPTH; i++) {
            __asm__ volatile("" : "+w"(codes), "+w"(x)); /* the products may not be reused */
            for (int j = 0; j < ACCUMULATORS; j++)
                acc[j] = vdotq_s32(acc[j], codes, x);
        }
    int32x4_t sum = acc[0];
    for (int j = 1; j < ACCUMULATORS; j++)
        sum = vaddq_s32(sum, acc[j]);
    *sink = vaddvq_s32(sum);
    return rounds * DEPTH * ACCUMULATORS * 16 * 2;
}
