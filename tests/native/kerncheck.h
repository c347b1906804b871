/*
 * kerncheck.h - what the checks share: guarded buffers, random fills, the cases' books and the bench clock.
 *
 * A check runs the reference and a kernel on the same input, each into its own poisoned output buffer, and compares the whole
 * buffers: what a kernel must not write has to keep its poison.
 */
#ifndef TRIT_KERNCHECK_H
#define TRIT_KERNCHECK_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

/* ---- one line of the list ---- */

typedef void kc_fn(void); /* cast back to the op's type by its check */

typedef struct kc_kernel {
    const char *op;
    const char *isa_name; /* "avx2"; "avx512vnni-model" for a modelled build */
    const char *function;
    trit_isa isa;
    int runs; /* this CPU can run it */
    kc_fn *fn;
    const trit_row_ops *rows; /* op "rows" only */
} kc_kernel;

/* ---- buffers: `bytes` that end, rounded up to 64, at a page that may not be touched; another such page before ---- */

void *kc_buffer(size_t bytes);
/* Fill with the poison pattern that outputs start from. */
void kc_poison(void *buffer, size_t bytes);
/* Check the canaries of all buffers and release them. Returns 0 if one was overwritten. */
int kc_release(void);

/* ---- random ---- */

uint64_t kc_random(void);
/* Uniform in [low, high]. */
int64_t kc_between(int64_t low, int64_t high);
/* A float about normal, scaled. */
float kc_normal(float scale);

/* ---- books ---- */

/* One case of a kernel: prints `what` (printf style) if it failed. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void kc_expect(const kc_kernel *kernel, int holds, const char *what, ...);
/* 1 if bitwise equal; NaN equals NaN. *first is the index of the first difference. */
int kc_same_floats(const float *a, const float *b, size_t n, size_t *first);
int kc_same_bytes(const void *a, const void *b, size_t bytes);

/* ---- bench ---- */

typedef struct kc_peak {
    double read_1, read_2; /* bytes per second, plain wide loads over 512 MB, 1 and 2 threads */
    double madd_ops;       /* operations per second of the register loop vpmaddubsw + vpmaddwd + vpaddd; 0: none */
    double maddubs_ops;    /* of vpmaddubsw + vpaddw alone */
} kc_peak;

const kc_peak *kc_measure_peak(void);
double kc_now(void); /* seconds, monotonic */
/* Call work(context, part, n_threads) on n_threads threads, `repeats` times; the best seconds of one round. */
double kc_time(void (*work)(void *context, int part, int n_parts), void *context, int n_threads, int repeats);
void kc_bench_line(const kc_kernel *kernel, const char *what, double seconds, double bytes, double peak_bytes,
                   double ops, double peak_ops);

/* ---- the checks, one per op; bench != 0 times instead ---- */

void check_gemv(const kc_kernel *kernel, int bench);
void check_gemm(const kc_kernel *kernel, int bench);
void check_head(const kc_kernel *kernel, int bench);
void check_qk(const kc_kernel *kernel, int bench);
void check_av(const kc_kernel *kernel, int bench);
void check_codes_valid(const kc_kernel *kernel, int bench);
void check_rows(const kc_kernel *kernel, int bench);
void check_pack(const kc_kernel *kernel, int bench);

#endif
