/*
 * int8_avx2.c - vpmaddubsw into int16, widened by vpmaddwd before it can overflow, as the AVX2 kernels do.
 *
 * Zen 3 multiplies on two pipes and adds on four, but an addition may take a multiplier's pipe: 6.5 G products a second alone, 5.2 G pairs in
 * turn, 5.5 G with six products before their six sums, the most that 16 registers allow (AMD EPYC, 3.24 GHz). The last is the ceiling
 * given here; a kernel, whose tile leaves two registers for products, can reach 95 % of it. Saturating sums, which a block never
 * saturates, share the multipliers' pipes: 3.7 G.
 */
#include <immintrin.h>

#include "measure/int8.h"

/* A turn is 24 pairs, three for each accumulator; 21 turns leave an int16 sum of 63 pairs, one less than kernels dare. */
enum { ACCUMULATORS = 8, TURNS = 21, PAIRS_PER_TURN = 24 };

trit_int8_loop_fn trit_int8_loop__avx2;

#define PRODUCT(i) "vpmaddubsw %[x], %[codes], %[p" #i "]\n\t"
#define SUM(i, j) "vpaddw %[p" #i "], %[n" #j "], %[n" #j "]\n\t"
#define SIX_PRODUCTS PRODUCT(0) PRODUCT(1) PRODUCT(2) PRODUCT(3) PRODUCT(4) PRODUCT(5)
#define SIX_PAIRS(a, b, c, d, e, f) SIX_PRODUCTS SUM(0, a) SUM(1, b) SUM(2, c) SUM(3, d) SUM(4, e) SUM(5, f)

static inline __attribute__((always_inline)) void turn(__m256i n[ACCUMULATORS], __m256i codes, __m256i x)
{
    __m256i p0, p1, p2, p3, p4, p5;
    __asm__ volatile(SIX_PAIRS(0, 1, 2, 3, 4, 5) SIX_PAIRS(6, 7, 0, 1, 2, 3) SIX_PAIRS(4, 5, 6, 7, 0, 1)
                         SIX_PAIRS(2, 3, 4, 5, 6, 7)
                     : [n0] "+x"(n[0]), [n1] "+x"(n[1]), [n2] "+x"(n[2]), [n3] "+x"(n[3]), [n4] "+x"(n[4]),
                       [n5] "+x"(n[5]), [n6] "+x"(n[6]), [n7] "+x"(n[7]), [p0] "=&x"(p0), [p1] "=&x"(p1),
                       [p2] "=&x"(p2), [p3] "=&x"(p3), [p4] "=&x"(p4), [p5] "=&x"(p5)
                     : [codes] "x"(codes), [x] "x"(x));
}

uint64_t trit_int8_loop__avx2(uint64_t rounds, int32_t *sink)
{
    const __m256i codes = _mm256_set1_epi8(2), x = _mm256_set1_epi8(3), zero = _mm256_setzero_si256();
    __m256i wide[ACCUMULATORS] = {zero, zero, zero, zero, zero, zero, zero, zero};
    for (uint64_t round = 0; round < rounds; round++) {
        __m256i narrow[ACCUMULATORS] = {zero, zero, zero, zero, zero, zero, zero, zero};
        for (int i = 0; i < TURNS; i++)
            turn(narrow, codes, x);
        for (int j = 0; j < ACCUMULATORS; j++)
            wide[j] = _mm256_add_epi32(wide[j], _mm256_madd_epi16(narrow[j], _mm256_set1_epi16(1)));
    }
    __m256i sum = wide[0];
    for (int j = 1; j < ACCUMULATORS; j++)
        sum = _mm256_add_epi32(sum, wide[j]);
    *sink = _mm256_extract_epi32(sum, 0);
    return rounds * TURNS * PAIRS_PER_TURN * 32 * 2;
}
