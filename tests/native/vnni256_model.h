/*
 * vnni256_model.h - plain C in place of the two 256-bit VNNI instructions; the rest of the sources that use them is AVX2, which the
 * checks then need. Written from the operation sections of Intel's instruction set reference, lane by lane.
 */
#ifndef TRIT_VNNI256_MODEL_H
#define TRIT_VNNI256_MODEL_H

#include <immintrin.h>
#include <stdint.h>

typedef union model_ymm {
    __m256i whole;
    uint32_t dword[8];
    uint8_t byte[32];
    int8_t signed_byte[32];
    int16_t word[16];
} model_ymm;

/* VPDPBUSD: each dword of acc plus four products of unsigned bytes of a and signed bytes of b; the sum wraps. */
static inline __m256i model_dpbusd(__m256i acc, __m256i a, __m256i b)
{
    model_ymm sum = {.whole = acc}, x = {.whole = a}, y = {.whole = b};
    for (int i = 0; i < 32; i++)
        sum.dword[i / 4] += (uint32_t)(x.byte[i] * y.signed_byte[i]);
    return sum.whole;
}

/* VPDPWSSD: each dword of acc plus two products of signed words; the sum wraps. */
static inline __m256i model_dpwssd(__m256i acc, __m256i a, __m256i b)
{
    model_ymm sum = {.whole = acc}, x = {.whole = a}, y = {.whole = b};
    for (int i = 0; i < 16; i++)
        sum.dword[i / 2] += (uint32_t)(x.word[i] * y.word[i]);
    return sum.whole;
}

#endif
