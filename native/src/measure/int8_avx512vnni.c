/* int8_avx512vnni.c - vpdpbusd on 512-bit registers, twelve chains. */
#include <immintrin.h>

#include "measure/int8.h"

enum { ACCUMULATORS = 12, DEPTH = 32 };

trit_int8_loop_fn trit_int8_loop__avx512vnni;

uint64_t trit_int8_loop__avx512vnni(uint64_t rounds, int32_t *sink)
{
    __m512i codes = _mm512_set1_epi8(2), x = _mm512_set1_epi8(3);
    __m512i acc[ACCUMULATORS];
    for (int j = 0; j < ACCUMULATORS; j++)
        acc[j] = _mm512_setzero_si512();
    for (uint64_t round = 0; round < rounds; round++)
        for (int i = 0; i < DEPTH; i++) {
            __asm__ volatile("" : "+v"(codes), "+v"(x)); /* the products may not be reused */
            for (int j = 0; j < ACCUMULATORS; j++)
                acc[j] = _mm512_dpbusd_epi32(acc[j], codes, x);
        }
    __m512i sum = acc[0];
    for (int j = 1; j < ACCUMULATORS; j++)
        sum = _mm512_add_epi32(sum, acc[j]);
    *sink = _mm512_reduce_add_epi32(sum);
    return rounds * DEPTH * ACCUMULATORS * 64 * 2;
}
