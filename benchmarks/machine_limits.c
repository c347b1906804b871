/*
 * machine_limits.c - an independent look at the limits that `tritserve bench` prints: shares nothing with the library.
 *
 *     cc -O3 -march=native -pthread benchmarks/machine_limits.c -o machine_limits && ./machine_limits [THREADS]
 *
 * Read: every thread sums its own contiguous part of a buffer of 512 MiB, front to back, best and median of the rounds. int8: every
 * thread runs the multiply-add that a ternary kernel of its instruction set is made of, from registers, in independent chains: vpdpbusd
 * where the compiler was given it, else the AVX2 pair vpmaddubsw + vpaddw (sums of pairs in int16), or sdot. Two operations a multiply-add.
 * Prints one line of JSON per number of threads, 1 and THREADS.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { MAX_THREADS = 256, ROUNDS = 9, BLOCK = 20000 };
static const size_t buffer_bytes = (size_t)512 << 20;
static const double int8_seconds = 0.1;

static unsigned char *buffer;
static int n_threads;
static pthread_barrier_t barrier;
static double rates[MAX_THREADS], starts[MAX_THREADS], ends[MAX_THREADS];
static volatile uint64_t sink;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- read ------------------------------------------------------------------------------------------------------- */

static uint64_t sum_of(const unsigned char *from, size_t bytes)
{
#if defined(__AVX2__)
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 128 <= bytes; i += 128) {
        a = _mm256_add_epi64(a, _mm256_load_si256((const __m256i *)(const void *)(from + i)));
        b = _mm256_add_epi64(b, _mm256_load_si256((const __m256i *)(const void *)(from + i + 32)));
        c = _mm256_add_epi64(c, _mm256_load_si256((const __m256i *)(const void *)(from + i + 64)));
        d = _mm256_add_epi64(d, _mm256_load_si256((const __m256i *)(const void *)(from + i + 96)));
    }
    a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) + (uint64_t)_mm256_extract_epi64(a, 3);
#else
    const uint64_t *words = (const uint64_t *)(const void *)from;
    uint64_t s[8] = {0};
    for (size_t i = 0; i + 8 <= bytes / 8; i += 8)
        for (size_t j = 0; j < 8; j++)
            s[j] += words[i + j];
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
#endif
}

static void *read_part(void *argument)
{
    size_t part = buffer_bytes / (size_t)n_threads / 4096 * 4096, index = (size_t)(uintptr_t)argument;
    pthread_barrier_wait(&barrier);
    starts[index] = now();
    sink = sum_of(buffer + index * part, part);
    ends[index] = now();
    return NULL;
}

/* ---- int8 ------------------------------------------------------------------------------------------------------- */

#if defined(__AVX512VNNI__)
#define NAME "vpdpbusd zmm"
enum { OPS = 128, CHAINS = 12 };
typedef __m512i vector;
#define ZERO() _mm512_setzero_si512()
#define MULTIPLY_ADD(sum, x, y) _mm512_dpbusd_epi32(sum, x, y)
#elif defined(__AVX2__)
#define NAME "vpmaddubsw + vpaddw ymm"
enum { OPS = 64, CHAINS = 8 }; /* more would not stay in 16 registers */
typedef __m256i vector;
#define ZERO() _mm256_setzero_si256()
#define MULTIPLY_ADD(sum, x, y) _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, y))
#elif defined(__ARM_FEATURE_DOTPROD)
#define NAME "sdot"
enum { OPS = 32, CHAINS = 12 };
typedef int32x4_t vector;
#define ZERO() vdupq_n_s32(0)
#define MULTIPLY_ADD(sum, x, y) vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y))
#else
#define NAME "none"
enum { OPS = 0, CHAINS = 1 };
#endif

#if defined(__aarch64__)
#define HIDE(x) __asm__ volatile("" : "+w"(x))
#else
#define HIDE(x) __asm__ volatile("" : "+x"(x))
#endif

static void *multiply_part(void *argument)
{
    size_t index = (size_t)(uintptr_t)argument;
    double start, elapsed = 0;
    uint64_t blocks = 0;
    pthread_barrier_wait(&barrier);
    start = now();
#if !defined(__AVX2__) && !defined(__ARM_FEATURE_DOTPROD)
    (void)start;
    (void)int8_seconds;
#else
    vector sums[CHAINS], x = ZERO(), y = ZERO();
    HIDE(y); /* the compiler must not know that it is 0 */
#pragma GCC unroll 12 /* every loop over chains, or the sums live in memory */
    for (int c = 0; c < CHAINS; c++)
        sums[c] = ZERO();
    while (elapsed < int8_seconds) {
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 12
            for (int c = 0; c < CHAINS; c++) {
                sums[c] = MULTIPLY_ADD(sums[c], x, y);
                HIDE(sums[c]); /* stays in its register */
                HIDE(x);       /* or one product would do for all chains */
            }
        }
        blocks++;
        elapsed = now() - start;
    }
#pragma GCC unroll 12
    for (int c = 1; c < CHAINS; c++)
        sums[0] = MULTIPLY_ADD(sums[0], sums[c], x);
    memcpy((void *)&sink, &sums[0], sizeof sink);
#endif
    rates[index] = elapsed > 0 ? (double)blocks * BLOCK * CHAINS * OPS / elapsed : 0;
    return NULL;
}

/* ---- all threads ------------------------------------------------------------------------------------------------ */

/* Seconds from the first thread's start to the last one's end, for work that notes them. */
static double run(void *(*work)(void *))
{
    pthread_t threads[MAX_THREADS];
    pthread_barrier_init(&barrier, NULL, (unsigned)n_threads);
    for (int t = 0; t < n_threads; t++)
        if (pthread_create(&threads[t], NULL, work, (void *)(uintptr_t)t) != 0)
            exit(2);
    for (int t = 0; t < n_threads; t++)
        pthread_join(threads[t], NULL);
    pthread_barrier_destroy(&barrier);
    double first = starts[0], last = ends[0];
    for (int t = 1; t < n_threads; t++) {
        first = starts[t] < first ? starts[t] : first;
        last = ends[t] > last ? ends[t] : last;
    }
    return last - first;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(int threads)
{
    double read[ROUNDS], int8[ROUNDS];
    n_threads = threads;
    run(read_part);
    for (int r = 0; r < ROUNDS; r++) {
        size_t part = buffer_bytes / (size_t)n_threads / 4096 * 4096;
        read[r] = (double)(part * (size_t)n_threads) / run(read_part);
        int8[r] = 0;
        run(multiply_part);
        for (int t = 0; t < n_threads; t++)
            int8[r] += rates[t];
    }
    qsort(read, ROUNDS, sizeof *read, ascending);
    qsort(int8, ROUNDS, sizeof *int8, ascending);
    printf("{\"threads\": %d, \"read_gb_per_s\": {\"median\": %.2f, \"max\": %.2f}, \"int8_tops\": {\"instruction\": "
           "\"%s\", "
           "\"median\": %.4f, \"max\": %.4f}}\n",
           threads, read[ROUNDS / 2] * 1e-9, read[ROUNDS - 1] * 1e-9, NAME, int8[ROUNDS / 2] * 1e-12,
           int8[ROUNDS - 1] * 1e-12);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    if (threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "machine_limits: THREADS is a number from 1 to %d\n", MAX_THREADS);
        return 2;
    }
    buffer = mmap(NULL, buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return 2;
    madvise(buffer, buffer_bytes, MADV_HUGEPAGE);
    memset(buffer, 1, buffer_bytes);
    measure(1);
    if (threads > 1)
        measure(threads);
    return 0;
}
