/*
 * sampler_test.c - trit_sample against a sampler that does what docs/numerics.md "Sampling" says in the plainest way: noise for every
 * id, a full sort, each candidate tried in turn. Also the generator's published vectors, the distribution, and the late mask.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "drawn.h"
#include "ops.h"
#include "philox.h"

static trit_kernels kernels;

/* ---- generator -------------------------------------------------------------------------------------------------- */

/* From the authors' Random123 distribution, kat_vectors, philox4x32 10. */
static void check_known_answers(void)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        uint32_t out[4];
        trit_philox4x32_10(vectors[i].counter, vectors[i].key, out);
        CHECK(memcmp(out, vectors[i].expected, sizeof out) == 0);
    }
}

static float noise_of_bits(uint32_t bits)
{
    float u = ((float)bits + 0.5f) * 0x1p-23f;
    return -kernels.rows->log1(-kernels.rows->log1(u));
}

/* No draw may be so large that it wins whatever the logits are. */
static void check_noise_is_bounded(void)
{
    const uint32_t last = (1u << 23) - 1;
    CHECK((float)last + 0.5f < 8388608.0f);
    CHECK(noise_of_bits(last) > 16.0f && noise_of_bits(last) < 16.7f);
    CHECK(noise_of_bits(0) > -3.0f && noise_of_bits(0) < -2.0f);
}

/* ---- the plain sampler ------------------------------------------------------------------------------------------ */

typedef struct candidate {
    int32_t id;
    float z, perturbed;
    int removed, passes;
} candidate;

static int by_rank(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->id - y->id;
}

static int by_perturbed(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->perturbed != y->perturbed)
        return x->perturbed > y->perturbed ? -1 : 1;
    return x->id - y->id;
}

static void plain_adjust(candidate *c, const float *logits, int32_t vocab, const trit_sampling *p)
{
    for (int32_t id = 0; id < vocab; id++) {
        int32_t count = 0, seen = 0;
        float l = logits[id];
        for (int32_t i = 0; i < p->n_history; i++) {
            seen |= p->history[i] == id;
            count += p->history[i] == id && i >= p->n_prompt;
        }
        if (seen)
            l = l > 0.0f ? l / p->repetition_penalty : l * p->repetition_penalty;
        if (count > 0)
            l = (l - (float)count * p->frequency_penalty) - p->presence_penalty;
        c[id] = (candidate){.id = id, .z = l};
    }
    for (int32_t i = 0; i < p->n_bias; i++)
        c[p->bias_ids[i]].z += p->bias_values[i];
    for (int32_t i = 0; i < p->n_suppressed; i++)
        c[p->suppressed[i]].removed = 1;
    for (int32_t id = 0; p->mask != NULL && id < vocab; id++)
        c[id].removed |= (p->mask[id / 32] >> id % 32 & 1) == 0;
}

static int32_t plain_sampler(const float *logits, int32_t vocab, const trit_sampling *p)
{
    static candidate c[MAX_VOCAB];
    static float kept_z[MAX_VOCAB];
    const trit_row_ops *ops = kernels.rows;
    plain_adjust(c, logits, vocab, p);
    int32_t n = 0;
    for (int32_t id = 0; id < vocab; id++)
        if (!c[id].removed)
            c[n++] = c[id];
    if (n == 0)
        return TRIT_TOKEN_NONE;
    int greedy = p->temperature == 0.0f || p->top_k == 1 || p->top_p == 0.0f;
    for (int32_t i = 0; !greedy && i < n; i++)
        c[i].z = c[i].z / p->temperature;
    qsort(c, (size_t)n, sizeof c[0], by_rank);
    if (greedy)
        return c[0].id;
    int32_t n_kept = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    float lse, mass = 0.0f, largest = c[0].z;
    for (int32_t id = 0; id < vocab; id++)
        kept_z[id] = -2e38f;
    for (int32_t i = 0; i < n_kept; i++)
        kept_z[c[i].id] = c[i].z;
    (void)ops->log_sum_exp(kept_z, (size_t)vocab, &lse);
    for (int32_t i = 0; i < n; i++) {
        c[i].passes = i < n_kept && (p->top_p >= 1.0f || mass < p->top_p) &&
                      (p->min_p == 0.0f || ops->exp1(c[i].z - largest) >= p->min_p);
        mass = mass + ops->exp1(c[i].z - lse);
        c[i].perturbed = c[i].z + noise_of_bits(trit_noise_bits(p->seed, p->position, (uint32_t)c[i].id));
    }
    qsort(c, (size_t)n, sizeof c[0], by_perturbed);
    for (int32_t i = 0; i < n; i++)
        if (c[i].passes)
            return c[i].id;
    return TRIT_TOKEN_NONE;
}

/* ---- comparison ------------------------------------------------------------------------------------------------- */

static void draw_logits(float *logits, int32_t vocab, uint64_t *state)
{
    static const float spreads[] = {0.01f, 1.0f, 5.0f, 30.0f};
    float spread = spreads[check_below(state, 4)];
    int coarse = check_below(state, 3) == 0; /* many equal logits */
    for (int32_t id = 0; id < vocab; id++) {
        float l = random_float(state, -spread, spread);
        logits[id] = coarse ? rintf(l) : l;
    }
}

static void check_against_plain(void)
{
    static const int32_t vocabs[] = {1, 2, 7, 16, 33, 203, 1000, 2000};
    static drawn d;
    static float logits[MAX_VOCAB];
    uint64_t state = 2024;
    int32_t wrong = 0;
    for (int32_t i = 0; i < 4000; i++) {
        int32_t vocab = vocabs[check_below(&state, 8)];
        uint64_t before = state;
        trit_choice choice;
        trit_error err = {.text = ""};
        draw_logits(logits, vocab, &state);
        draw_sampling(&d, vocab, &state);
        if (trit_sample(logits, vocab, &d.p, -1, 3, &choice, &err) != TRIT_OK ||
            choice.token != plain_sampler(logits, vocab, &d.p)) {
            wrong++;
            printf("    case %d (state %llu): %s\n", i, (unsigned long long)before, err.text);
        }
    }
    CHECK(wrong == 0);
}

/* Frequencies follow the softmax: chi-square over 50 ids, 20,000 draws; 49 degrees of freedom, 99.99 % below 101. */
static void check_distribution(void)
{
    enum { IDS = 50, DRAWS = 20000 };
    float logits[IDS];
    int32_t counts[IDS] = {0};
    uint64_t state = 5;
    double sum = 0.0, chi2 = 0.0;
    for (int32_t id = 0; id < IDS; id++) {
        logits[id] = random_float(&state, -1.5f, 1.5f);
        sum += exp((double)logits[id]);
    }
    trit_sampling p = {.seed = 77, .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    for (p.position = 0; p.position < DRAWS; p.position++) {
        trit_choice choice = {.token = 0};
        (void)trit_sample(logits, IDS, &p, -1, 0, &choice, NULL);
        counts[choice.token]++;
    }
    for (int32_t id = 0; id < IDS; id++) {
        double expected = DRAWS * exp((double)logits[id]) / sum;
        chi2 += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    if (!CHECK(chi2 < 101.0 && chi2 > 15.0))
        printf("    chi-square is %g\n", chi2);
}

/* ---- single promises -------------------------------------------------------------------------------------------- */

static const trit_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f};

static void check_edges(void)
{
    float logits[40] = {0};
    trit_choice choice;
    uint32_t nothing[2] = {0, 0};
    for (int i = 0; i < 40; i++)
        logits[i] = i == 7 || i == 31 ? 2.0f : -(float)i;
    CHECK_OK(trit_sample(logits, 40, &greedy, -1, 20, &choice, err));
    CHECK(choice.token == 7 && choice.n_top == 20 && choice.top_ids[0] == 7 && choice.top_ids[1] == 31 &&
          choice.top_ids[2] == 0);
    CHECK(choice.top_logprobs[0] == choice.logprob && choice.top_logprobs[19] < choice.top_logprobs[2]);
    CHECK_OK(trit_sample(logits, 40, &greedy, 31, 0, &choice, err));
    CHECK(choice.token == 31 && choice.n_top == 0);

    trit_sampling masked = greedy;
    masked.mask = nothing;
    CHECK_OK(trit_sample(logits, 40, &masked, -1, 1, &choice, err));
    CHECK(choice.token == TRIT_TOKEN_NONE && choice.n_top == 1);

    /* Extreme but finite everything: an id comes back, and the same twice. */
    for (int i = 0; i < 40; i++)
        logits[i] = i % 2 ? 3e38f : -3e38f;
    trit_sampling wild = {
        .temperature = 1e-30f, .top_p = 0.5f, .min_p = 1.0f, .repetition_penalty = 1e-4f, .frequency_penalty = 1e4f};
    CHECK_OK(trit_sample(logits, 40, &wild, -1, 0, &choice, err));
    CHECK(choice.token >= 0 && choice.token % 2 == 1);

    logits[3] = NAN;
    CHECK_OK(trit_sample(logits, 40, &greedy, -1, 5, &choice, err));
    CHECK(choice.token == TRIT_TOKEN_NONFINITE && choice.n_top == 0);
    logits[3] = -INFINITY;
    CHECK_OK(trit_sample(logits, 40, &greedy, 3, 5, &choice, err));
    CHECK(choice.token == TRIT_TOKEN_NONFINITE);
}

typedef struct late {
    uint32_t mask[2];
    _Atomic int32_t ready;
} late;

static void *provide_mask(void *argument)
{
    late *l = argument;
    const struct timespec pause = {.tv_nsec = 20000000};
    (void)nanosleep(&pause, NULL);
    l->mask[0] = 1u << 9;
    atomic_store_explicit(&l->ready, 1, memory_order_release);
    return NULL;
}

static void check_late_mask(void)
{
    float logits[40] = {0};
    late l = {.mask = {0xffffffffu, 0}};
    pthread_t thread;
    trit_choice choice = {.token = 0};
    trit_sampling p = greedy;
    p.mask = l.mask;
    p.mask_ready = (const int32_t *)&l.ready;
    CHECK(pthread_create(&thread, NULL, provide_mask, &l) == 0);
    CHECK_OK(trit_sample(logits, 40, &p, -1, 0, &choice, err));
    CHECK(choice.token == 9);
    (void)pthread_join(thread, NULL);
}

int main(void)
{
    CHECK(trit_kernels_select(&kernels, TRIT_ISA_AUTO));
    check_known_answers();
    check_noise_is_bounded();
    check_edges();
    check_against_plain();
    check_distribution();
    check_late_mask();
    return CHECK_SUMMARY;
}
