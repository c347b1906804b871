/* sampler.h - chooses or scores one token, docs/numerics.md "Sampling". A pure function of its arguments. */
#ifndef TRIT_SAMPLER_H
#define TRIT_SAMPLER_H

#include "ops.h"

/* Scratch of one thread. */
typedef struct trit_sampler_scratch {
    float *z;          /* (vocab) logits after penalties, then divided by the temperature */
    int32_t *counts;   /* (vocab) zero between calls */
    uint64_t *entries; /* (vocab) */
    uint64_t *spare;   /* (vocab) */
} trit_sampler_scratch;

trit_status trit_sampler_scratch_create(trit_sampler_scratch *out, size_t vocab, trit_error *err);
void trit_sampler_scratch_destroy(trit_sampler_scratch *scratch);

/* Every field finite and in range, every id in the vocabulary. `at` names the output in the error. */
trit_status trit_sampling_check(const trit_sampling *sampling, int32_t vocab, size_t at, trit_error *err);

/* sampling was checked; n_top 0..TRIT_MAX_TOP. Returns 0 only if the late-bound mask did not become ready in time. */
int trit_sampler_choose(const trit_row_ops *ops, const float *logits, size_t vocab, const trit_sampling *sampling,
                        int32_t target, int32_t n_top, trit_choice *out, trit_sampler_scratch *scratch);

#endif
