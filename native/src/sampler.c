/*
 * sampler.c - see sampler.h.
 *
 * The kept set of top_k and top_p is a prefix of the rank order, so "the first candidate in perturbed order that passes" is the kept candidate
 * with the largest z + g. The prefix is found from the leaders alone (rank.h); most ids are dismissed before their noise is
 * computed, because z plus the largest possible noise stays below what is already there.
 *
 * Values after penalties and after the division by the temperature are clamped to +-1e30, so that extreme parameters
 * cannot make an infinity or a NaN; removed ids are lower still.
 */
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "compiler.h"
#include "mem.h"
#include "philox.h"
#include "rank.h"
#include "sampler.h"
#include "status.h"

#define CLAMP 1e30f
#define REMOVED -2e38f
#define NOISE_MAX 16.7f      /* g(2^23 - 1) = 16.6355 */
#define MASK_WAIT_SECONDS 30 /* then something died that should have computed it */

enum { IN_PROMPT = 1 << 30, BLOCK = TRIT_NOISE_LANES };

static float clamped(float x)
{
    return x > CLAMP ? CLAMP : x < -CLAMP ? -CLAMP : x;
}

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

/* ---- penalties, bias, mask -------------------------------------------------------------------------------------- */

static int has_penalties(const trit_sampling *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;
}

/* Each distinct id of the history once: counts[id] holds its occurrences in the completion, plus a mark if it is in the prompt. */
static void apply_penalties(float *z, int32_t *counts, const trit_sampling *p)
{
    for (int32_t i = 0; i < p->n_history; i++) {
        int32_t *count = &counts[p->history[i]];
        *count = i < p->n_prompt ? IN_PROMPT : *count + 1;
    }
    for (int32_t i = 0; i < p->n_history; i++) {
        int32_t id = p->history[i];
        if (counts[id] == 0) /* done already */
            continue;
        int32_t count = counts[id] & (IN_PROMPT - 1);
        float l = z[id];
        l = l > 0.0f ? l / p->repetition_penalty : l * p->repetition_penalty;
        if (count > 0)
            l = (l - (float)count * p->frequency_penalty) - p->presence_penalty;
        z[id] = clamped(l);
        counts[id] = 0;
    }
}

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

static void apply_mask(float *z, size_t vocab, const uint32_t *mask)
{
    for (size_t id = 0; id < vocab; id++)
        if ((mask[id / 32] >> id % 32 & 1u) == 0)
            z[id] = REMOVED;
}

static int adjust(float *z, const float *logits, size_t vocab, const trit_sampling *p, int32_t *counts)
{
    for (size_t id = 0; id < vocab; id++)
        z[id] = clamped(logits[id]);
    if (has_penalties(p))
        apply_penalties(z, counts, p);
    for (int32_t i = 0; i < p->n_bias; i++)
        z[p->bias_ids[i]] = clamped(z[p->bias_ids[i]] + p->bias_values[i]);
    for (int32_t i = 0; i < p->n_suppressed; i++)
        z[p->suppressed[i]] = REMOVED;
    if (p->mask == NULL)
        return 1;
    if (p->mask_ready != NULL && !wait_for_mask(p->mask_ready))
        return 0;
    apply_mask(z, vocab, p->mask);
    return 1;
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

/* The lowest id of the largest value. Lanes, so that the reduction vectorises without fast-math. */
static size_t argmax(const float *z, size_t vocab)
{
    float lanes[BLOCK];
    for (size_t j = 0; j < BLOCK; j++)
        lanes[j] = z[0];
    size_t id = 0;
    for (; id + BLOCK <= vocab; id += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            lanes[j] = z[id + j] > lanes[j] ? z[id + j] : lanes[j];
    for (; id < vocab; id++)
        lanes[0] = z[id] > lanes[0] ? z[id] : lanes[0];
    float largest = lanes[0];
    for (size_t j = 1; j < BLOCK; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    for (id = 0; z[id] != largest;)
        id++;
    return id;
}

/* A temperature that flush-to-zero would flush is 0. */
static int is_greedy(const trit_sampling *p)
{
    return p->temperature < 1.17549435e-38f || p->top_k == 1 || p->top_p == 0.0f;
}

/* Remove what ranks behind `last`, the last entry kept. */
static void keep_up_to(float *z, size_t vocab, uint64_t last)
{
    float cut = z[trit_rank_id(last)];
    for (size_t id = 0; id < vocab; id++)
        z[id] = z[id] < cut ? REMOVED : z[id];
    for (size_t id = trit_rank_id(last) + 1; id < vocab; id++) /* equal values rank by id */
        z[id] = z[id] == cut ? REMOVED : z[id];
}

static size_t count_at_least(const float *z, size_t vocab, float floor)
{
    uint32_t n = 0; /* narrow, so that the comparison and the sum vectorise alike */
    for (size_t id = 0; id < vocab; id++)
        n += z[id] >= floor;
    return n;
}

/*
 * A floor that at least k ids reach, and few more: counting is ten times cheaper than sorting what is counted. The reach below the
 * largest value doubles until it suffices, then is bisected.
 */
static float floor_of_leaders(const float *z, size_t vocab, float z_max, size_t k)
{
    float short_reach = 0.0f, reach = 1.0f;
    while (count_at_least(z, vocab, z_max - reach) < k) {
        if (reach > 1000.0f)
            return -HUGE_VALF;
        short_reach = reach;
        reach = reach * 2.0f;
    }
    for (int i = 0; i < 8; i++) {
        float middle = 0.5f * (short_reach + reach);
        size_t n = count_at_least(z, vocab, z_max - middle);
        if (n < k)
            short_reach = middle;
        else
            reach = middle;
        if (n >= k && n < 2 * k + 64)
            break;
    }
    return z_max - reach;
}

/* k is less than vocab. */
static void filter_top_k(float *z, size_t vocab, float z_max, size_t k, trit_sampler_scratch *s)
{
    size_t n = trit_rank_leaders(z, vocab, floor_of_leaders(z, vocab, z_max, k), s->entries, s->spare);
    assert(n >= k);
    (void)n;
    keep_up_to(z, vocab, s->entries[k - 1]);
}

/* Keeps an id while the mass ranked strictly above it is < top_p; mass over what top_k left, summed in rank order. */
static void filter_top_p(const trit_row_ops *ops, float *z, size_t vocab, float z_max, float top_p,
                         trit_sampler_scratch *s)
{
    /* How far below the largest value the kept ids may reach: nearly always the first. */
    static const float reaches[] = {5.0f, 10.0f, 18.0f, HUGE_VALF};
    float lse;
    if (!ops->log_sum_exp(z, vocab, &lse))
        return; /* cannot be: every z is finite */
    for (size_t i = 0; i < sizeof reaches / sizeof reaches[0]; i++) {
        size_t n = trit_rank_leaders(z, vocab, z_max - reaches[i], s->entries, s->spare);
        float mass = 0.0f;
        for (size_t rank = 0; rank < n; rank++) {
            mass = mass + ops->exp1(z[trit_rank_id(s->entries[rank])] - lse);
            if (!(mass < top_p)) {
                keep_up_to(z, vocab, s->entries[rank]);
                return;
            }
        }
    }
}

/* g = -log(-log(u)), u = (bits + 0.5) * 2^-23 */
static float gumbel(const trit_row_ops *ops, uint32_t bits)
{
    float u = ((float)bits + 0.5f) * 0x1p-23f;
    return -ops->log1(-ops->log1(u));
}

/*
 * The noise of `bits` is at least t only if bits >= 2^23 * exp(-exp(-t)) - 0.5: a lower bound of that for t rounded down to a whole
 * number, minus a margin for the rounding of the logs. Entry i: t = i - 2.
 */
static const uint32_t least_bits[] = {0 /* -2 */,       553000 /* -1 */,  3085000 /* 0 */,  5805000 /* 1 */,
                                      7325000 /* 2 */,  7980000 /* 3 */,  8236000 /* 4 */,  8332000 /* 5 */,
                                      8367000 /* 6 */,  8380000 /* 7 */,  8385000 /* 8 */,  8387000 /* 9 */,
                                      8387900 /* 10 */, 8388200 /* 11 */, 8388400 /* 12 */, 8388500 /* 13 */,
                                      8388550 /* 14 */, 8388570 /* 15 */, 8388580 /* 16 */};

static uint32_t bits_needed(float t)
{
    if (!(t > -1.0f))
        return 0;
    int at = (int)t + (t < 0.0f ? 1 : 2); /* t in (-1, 0): the entry of -1 */
    return least_bits[at > 18 ? 18 : at];
}

typedef struct race {
    const trit_row_ops *ops;
    const trit_sampling *p;
    const float *z;
    float z_max;
    float best; /* largest z + g so far */
    size_t winner;
} race;

static void enter(race *r, size_t id, uint32_t bits)
{
    float sum = r->z[id] + gumbel(r->ops, bits);
    if (sum < r->best || (sum == r->best && id > r->winner))
        return;
    if (r->p->min_p > 0.0f && !(r->ops->exp1(r->z[id] - r->z_max) >= r->p->min_p))
        return;
    r->best = sum;
    r->winner = id;
}

/* The largest z + g among what the filters left; the lowest id on ties. */
static size_t gumbel_argmax(const trit_row_ops *ops, const float *z, size_t vocab, size_t leader,
                            const trit_sampling *p)
{
    race r = {.ops = ops, .p = p, .z = z, .z_max = z[leader], .best = -HUGE_VALF, .winner = leader};
    enter(&r, leader, trit_noise_bits(p->seed, p->position, (uint32_t)leader)); /* passes every filter */
    for (size_t first = 0; first < vocab; first += BLOCK) {
        size_t n = vocab - first < BLOCK ? vocab - first : (size_t)BLOCK;
        /* What rounding may hide: of z + g, and of the thresholds. */
        float needed = r.best - (0.05f + fabsf(r.best) * 1e-6f);
        float block_max = REMOVED;
        for (size_t i = 0; i < n; i++)
            block_max = z[first + i] > block_max ? z[first + i] : block_max;
        if (block_max + NOISE_MAX < needed)
            continue;
        uint32_t bits[BLOCK];
        trit_noise_bits_of_lanes(p->seed, p->position, (uint32_t)first, bits);
        for (size_t i = 0; i < n; i++)
            if (z[first + i] + NOISE_MAX >= needed && z[first + i] > REMOVED &&
                bits[i] >= bits_needed(needed - z[first + i]))
                enter(&r, first + i, bits[i]);
    }
    return r.winner;
}

static int32_t choose(const trit_row_ops *ops, size_t vocab, const trit_sampling *p, trit_sampler_scratch *s)
{
    float *z = s->z;
    size_t leader = argmax(z, vocab);
    if (z[leader] == REMOVED)
        return TRIT_TOKEN_NONE;
    if (is_greedy(p))
        return (int32_t)leader;
    for (size_t id = 0; id < vocab; id++)
        z[id] = z[id] == REMOVED ? REMOVED : clamped(z[id] / p->temperature);
    leader = argmax(z, vocab); /* dividing can make two values equal */
    float z_max = z[leader];
    if (p->top_k > 0 && (size_t)p->top_k < vocab)
        filter_top_k(z, vocab, z_max, (size_t)p->top_k, s);
    if (p->top_p < 1.0f)
        filter_top_p(ops, z, vocab, z_max, p->top_p, s);
    return (int32_t)gumbel_argmax(ops, z, vocab, leader, p);
}

int trit_sampler_choose(const trit_row_ops *ops, const float *logits, size_t vocab, const trit_sampling *sampling,
                        int32_t target, int32_t n_top, trit_choice *out, trit_sampler_scratch *scratch)
{
    trit_choice choice = {.token = target};
    float lse;
    if (!ops->log_sum_exp(logits, vocab, &lse)) {
        choice.token = TRIT_TOKEN_NONFINITE;
        *out = choice;
        return 1;
    }
    if (target < 0) {
        if (!adjust(scratch->z, logits, vocab, sampling, scratch->counts))
            return 0;
        choice.token = choose(ops, vocab, sampling, scratch);
    }
    if (choice.token >= 0)
        choice.logprob = logits[choice.token] - lse;
    top_logprobs(logits, vocab, lse, n_top, &choice);
    *out = choice;
    return 1;
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

trit_status trit_sampler_scratch_create(trit_sampler_scratch *out, size_t vocab, trit_error *err)
{
    trit_sampler_scratch s = {.z = trit_alloc(vocab, sizeof *s.z),
                              .counts = trit_alloc(vocab, sizeof *s.counts),
                              .entries = trit_alloc(vocab, sizeof *s.entries),
                              .spare = trit_alloc(vocab, sizeof *s.spare)};
    if (s.z == NULL || s.counts == NULL || s.entries == NULL || s.spare == NULL) {
        trit_sampler_scratch_destroy(&s);
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory to sample from %zu ids", vocab);
    }
    *out = s;
    return TRIT_OK;
}

void trit_sampler_scratch_destroy(trit_sampler_scratch *scratch)
{
    trit_free(scratch->z);
    trit_free(scratch->counts);
    trit_free(scratch->entries);
    trit_free(scratch->spare);
    *scratch = (trit_sampler_scratch){0};
}
