/* int8_avxvnni.c - vpdpbusd on 256-bit registers, twelve chains. */
#include <immintrin.h>

#include "measure/int8.h"

enum { ACCUMULATORS = 12, DEPTH = 32 };

trit_int8_loop_fn trit_int8_loop__avxvnni;

uint64_t trit_int8_loop__avxvnni(uint64_t rounds, int32_t *sink)
{
    __m256i codes = _mm256_set1_epi8(2), x = _mm256_set1_epi8(3);
    __m256i acc[ACCUMULATORS];
    for (int j = 0; j < ACCUMULATORS; j++)
        acc[j] = _mm256_setzero_si256();
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < DEPTH; i++) {
            __asm__ volatile("" : "+x"(codes), "+x"(x)); /* the products may not be reused */
            for (int j = 0; j < ACCUMULATORS; j++)
                acc[j] = _mm256_dpbusd_avx_epi32(acc[j], codes, x);
        }
    __m256i sum = acc[0];
    for (int j = 1; j < ACCUMULATORS; j++)
        sum = _mm256_add_epi32(sum, acc[j]);
    *sink = _mm256_extract_epi32(sum, 0);
    return rounds * DEPTH * ACCUMULATORS * 32 * 2;
}
