/*
 * zmm.h - the few AVX-512 operations that the kernels of this folder use.
 *
 * With TRIT_MODEL defined, tests/native/avx512_model.h stands in for the instructions: kerncheck then runs the same sources on CPUs
 * that lack them. Every intrinsic used here or in a kernel has to be in that model.
 */
#ifndef TRIT_AVX512VNNI_ZMM_H
#define TRIT_AVX512VNNI_ZMM_H

#ifdef TRIT_MODEL
#include "avx512_model.h"
#else
#include <immintrin.h>
#endif
#include <string.h>

#include "ops.h"

enum { TILE_ROWS = 6, LANES = 16 };

#define FLATTEN static inline __attribute__((always_inline))
/* A function of its own, so that nothing of another loop stays in registers meanwhile. */
#define APART static __attribute__((noinline))

/*
 * DO(0) .. DO(5): a statement per row, which compares its number with a constant. Accumulators are named, not indexed, so that they live in
 * registers whatever the compiler's order of unrolling.
 */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
/* CASE(rows) for 1 .. 6 rows; more are six. */
#define SWITCH_ROWS(n, CASE) \
    switch (n) {             \
    case 1: CASE(1); break;  \
    case 2: CASE(2); break;  \
    case 3: CASE(3); break;  \
    case 4: CASE(4); break;  \
    case 5: CASE(5); break;  \
    default: CASE(6); break; \
    }

/* Four bytes (four int8 inputs, or two int16), sixteen times. */
static inline __m512i broadcast(const void *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
}

/*
 * acc += four products of unsigned and signed bytes, or two of signed words, per lane: vpdpbusd and vpdpwssd. As assembly, in place, because
 * gcc 12 copies the accumulator before each intrinsic and then spills half of a tile.
 */
static inline void add_bytes(__m512i *acc, __m512i codes, __m512i inputs)
{
#ifdef TRIT_MODEL
    *acc = _mm512_dpbusd_epi32(*acc, codes, inputs);
#else
    __asm__("vpdpbusd %[inputs], %[codes], %[acc]" : [acc] "+v"(*acc) : [codes] "v"(codes), [inputs] "v"(inputs));
#endif
}

static inline void add_words(__m512i *acc, __m512i a, __m512i b)
{
#ifdef TRIT_MODEL
    *acc = _mm512_dpwssd_epi32(*acc, a, b);
#else
    __asm__("vpdpwssd %[b], %[a], %[acc]" : [acc] "+v"(*acc) : [a] "v"(a), [b] "v"(b));
#endif
}

/* The first n of sixteen lanes. */
static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)(n < LANES ? (1u << n) - 1 : 0xffff);
}

/*
 * A stream of weights, some way ahead (past the end, too: a prefetch cannot fault). The distance is what AVX2 on Zen 3
 * wants; not yet measured here. Always inlined: gcc 12 drops calls of a function that returns nothing.
 */
FLATTEN void prefetch_ahead(const void *from)
{
    _mm_prefetch((const char *)from + 4096, _MM_HINT_T0);
}

/* Sixteen pairs of elements of `width` bytes, a constant, as int16; pairs of other lanes are not touched and read as zero. */
FLATTEN __m512i load_pairs(__mmask16 lanes, const void *from, const size_t width)
{
    if (width == sizeof(int16_t))
        return _mm512_maskz_loadu_epi32(lanes, from);
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi16(lanes, from));
}

/* Into the second-level cache. */
FLATTEN void prefetch(const void *from)
{
    _mm_prefetch((const char *)from, _MM_HINT_T1);
}

#endif
