/*
 * tile.h - register tiles of up to six rows x two vectors: twelve accumulators, two vectors of weights, a broadcast and a product fill
 * the sixteen registers.
 *
 * Accumulators are named, not indexed: gcc 12 unrolls loops over an array of them too late and leaves the array in memory. A tile
 * function takes the number of rows as a constant and is inlined once per number, in a function of its own (APART), so that nothing of
 * another loop stays in registers meanwhile. Either mistake cost a factor of two (AMD EPYC, Zen 3).
 */
#ifndef TRIT_AVX2_TILE_H
#define TRIT_AVX2_TILE_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* The prefix of the 256-bit dot product instructions: two encodings, of processors that mostly have but one of them. */
#if defined(TRIT_MODEL)
#include "vnni256_model.h"
#elif defined(__AVXVNNI__)
#define VNNI "%{vex%} "
#elif defined(__AVX512VNNI__)
#define VNNI ""
#endif

enum { TILE_ROWS = 6 };

/* Sums of one row for both vectors. */
typedef struct tile_row {
    __m256i first, second;
} tile_row;

#define FLATTEN static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))

/* DO(0) .. DO(5): a statement per row, which compares its number with the constant. */
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

static inline __m256i load(const void *from)
{
    return _mm256_load_si256((const __m256i *)from);
}

static inline __m256i load_unaligned(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

static inline void store(void *to, __m256i v)
{
    _mm256_storeu_si256((__m256i *)to, v);
}

/*
 * The stream of weights, PREFETCH_BYTES ahead (past the end, too: a prefetch cannot fault). The hardware's own prefetching stops at every
 * page of 4 KiB: without this, gemv got 66 % of the read bandwidth measured in turn with it, with it 92 (AMD EPYC, Zen 3; 2,048 and 4,096
 * bytes alike, 1,024 gave 81, 512 gave 77). Always inlined: gcc 12 drops calls of a function that returns nothing.
 */
enum { PREFETCH_BYTES = 4096 };

FLATTEN void prefetch_ahead(const void *from)
{
    _mm_prefetch((const char *)from + PREFETCH_BYTES, _MM_HINT_T0);
}

/* 16 elements of `width` bytes, a constant, as int16. */
FLATTEN __m256i load_words(const void *from, const size_t width)
{
    return width == sizeof(int16_t) ? load_unaligned(from)
                                    : _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
}

/* Into the second-level cache. */
FLATTEN void prefetch(const void *from)
{
    _mm_prefetch((const char *)from, _MM_HINT_T1);
}

/* Four bytes (four int8 inputs, or two int16), eight times. */
static inline __m256i broadcast(const void *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
}

/*
 * acc += pairs of codes x inputs, in int16. One piece of assembly: left alone, gcc 12 issues all products of a tile before the first sum
 * and spills.
 */
static inline void add_bytes(__m256i *acc, __m256i codes, __m256i inputs)
{
    __m256i pairs;
    __asm__ volatile("vpmaddubsw %[inputs], %[codes], %[pairs]\n\tvpaddw %[pairs], %[acc], %[acc]"
                     : [acc] "+x"(*acc), [pairs] "=&x"(pairs)
                     : [codes] "x"(codes), [inputs] "x"(inputs));
}

/*
 * acc += pairs of int16 products, in int32: a product and a sum with AVX2, one instruction with VNNI, for which the folders avxvnni and
 * avx512vnni256 compile qk, av and head again.
 */
static inline void add_words(__m256i *acc, __m256i a, __m256i b)
{
#if defined(TRIT_MODEL)
    *acc = model_dpwssd(*acc, a, b);
#elif defined(VNNI)
    __asm__(VNNI "vpdpwssd %[b], %[a], %[acc]" : [acc] "+v"(*acc) : [a] "v"(a), [b] "v"(b));
#else
    __m256i pairs;
    __asm__ volatile("vpmaddwd %[a], %[b], %[pairs]\n\tvpaddd %[pairs], %[acc], %[acc]"
                     : [acc] "+x"(*acc), [pairs] "=&x"(pairs)
                     : [a] "x"(a), [b] "x"(b));
#endif
}

/*
 * Both sums of a row += its pair of int16 at `words` times the pairs of two vectors, in int32. One piece of assembly with its own temporaries:
 * given less, gcc 12 copies accumulators from register to register, a third of all instructions of a tile of four rows.
 */
FLATTEN void add_row_words(tile_row *row, __m256i first, __m256i second, const void *words)
{
#if defined(TRIT_MODEL) || defined(VNNI)
    __m256i pair = broadcast(words);
    add_words(&row->first, first, pair);
    add_words(&row->second, second, pair);
#else
    __m256i pair, products;
    __asm__ volatile("vpbroadcastd %[words], %[pair]\n\t"
                     "vpmaddwd %[pair], %[first], %[products]\n\tvpaddd %[products], %[sum1], %[sum1]\n\t"
                     "vpmaddwd %[pair], %[second], %[pair]\n\tvpaddd %[pair], %[sum2], %[sum2]"
                     : [sum1] "+x"(row->first), [sum2] "+x"(row->second), [pair] "=&x"(pair), [products] "=&x"(products)
                     : [words] "m"(*(const char(*)[4])words), [first] "x"(first), [second] "x"(second));
#endif
}

#if defined(TRIT_MODEL) || defined(VNNI)
/* acc += four products of unsigned and signed bytes per lane. As assembly, in place: gcc 12 copies the accumulator of the intrinsic. */
static inline void add_dots(__m256i *acc, __m256i codes, __m256i inputs)
{
#ifdef TRIT_MODEL
    *acc = model_dpbusd(*acc, codes, inputs);
#else
    __asm__(VNNI "vpdpbusd %[inputs], %[codes], %[acc]" : [acc] "+v"(*acc) : [codes] "v"(codes), [inputs] "v"(inputs));
#endif
}
#endif

#endif
