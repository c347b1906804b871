/* sampler.h - chooses or scores one token, docs/numerics.md "Sampling". A pure function of its arguments. */
#ifndef TRIT_SAMPLER_H
#define TRIT_SAMPLER_H

#include "screen.h"

/* Scratch of one thread. */
typedef struct trit_sampler_scratch {
    float *z;          /* (vocab) logits after penalties, then divided by the temperature */
    float *block_max;  /* (vocab / TRIT_NOISE_LANES, rounded up) largest z of each block */
    uint32_t *counts;  /* (vocab) zero between calls */
    uint64_t *entries; /* (vocab) */
    uint64_t *spare;   /* (vocab) */
    uint8_t *finished; /* (panels of the head) whether z of the panel's ids is exact */
    size_t n_finished; /* panels, of the last call */
} trit_sampler_scratch;

trit_status trit_sampler_scratch_create(trit_sampler_scratch *out, size_t vocab, trit_error *err);
void trit_sampler_scratch_destroy(trit_sampler_scratch *scratch);

/* Every field finite and in range, every id in the vocabulary. `at` names the output in the error. */
trit_status trit_sampling_check(const trit_sampling *sampling, int32_t vocab, size_t at, trit_error *err);

typedef enum trit_sampled {
    TRIT_SAMPLED,
    TRIT_SAMPLED_MASK_LATE, /* the late-bound mask did not become ready in time */
    TRIT_SAMPLED_UNDECIDED  /* the bounds do not tell: call again with the exact logits */
} trit_sampled;

/*
 * logits (vocab): exact if `screen` is NULL, else upper bounds that it finishes as needed; then target and n_top are -1. sampling was
 * checked; n_top -1..TRIT_MAX_TOP. What is chosen does not depend on the source of the logits.
 */
trit_sampled trit_sampler_choose(const trit_row_ops *ops, const float *logits, const trit_screen *screen, size_t vocab,
                                 const trit_sampling *sampling, int32_t target, int32_t n_top, trit_choice *out,
                                 trit_sampler_scratch *scratch);

#endif
