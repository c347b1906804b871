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

typedef enum kc_kind { KC_NATIVE, KC_MODEL } kc_kind;

typedef struct kc_kernel {
    const char *op;
    const char *isa_name; /* "avx2"; "avx512vnni-model" for a modelled build */
    const char *function;
    trit_isa isa;
    kc_kind kind;
    int runs; /* this CPU can run it */
    kc_fn *fn;
    const trit_row_ops *rows; /* op "rows" only */
} kc_kernel;

/* models.c */
extern const kc_kernel kc_models[];
extern const size_t kc_n_models;
/* Whether the model of the instruction set runs here: one that models a few instructions only needs the rest. */
int kc_model_runs(trit_isa isa);

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
/* A size from 1 to most, small ones as likely as large ones. */
size_t kc_size(size_t most);
/* How many random shapes a check compares after its own: --shapes. */
size_t kc_shapes(void);
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

/* ---- bench: kernbench.c ---- */

/* One round of what is timed: part `part` of `n_parts`, on a thread each. */
typedef void kc_work(void *context, int part, int n_parts);

typedef struct kc_load {
    kc_work *work;
    void *context;
    int n_threads;   /* 1..8 */
    double calls;    /* calls of the kernel in a round */
    double bytes;    /* per call */
    int from_memory; /* the bytes are read from memory: compare with the read bandwidth */
    double ops; /* int8 operations per call, a multiply-add being two: compare with the register loop; 0: neither */
} kc_load;

/*
 * Time rounds and print medians, rates and their share of the machine's limits. A round and the limits are measured in turn, because
 * others use the machine too: the share is the median of the shares of each turn.
 */
void kc_bench(const kc_kernel *kernel, const char *what, const kc_load *load);

/* ---- the checks, one per op; bench != 0 times instead ---- */

void check_gemv(const kc_kernel *kernel, int bench);
void check_gemm(const kc_kernel *kernel, int bench);
void check_head(const kc_kernel *kernel, int bench);
void check_qk(const kc_kernel *kernel, int bench);
void check_av(const kc_kernel *kernel, int bench);
void check_qk8(const kc_kernel *kernel, int bench);
void check_av8(const kc_kernel *kernel, int bench);
void check_up_rows(const kc_kernel *kernel, int bench);
void check_down_inputs(const kc_kernel *kernel, int bench);
void check_down_pairs(const kc_kernel *kernel, int bench);
void check_codes_valid(const kc_kernel *kernel, int bench);
void check_gemv_dense(const kc_kernel *kernel, int bench);
void check_expand(const kc_kernel *kernel, int bench);
void check_dense_valid(const kc_kernel *kernel, int bench);
void check_rows(const kc_kernel *kernel, int bench);
void check_pack(const kc_kernel *kernel, int bench);

#endif
