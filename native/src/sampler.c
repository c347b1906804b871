/*
 * sampler.c - see sampler.h. The row is scored or its candidates are laid out (candidates.c), then one is chosen (choose.c).
 */
#include <stdatomic.h>
#include <time.h>

#include "choose.h"
#include "compiler.h"
#include "mem.h"
#include "status.h"

enum {
    MASK_WAIT_SECONDS = 30, /* then something died that should have computed it */
    LEAST_LIMIT = 256,
    LIMIT_SHARE = 128 /* of a vocabulary of 128,256 at most 1,002 panels, an eighth of the low plane */
};

/* ---- log-probabilities ------------------------------------------------------------------------------------------ */

static void top_logprobs(const float *logits, size_t vocab, float lse, int32_t n_top, trit_choice *out)
{
    uint64_t best[TRIT_MAX_TOP];
    size_t n = 0, most = (size_t)n_top < vocab ? (size_t)n_top : vocab;
    float worst = 0.0f; /* value of the last of a full list */
    for (size_t id = 0; id < vocab && most > 0; id++) {
        if (n == most && !(logits[id] > worst)) /* an equal value with a larger id ranks lower */
            continue;
        uint64_t entry = trit_rank_entry(logits[id], (uint32_t)id);
        size_t at = n < most ? n++ : n - 1;
        for (; at > 0 && best[at - 1] > entry; at--)
            best[at] = best[at - 1];
        best[at] = entry;
        worst = logits[trit_rank_id(best[n - 1])];
    }
    out->n_top = (int32_t)n;
    for (size_t i = 0; i < n; i++) {
        out->top_ids[i] = (int32_t)trit_rank_id(best[i]);
        out->top_logprobs[i] = logits[out->top_ids[i]] - lse;
    }
}

/* ---- mask ------------------------------------------------------------------------------------------------------- */

static int mask_is_ready(const int32_t *ready)
{
    return atomic_load_explicit((const _Atomic int32_t *)ready, memory_order_acquire) != 0;
}

/* The mask is computed by another thread beside the forward pass: spin a moment, then leave it the core. */
static int wait_for_mask(const int32_t *ready)
{
    const struct timespec pause = {.tv_nsec = 50000};
    for (int i = 0; i < 256; i++) {
        if (mask_is_ready(ready))
            return 1;
        trit_cpu_relax();
    }
    for (long i = 0; i < MASK_WAIT_SECONDS * (1000000000L / 50000); i++) {
        if (mask_is_ready(ready))
            return 1;
        (void)nanosleep(&pause, NULL);
    }
    return mask_is_ready(ready);
}

/* ---- one output ------------------------------------------------------------------------------------------------- */

static trit_sampled choose(candidates *c, const float *logits, int32_t *token)
{
    if (c->p->mask != NULL && c->p->mask_ready != NULL && !wait_for_mask(c->p->mask_ready))
        return TRIT_SAMPLED_MASK_LATE;
    candidates_fill(c, logits);
    int decided = trit_choose(c, token);
    candidates_release(c);
    return decided ? TRIT_SAMPLED : TRIT_SAMPLED_UNDECIDED;
}

trit_sampled trit_sampler_choose(const trit_row_ops *ops, const float *logits, const trit_screen *screen, size_t vocab,
                                 const trit_sampling *sampling, int32_t target, int32_t n_top, trit_choice *out,
                                 trit_sampler_scratch *scratch)
{
    trit_choice choice = {.token = target};
    float lse = 0.0f;
    scratch->n_finished = 0;
    if (screen != NULL && !trit_screen_holds(screen))
        return TRIT_SAMPLED_UNDECIDED;
    if (screen == NULL && !ops->log_sum_exp(logits, vocab, &lse)) {
        choice.token = TRIT_TOKEN_NONFINITE;
        *out = choice;
        return TRIT_SAMPLED;
    }
    if (target < 0) {
        candidates c = {.ops = ops,
                        .p = sampling,
                        .screen = screen,
                        .vocab = vocab,
                        .s = scratch,
                        .z = scratch->z,
                        .limit = vocab / LIMIT_SHARE > LEAST_LIMIT ? vocab / LIMIT_SHARE : (size_t)LEAST_LIMIT};
        trit_sampled sampled = choose(&c, logits, &choice.token);
        if (sampled != TRIT_SAMPLED)
            return sampled;
    }
    if (n_top >= 0) {
        if (choice.token >= 0)
            choice.logprob = logits[choice.token] - lse;
        top_logprobs(logits, vocab, lse, n_top, &choice);
    }
    *out = choice;
    return TRIT_SAMPLED;
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

trit_status trit_sampler_scratch_create(trit_sampler_scratch *out, size_t vocab, trit_error *err)
{
    trit_sampler_scratch s = {.z = trit_alloc(vocab, sizeof *s.z),
                              .block_max = trit_alloc(vocab / BLOCK + 1, sizeof *s.block_max),
                              .finished = trit_alloc(vocab / TRIT_HEAD_PANEL + 1, sizeof *s.finished),
                              .counts = trit_alloc(vocab, sizeof *s.counts),
                              .entries = trit_alloc(vocab, sizeof *s.entries),
                              .spare = trit_alloc(vocab, sizeof *s.spare)};
    if (s.z == NULL || s.block_max == NULL || s.finished == NULL || s.counts == NULL || s.entries == NULL ||
        s.spare == NULL) {
        trit_sampler_scratch_destroy(&s);
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory to sample from %zu ids", vocab);
    }
    *out = s;
    return TRIT_OK;
}

void trit_sampler_scratch_destroy(trit_sampler_scratch *scratch)
{
    trit_free(scratch->z);
    trit_free(scratch->block_max);
    trit_free(scratch->finished);
    trit_free(scratch->counts);
    trit_free(scratch->entries);
    trit_free(scratch->spare);
    *scratch = (trit_sampler_scratch){0};
}
