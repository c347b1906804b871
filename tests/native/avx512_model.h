/*
 * avx512_model.h - plain C in place of the AVX-512 operations that native/src/kernels/avx512vnni uses, so that the logic of those kernels
 * is checked on every machine. Written from the operation sections of Intel's instruction set reference, lane by lane.
 *
 * It proves the sources, not the machine code: kerncheck reports these as avx512vnni-model, and the native kernels as not run where
 * the CPU lacks them.
 */
#ifndef TRIT_AVX512_MODEL_H
#define TRIT_AVX512_MODEL_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct model_m512i {
    uint32_t dword[16];
} __m512i;

typedef struct model_m512 {
    float lane[16];
} __m512;

typedef struct model_m256i {
    int8_t byte[32];
} __m256i;

typedef uint16_t __mmask16;

#define MODEL static inline
#define EACH_DWORD for (int i = 0; i < 16; i++)

enum { _MM_HINT_T0 = 3, _MM_HINT_T1 = 2 };
#define _mm_prefetch(address, hint) ((void)(address), (void)(hint))

/* Byte j of a dword as unsigned and signed, word j as signed. */
MODEL int32_t model_u8(uint32_t dword, int j)
{
    return (int32_t)(dword >> (8 * j) & 0xff);
}

MODEL int32_t model_s8(uint32_t dword, int j)
{
    return (model_u8(dword, j) ^ 0x80) - 0x80;
}

MODEL int32_t model_s16(uint32_t dword, int j)
{
    return ((int32_t)(dword >> (16 * j) & 0xffff) ^ 0x8000) - 0x8000;
}

/* ---- moves ------------------------------------------------------------------------------------------------------ */

MODEL __m512i _mm512_setzero_si512(void)
{
    return (__m512i){{0}};
}

MODEL __m512i _mm512_set1_epi32(int32_t value)
{
    __m512i r;
    EACH_DWORD r.dword[i] = (uint32_t)value;
    return r;
}

MODEL __m512i _mm512_set1_epi8(char value)
{
    return _mm512_set1_epi32((int32_t)((uint32_t)(uint8_t)value * 0x01010101u));
}

MODEL __m512 _mm512_set1_ps(float value)
{
    __m512 r;
    EACH_DWORD r.lane[i] = value;
    return r;
}

/* Both fault on an address that is no multiple of 64. */
MODEL __m512i _mm512_load_si512(const void *from)
{
    __m512i r;
    assert((uintptr_t)from % 64 == 0);
    memcpy(&r, from, sizeof r);
    return r;
}

MODEL void _mm512_store_si512(void *to, __m512i a)
{
    assert((uintptr_t)to % 64 == 0);
    memcpy(to, &a, sizeof a);
}

/* Masked lanes are not touched in memory, and read as zero. */
MODEL __m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void *from)
{
    __m512i r = {{0}};
    EACH_DWORD if (mask >> i & 1) memcpy(&r.dword[i], (const char *)from + 4 * i, 4);
    return r;
}

MODEL __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void *from)
{
    __m256i r = {{0}};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            memcpy(&r.byte[2 * i], (const char *)from + 2 * i, 2);
    return r;
}

/* Every byte with its sign to a word. */
MODEL __m512i _mm512_cvtepi8_epi16(__m256i a)
{
    __m512i r;
    EACH_DWORD r.dword[i] = (uint32_t)(uint16_t)a.byte[2 * i] | (uint32_t)(uint16_t)a.byte[2 * i + 1] << 16;
    return r;
}

MODEL void _mm512_mask_storeu_epi32(void *to, __mmask16 mask, __m512i a)
{
    EACH_DWORD if (mask >> i & 1) memcpy((char *)to + 4 * i, &a.dword[i], 4);
}

MODEL void _mm512_mask_storeu_ps(void *to, __mmask16 mask, __m512 a)
{
    EACH_DWORD if (mask >> i & 1) memcpy((char *)to + 4 * i, &a.lane[i], 4);
}

/* VPERMI2B (VBMI): byte i of the result is byte index[i] & 127 of a (below 64) and b. */
MODEL __m512i _mm512_permutex2var_epi8(__m512i a, __m512i index, __m512i b)
{
    uint8_t from[128], which[64], to[64];
    memcpy(from, &a, 64);
    memcpy(from + 64, &b, 64);
    memcpy(which, &index, 64);
    for (int i = 0; i < 64; i++)
        to[i] = from[which[i] & 127];
    memcpy(&a, to, 64);
    return a;
}

/* ---- integers --------------------------------------------------------------------------------------------------- */

MODEL __m512i _mm512_and_si512(__m512i a, __m512i b)
{
    EACH_DWORD a.dword[i] &= b.dword[i];
    return a;
}

MODEL __m512i _mm512_or_si512(__m512i a, __m512i b)
{
    EACH_DWORD a.dword[i] |= b.dword[i];
    return a;
}

MODEL __m512i _mm512_xor_si512(__m512i a, __m512i b)
{
    EACH_DWORD a.dword[i] ^= b.dword[i];
    return a;
}

/* Byte by byte: the carry stays in its byte. */
MODEL __m512i _mm512_add_epi8(__m512i a, __m512i b)
{
    EACH_DWORD a.dword[i] =
        ((a.dword[i] & 0x7f7f7f7fu) + (b.dword[i] & 0x7f7f7f7fu)) ^ ((a.dword[i] ^ b.dword[i]) & 0x80808080u);
    return a;
}

MODEL __m512i _mm512_add_epi32(__m512i a, __m512i b)
{
    EACH_DWORD a.dword[i] += b.dword[i];
    return a;
}

/* Bytes, or words, of the low or high halves of each 128-bit lane of a and b, alternating: `unit` bytes at a time, from byte `from`. */
MODEL __m512i model_unpack(__m512i a, __m512i b, int unit, int from)
{
    uint8_t bytes_a[64], bytes_b[64], bytes[64];
    memcpy(bytes_a, &a, sizeof a);
    memcpy(bytes_b, &b, sizeof b);
    for (int lane = 0; lane < 64; lane += 16)
        for (int i = 0; i < 8; i += unit) {
            memcpy(bytes + lane + 2 * i, bytes_a + lane + from + i, (size_t)unit);
            memcpy(bytes + lane + 2 * i + unit, bytes_b + lane + from + i, (size_t)unit);
        }
    memcpy(&a, bytes, sizeof a);
    return a;
}

MODEL __m512i _mm512_unpacklo_epi8(__m512i a, __m512i b)
{
    return model_unpack(a, b, 1, 0);
}

MODEL __m512i _mm512_unpackhi_epi8(__m512i a, __m512i b)
{
    return model_unpack(a, b, 1, 8);
}

MODEL __m512i _mm512_unpacklo_epi16(__m512i a, __m512i b)
{
    return model_unpack(a, b, 2, 0);
}

MODEL __m512i _mm512_unpackhi_epi16(__m512i a, __m512i b)
{
    return model_unpack(a, b, 2, 8);
}

/* A sequence of instructions: the sum of all dwords, wrapping. */
MODEL int32_t _mm512_reduce_add_epi32(__m512i a)
{
    uint32_t sum = 0;
    EACH_DWORD sum += a.dword[i];
    return (int32_t)sum;
}

MODEL __m512i _mm512_sub_epi32(__m512i a, __m512i b)
{
    EACH_DWORD a.dword[i] -= b.dword[i];
    return a;
}

MODEL __m512i _mm512_slli_epi32(__m512i a, unsigned count)
{
    EACH_DWORD a.dword[i] = count > 31 ? 0 : a.dword[i] << count;
    return a;
}

MODEL __m512i _mm512_srli_epi32(__m512i a, unsigned count)
{
    EACH_DWORD a.dword[i] = count > 31 ? 0 : a.dword[i] >> count;
    return a;
}

/* Shifts in copies of the sign bit. */
MODEL __m512i _mm512_srai_epi32(__m512i a, unsigned count)
{
    unsigned n = count > 31 ? 31 : count;
    EACH_DWORD a.dword[i] = a.dword[i] >> 31 ? ~(~a.dword[i] >> n) : a.dword[i] >> n;
    return a;
}

MODEL __mmask16 _mm512_test_epi32_mask(__m512i a, __m512i b)
{
    unsigned mask = 0;
    EACH_DWORD mask |= (unsigned)((a.dword[i] & b.dword[i]) != 0) << i;
    return (__mmask16)mask;
}

/* VPDPBUSD: each dword of acc plus four products of unsigned bytes of a and signed bytes of b; the sum wraps. */
MODEL __m512i _mm512_dpbusd_epi32(__m512i acc, __m512i a, __m512i b)
{
    EACH_DWORD for (int j = 0; j < 4; j++) acc.dword[i] +=
        (uint32_t)(model_u8(a.dword[i], j) * model_s8(b.dword[i], j));
    return acc;
}

/* VPDPWSSD: each dword of acc plus two products of signed words; the sum wraps. */
MODEL __m512i _mm512_dpwssd_epi32(__m512i acc, __m512i a, __m512i b)
{
    EACH_DWORD for (int j = 0; j < 2; j++) acc.dword[i] +=
        (uint32_t)(model_s16(a.dword[i], j) * model_s16(b.dword[i], j));
    return acc;
}

/* ---- floats ----------------------------------------------------------------------------------------------------- */

MODEL __m512 _mm512_cvtepi32_ps(__m512i a)
{
    __m512 r;
    EACH_DWORD r.lane[i] = (float)(int32_t)a.dword[i];
    return r;
}

MODEL __m512 _mm512_mul_ps(__m512 a, __m512 b)
{
    EACH_DWORD a.lane[i] *= b.lane[i];
    return a;
}

#endif
