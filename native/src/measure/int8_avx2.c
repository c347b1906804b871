/* int8_avx2.c - vpmaddubsw into int16, widened by vpmaddwd before it can overflow, as the AVX2 kernels do. */
#include <immintrin.h>

#include "measure/int8.h"

enum { ACCUMULATORS = 8, DEPTH = 32 };

trit_int8_loop_fn trit_int8_loop__avx2;

uint64_t trit_int8_loop__avx2(uint64_t rounds, int32_t *sink)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i codes = _mm256_set1_epi8(2), x = _mm256_set1_epi8(3);
    __m256i wide[ACCUMULATORS];
    for (int j = 0; j < ACCUMULATORS; j++)
        wide[j] = _mm256_setzero_si256();
    for (uint64_t round = 0; round < rounds; round++) {
        __m256i narrow[ACCUMULATORS];
        for (int j = 0; j < ACCUMULATORS; j++)
            narrow[j] = _mm256_setzero_si256();
        for (int i = 0; i < DEPTH; i++) {
            for (int j = 0; j < ACCUMULATORS; j++) {
                narrow[j] = _mm256_add_epi16(narrow[j], _mm256_maddubs_epi16(codes, x));
                /* in this order and in registers, and the next product is another */
                __asm__ volatile("" : "+x"(narrow[j]), "+x"(codes));
            }
        }
        for (int j = 0; j < ACCUMULATORS; j++)
            wide[j] = _mm256_add_epi32(wide[j], _mm256_madd_epi16(narrow[j], ones));
    }
    __m256i sum = wide[0];
    for (int j = 1; j < ACCUMULATORS; j++)
        sum = _mm256_add_epi32(sum, wide[j]);
    *sink = _mm256_extract_epi32(sum, 0);
    return rounds * DEPTH * ACCUMULATORS * 32 * 2;
}
