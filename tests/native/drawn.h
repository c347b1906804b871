/* drawn.h - random sampling parameters of every kind, for tests of the sampler. */
#ifndef TRIT_TESTS_DRAWN_H
#define TRIT_TESTS_DRAWN_H

#include "check.h"
#include "trit/trit.h"

enum { MAX_VOCAB = 4096, MAX_HISTORY = 40, MAX_LISTED = 8 };

typedef struct drawn {
    float bias_values[MAX_LISTED];
    int32_t history[MAX_HISTORY], bias_ids[MAX_LISTED], suppressed[MAX_LISTED];
    uint32_t mask[MAX_VOCAB / 32];
    trit_sampling p;
} drawn;

static inline float random_float(uint64_t *state, float low, float high)
{
    return low + (high - low) * (float)(check_random(state) >> 40) * 0x1p-24f;
}

static inline void draw_penalties(drawn *d, int32_t vocab, uint64_t *state)
{
    d->p.n_history = check_below(state, MAX_HISTORY + 1);
    d->p.n_prompt = check_below(state, d->p.n_history + 1);
    d->p.repetition_penalty = random_float(state, 0.5f, 2.0f);
    d->p.presence_penalty = random_float(state, -2.0f, 2.0f);
    d->p.frequency_penalty = random_float(state, -2.0f, 2.0f);
    for (int32_t i = 0; i < d->p.n_history; i++)
        d->history[i] = check_below(state, vocab < 10 ? vocab : 10);
}

/* d->p points into *d. */
static inline void draw_sampling(drawn *d, int32_t vocab, uint64_t *state)
{
    static const float temperatures[] = {0.0f, 0.1f, 0.7f, 1.0f, 2.0f};
    static const float top_ps[] = {0.0f, 0.05f, 0.5f, 0.9f, 0.95f, 0.999f, 1.0f, 1.0f};
    d->p = (trit_sampling){.seed = check_random(state),
                           .position = check_below(state, 5000),
                           .temperature = temperatures[check_below(state, 5)],
                           .top_p = top_ps[check_below(state, 8)],
                           .min_p = check_below(state, 2) ? 0.0f : random_float(state, 0.0f, 1.0f),
                           .top_k = check_below(state, 2) ? 0 : check_below(state, vocab + 5),
                           .repetition_penalty = 1.0f,
                           .history = d->history,
                           .bias_ids = d->bias_ids,
                           .bias_values = d->bias_values,
                           .suppressed = d->suppressed};
    if (check_below(state, 2))
        draw_penalties(d, vocab, state);
    d->p.n_bias = check_below(state, vocab < MAX_LISTED ? vocab : MAX_LISTED);
    for (int32_t i = 0; i < d->p.n_bias; i++) {
        d->bias_ids[i] = check_below(state, vocab);
        d->bias_values[i] = random_float(state, -10.0f, 10.0f);
    }
    d->p.n_suppressed = check_below(state, vocab < MAX_LISTED ? vocab : MAX_LISTED);
    for (int32_t i = 0; i < d->p.n_suppressed; i++)
        d->suppressed[i] = check_below(state, vocab);
    if (check_below(state, 3) == 0) {
        uint64_t thin = check_random(state);
        for (int32_t word = 0; word < (vocab + 31) / 32; word++)
            d->mask[word] =
                (uint32_t)(check_random(state) & (thin & 1 ? check_random(state) & check_random(state) : ~0ull));
        d->p.mask = d->mask;
    }
}

#endif
