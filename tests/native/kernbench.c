/*
 * kernbench.c - the clock of kerncheck --bench: kernels beside the machine's limits.
 *
 * Limits: plain wide loads over 512 MiB, and the register loop of the kernel's instruction set (measure/int8_*.c), each with as many
 * threads as the kernel has.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kerncheck.h"
#include "measure/int8.h"

enum { READ_BYTES = 512 << 20, READ_SLICES = 4, TURNS = 9, MAX_THREADS = 8 };

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

typedef struct timed_part {
    kc_work *work;
    void *context;
    int part, n_parts;
} timed_part;

static void *run_part(void *argument)
{
    timed_part *part = argument;
    part->work(part->context, part->part, part->n_parts);
    return NULL;
}

static double seconds_of(kc_work *work, void *context, int n_threads)
{
    timed_part parts[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    double start = now_seconds();
    for (int t = 1; t < n_threads; t++) {
        parts[t] = (timed_part){work, context, t, n_threads};
        if (pthread_create(&threads[t], NULL, run_part, &parts[t]) != 0)
            exit(2);
    }
    work(context, 0, n_threads);
    for (int t = 1; t < n_threads; t++)
        pthread_join(threads[t], NULL);
    return now_seconds() - start;
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static volatile uint64_t sink;

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void read_wide(const uint8_t *from, size_t bytes)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes; i += 128) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(const void *)(from + i)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(const void *)(from + i + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const __m256i *)(const void *)(from + i + 64)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const __m256i *)(const void *)(from + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    sink = (uint64_t)_mm256_extract_epi64(a, 0);
}
#endif

static void read_words(const uint8_t *from, size_t bytes)
{
    const uint64_t *words = (const uint64_t *)(const void *)from;
    uint64_t s[8] = {0};
    for (size_t i = 0; i < bytes / 8; i += 8)
        for (size_t j = 0; j < 8; j++)
            s[j] ^= words[i + j];
    sink = s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}

static void read_part(void *context, int part, int n_parts)
{
    size_t share = READ_BYTES / READ_SLICES / (size_t)n_parts / 128 * 128;
    const uint8_t *from = (const uint8_t *)context + share * (size_t)part;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        read_wide(from, share);
        return;
    }
#endif
    read_words(from, share);
}

/* Bytes per second over the next quarter of a buffer that no cache holds. */
static double read_rate(int n_threads)
{
    static uint8_t *memory;
    static size_t slice;
    if (memory == NULL) {
        memory = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            exit(2);
        memset(memory, 0x11, READ_BYTES);
    }
    slice = (slice + 1) % READ_SLICES;
    double seconds = seconds_of(read_part, memory + slice * (READ_BYTES / READ_SLICES), n_threads);
    return (double)READ_BYTES / READ_SLICES / seconds;
}

typedef struct loop_run {
    trit_int8_loop_fn *loop;
    uint64_t rounds, ops;
} loop_run;

static void loop_part(void *context, int part, int n_parts)
{
    loop_run *run = context;
    int32_t unused;
    (void)n_parts;
    uint64_t ops = run->loop(run->rounds, &unused);
    if (part == 0)
        run->ops = ops;
}

/* int8 operations per second; about 5 ms. */
static double int8_rate(trit_isa isa, int n_threads)
{
    static loop_run runs[TRIT_ISA_COUNT];
    loop_run *run = &runs[isa];
    if (run->loop == NULL) {
        *run = (loop_run){trit_int8_loop_of(isa), 64, 0};
        while (seconds_of(loop_part, run, 1) < 5e-3)
            run->rounds *= 2;
    }
    double seconds = seconds_of(loop_part, run, n_threads);
    return (double)run->ops * n_threads / seconds;
}

/* ---- lines ------------------------------------------------------------------------------------------------------ */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void kc_bench(const kc_kernel *kernel, const char *what, const kc_load *load)
{
    double seconds[TURNS], of_read[TURNS], of_int8[TURNS];
    int turns = kernel->isa == TRIT_ISA_REF ? 1 : TURNS;
    if (turns > 1)
        seconds_of(load->work, load->context, load->n_threads); /* warms up */
    for (int t = 0; t < turns; t++) {
        double read = load->from_memory ? read_rate(load->n_threads) : 0;
        double int8 = load->ops > 0 ? int8_rate(kernel->isa, load->n_threads) : 0;
        seconds[t] = seconds_of(load->work, load->context, load->n_threads) / load->calls;
        of_read[t] = load->from_memory ? load->bytes / seconds[t] / read : 0;
        of_int8[t] = load->ops > 0 ? load->ops / seconds[t] / int8 : 0;
    }
    double middle = median(seconds, turns);
    printf("  %-12s %-38s %d thread%s %11.2f us %7.2f GB/s", kernel->isa_name, what, load->n_threads,
           load->n_threads > 1 ? "s" : " ", middle * 1e6, load->bytes / middle * 1e-9);
    if (load->from_memory)
        printf(" (%3.0f %% of read)", 100 * median(of_read, turns));
    if (load->ops > 0)
        printf(" %7.1f Gop/s (%3.0f %% of int8)", load->ops / middle * 1e-9, 100 * median(of_int8, turns));
    printf("\n");
    fflush(stdout);
}
