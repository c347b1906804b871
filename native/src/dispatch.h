/* dispatch.h - the choice of kernels in its parts, for calibration and tests. Most callers only want trit_kernels_select (ops.h). */
#ifndef TRIT_DISPATCH_H
#define TRIT_DISPATCH_H

#include "ops.h"

typedef void trit_any_fn(void); /* cast back to the op's type where it is called */

typedef struct trit_kernel {
    trit_any_fn *function;
    const char *name;
} trit_kernel;

/* 1 if code compiled for `isa` may run where the TRIT_CPU_* features `usable` are. Says nothing about what this build contains. */
int trit_isa_runs_on(trit_isa isa, uint32_t usable);

/* Kernels of `op` that this build has and this CPU runs, worst rung first, the reference left out. Returns how many. */
size_t trit_kernels_candidates(trit_op op, trit_kernel out[TRIT_ISA_COUNT]);
void trit_kernels_use(trit_kernels *kernels, trit_op op, const trit_kernel *kernel);

#endif
