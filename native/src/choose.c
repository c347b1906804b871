/*
 * choose.c - see choose.h.
 *
 * With exact values the kept set of top_k and top_p is a prefix of the rank order, found from the leaders alone (rank.h), and the answer is
 * the kept candidate with the largest z + g. With bounds the candidates are tried in descending order of z + g instead, each finished when
 * its bound comes up, and top_p asks only whether the mass ranked above it is under p. The race, the rank and every float operation that
 * decides are the same.
 *
 * Most ids are dismissed before their noise is computed, because z plus the largest possible noise stays below what is already there.
 */
#include <assert.h>
#include <math.h>

#include "choose.h"
#include "philox.h"

#define NOISE_MAX 16.7f /* g(2^23 - 1) = 16.6355 */

_Static_assert((int)BLOCK == (int)TRIT_NOISE_LANES, "the race looks at blocks");

/* A temperature that flush-to-zero would flush is 0. */
static int is_greedy(const trit_sampling *p)
{
    return p->temperature < 1.17549435e-38f || p->top_k == 1 || p->top_p == 0.0f;
}

/* ---- filters of exact values ------------------------------------------------------------------------------------ */

/* Remove what ranks behind `last`, the last entry kept. */
static void keep_up_to(candidates *c, uint64_t last)
{
    float *z = c->z, cut = z[trit_rank_id(last)];
    for (size_t id = 0; id < c->vocab; id++)
        z[id] = z[id] < cut ? REMOVED : z[id];
    for (size_t id = trit_rank_id(last) + 1; id < c->vocab; id++) /* equal values rank by id */
        z[id] = z[id] == cut ? REMOVED : z[id];
    candidates_update_blocks(c);
}

/*
 * A floor that at least k ids reach, and few more: counting is ten times cheaper than sorting what is counted. The reach below the
 * largest value doubles until it suffices, then is bisected.
 */
static float floor_of_leaders(const candidates *c, float z_max, size_t k)
{
    float short_reach = 0.0f, reach = 1.0f;
    while (candidates_count(c, z_max - reach) < k) {
        if (reach > 1000.0f)
            return -HUGE_VALF;
        short_reach = reach;
        reach = reach * 2.0f;
    }
    for (int i = 0; i < 8; i++) {
        float middle = 0.5f * (short_reach + reach);
        size_t n = candidates_count(c, z_max - middle);
        if (n < k)
            short_reach = middle;
        else
            reach = middle;
        if (n >= k && n < 2 * k + 64)
            break;
    }
    return z_max - reach;
}

static size_t leaders(candidates *c, float floor)
{
    return trit_rank_leaders(c->z, c->vocab, floor, c->s->entries, c->s->spare);
}

/* k is less than vocab. */
static void filter_top_k(candidates *c, float z_max, size_t k)
{
    size_t n = leaders(c, floor_of_leaders(c, z_max, k));
    assert(n >= k);
    (void)n;
    keep_up_to(c, c->s->entries[k - 1]);
}

/* Keeps an id while the mass ranked strictly above it is < top_p; mass over what top_k left, summed in rank order. */
static void filter_top_p(candidates *c, float z_max, float top_p)
{
    /* How far below the largest value the kept ids may reach: nearly always the first. */
    static const float reaches[] = {5.0f, 10.0f, 18.0f, HUGE_VALF};
    float lse;
    if (!c->ops->log_sum_exp(c->z, c->vocab, &lse))
        return; /* cannot be: every z is finite */
    for (size_t i = 0; i < sizeof reaches / sizeof reaches[0]; i++) {
        size_t n = leaders(c, z_max - reaches[i]);
        float mass = 0.0f;
        for (size_t rank = 0; rank < n; rank++) {
            mass = mass + c->ops->exp1(c->z[trit_rank_id(c->s->entries[rank])] - lse);
            if (!(mass < top_p)) {
                keep_up_to(c, c->s->entries[rank]);
                return;
            }
        }
    }
}

/* ---- top_k and top_p of one candidate, by bounds ---------------------------------------------------------------- */

typedef enum verdict { KEPT, CUT, UNKNOWN } verdict;

/* How many top_k keeps. */
static size_t kept_ranks(const candidates *c)
{
    return c->p->top_k > 0 ? (size_t)c->p->top_k : (size_t)INT32_MAX;
}

/* At least the mass, relative to exp(z_max), of everything below the first n entries, which are the leaders. */
static double tail_mass(candidates *c, size_t n, float z_max)
{
    float lse;
    const uint64_t *entries = c->s->entries;
    for (size_t i = 0; i < n; i++)
        c->z[trit_rank_id(entries[i])] = REMOVED;
    int finite = c->ops->log_sum_exp(c->z, c->vocab, &lse);
    for (size_t i = 0; i < n; i++)
        c->z[trit_rank_id(entries[i])] = trit_rank_value(entries[i]);
    return finite && lse - z_max < 80.0f ? (double)c->ops->exp1(lse - z_max) : HUGE_VAL;
}

/*
 * Whether the mass ranked above an entry is under top_p. The first n entries are exact and rank first; of them the first `kept` count for the
 * total, and whatever else top_k may have left is in the tail. `margin` covers what the full computation rounds: the sum over the
 * vocabulary and over the leaders (a unit in the last place each), exp and log, and z - lse where z is large.
 */
static verdict weigh_mass(candidates *c, uint64_t own, size_t n)
{
    const uint64_t *entries = c->s->entries;
    size_t kept = n < kept_ranks(c) ? n : kept_ranks(c);
    float z_max = trit_rank_value(entries[0]);
    double above = 0.0, total = 0.0, top_p = (double)c->p->top_p;
    for (size_t i = 0; i < kept; i++) {
        double mass = (double)c->ops->exp1(trit_rank_value(entries[i]) - z_max);
        above += entries[i] < own ? mass : 0.0;
        total += mass;
    }
    double margin = 2e-5 + (double)(c->vocab / BLOCK + n + 64) * 0x1p-23 + fabs((double)z_max) * 0x1p-21;
    int has_own = entries[n - 1] >= own; /* else more may rank above it */
    if (has_own && above * (1.0 + margin) < top_p * total)
        return KEPT;
    double tail = kept < n || n == kept_ranks(c) ? 0.0 : tail_mass(c, n, z_max);
    return above * (1.0 - margin) >= top_p * (total + tail * (1.0 + margin)) ? CUT : UNKNOWN;
}

/* Whether w passes, if everything from `floor` up is exact. What is sure to rank behind the last that passes lowers *behind. */
static verdict weigh(candidates *c, size_t w, float floor, uint64_t *behind)
{
    size_t n = leaders(c, floor), k = kept_ranks(c);
    const uint64_t *entries = c->s->entries;
    uint64_t own = trit_rank_entry(c->z[w], (uint32_t)w);
    if (n == 0)
        return UNKNOWN;
    if (entries[0] == own)
        return KEPT; /* nothing ranks above it */
    if (n >= k) {
        *behind = entries[k - 1] < *behind ? entries[k - 1] + 1 : *behind;
        if (own > entries[k - 1])
            return CUT;
    }
    if (c->p->top_p < 1.0f)
        return weigh_mass(c, own, n);
    return entries[n - 1] >= own ? KEPT : UNKNOWN;
}

enum { FIRST_LEADERS = 64, DEEPER = 6 };

/* z of w is exact. Finishes the leaders down to w, and further down while the tail still weighs too much. */
static verdict passes(candidates *c, size_t w, uint64_t *behind)
{
    float floor = c->z[w];
    size_t n = candidates_count(c, floor), k = kept_ranks(c);
    if (c->p->top_p == 1.0f && n <= k)
        return KEPT;
    if (n > c->limit) { /* far down: the leaders alone may cut it */
        floor = floor_of_leaders(c, c->z[candidates_upper_leader(c)], k < c->limit ? k : (size_t)FIRST_LEADERS);
        return candidates_finish_from(c, floor) ? weigh(c, w, floor, behind) : UNKNOWN;
    }
    for (int depth = 0; depth < DEEPER; depth++) {
        if (!candidates_finish_from(c, floor))
            return UNKNOWN;
        verdict v = weigh(c, w, floor, behind);
        if (v != UNKNOWN)
            return v;
        floor -= 1.0f;
    }
    return UNKNOWN;
}

/* ---- the race --------------------------------------------------------------------------------------------------- */

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
    candidates *c;
    float z_max;     /* the largest exact z; min_p only */
    uint64_t behind; /* only what ranks before this entry takes part */
    float best;      /* largest exact z + g so far */
    size_t winner;   /* NOBODY at first */
    float bar;       /* somebody surely reaches this */
    size_t n_open;   /* entries: z + g of those whose z is not exact */
} race;

static int passes_min_p(const race *r, float z)
{
    return r->c->p->min_p == 0.0f || r->c->ops->exp1(z - r->z_max) >= r->c->p->min_p;
}

/* z of id is exact. */
static void enter(race *r, size_t id, float g)
{
    float z = r->c->z[id], sum = z + g;
    if (r->winner != NOBODY && (sum < r->best || (sum == r->best && id > r->winner)))
        return;
    if (trit_rank_entry(z, (uint32_t)id) >= r->behind || !passes_min_p(r, z))
        return;
    r->best = sum;
    r->winner = id;
    r->bar = sum > r->bar ? sum : r->bar;
}

/* What is sure of an open one raises the bar, unless a filter may yet take it. */
static void raise_bar(race *r, size_t id, float g)
{
    const candidates *c = r->c;
    float least = candidates_settle(c, id, trit_screen_lower(c->screen, id)), min_p = c->p->min_p;
    if (trit_rank_entry(least, (uint32_t)id) >= r->behind)
        return;
    if (min_p > 0.0f && !(c->ops->exp1(least - r->z_max) >= min_p * 1.001f))
        return;
    r->bar = least + g > r->bar ? least + g : r->bar;
}

/* Enter it, or note its bound. */
static void consider(race *r, size_t id, uint32_t bits)
{
    candidates *c = r->c;
    if (trit_rank_entry(c->z[id], (uint32_t)id) >= r->behind)
        return;
    float g = gumbel(c->ops, bits), most = c->z[id] + g;
    if (is_exact(c, id)) {
        enter(r, id, g);
    } else if (most >= r->bar) {
        c->s->entries[r->n_open++] = trit_rank_entry(most, (uint32_t)id);
        raise_bar(r, id, g);
    }
}

static void scan(race *r)
{
    const candidates *c = r->c;
    const trit_sampling *p = c->p;
    const float *z = c->z;
    for (size_t first = 0; first < c->vocab; first += BLOCK) {
        size_t n = c->vocab - first < BLOCK ? c->vocab - first : (size_t)BLOCK;
        /* What rounding may hide: of z + g, and of the thresholds. */
        float needed = r->bar - (0.05f + fabsf(r->bar) * 1e-6f);
        if (c->s->block_max[first / BLOCK] + NOISE_MAX < needed)
            continue;
        uint32_t bits[BLOCK];
        trit_noise_bits_of_lanes(p->seed, p->position, (uint32_t)first, bits);
        for (size_t i = 0; i < n; i++)
            if (z[first + i] + NOISE_MAX >= needed && z[first + i] > REMOVED &&
                bits[i] >= bits_needed(needed - z[first + i]))
                consider(r, first + i, bits[i]);
    }
}

static float noise_of(const candidates *c, size_t id)
{
    return gumbel(c->ops, trit_noise_bits(c->p->seed, c->p->position, (uint32_t)id));
}

/* Finish the open ones, largest bound first, until none can win. */
static void settle_open(race *r)
{
    candidates *c = r->c;
    uint64_t *entries = c->s->entries, last = trit_rank_entry(r->bar, UINT32_MAX);
    size_t n = 0;
    for (size_t i = 0; i < r->n_open; i++)
        if (entries[i] <= last)
            entries[n++] = entries[i];
    trit_rank_sort(entries, c->s->spare, n);
    for (size_t i = 0; i < n; i++) {
        size_t id = trit_rank_id(entries[i]);
        float most = trit_rank_value(entries[i]);
        if (r->winner != NOBODY && (most < r->best || (most == r->best && id > r->winner)))
            return;
        if (!is_exact(c, id))
            candidates_finish(c, id / TRIT_HEAD_PANEL);
        enter(r, id, noise_of(c, id));
        if (c->s->n_finished > c->limit) {
            r->winner = NOBODY;
            return;
        }
    }
}

/* The largest z + g among what is left and ranks before `behind`; the lowest id on ties. leader: the largest z, or NOBODY. NOBODY: none, or
 * the limit was reached. */
static size_t gumbel_argmax(candidates *c, size_t leader, uint64_t behind)
{
    race r = {.c = c, .behind = behind, .best = -HUGE_VALF, .bar = -HUGE_VALF, .winner = NOBODY};
    if (leader != NOBODY) {
        r.z_max = c->z[leader];
        enter(&r, leader, noise_of(c, leader)); /* passes every filter but `behind` */
    } else {                                    /* an early bar dismisses most; the scan meets this id again */
        size_t first = candidates_upper_leader(c);
        if (!is_exact(c, first))
            raise_bar(&r, first, noise_of(c, first));
    }
    scan(&r);
    if (r.n_open > 0)
        settle_open(&r);
    return r.winner;
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

enum { MAX_CUTS = 16 };

/* Try the winner; one that is cut takes with it all that ranks behind. Returns 0 if the bounds do not tell. */
static int choose_by_bounds(candidates *c, int32_t *token)
{
    uint64_t behind = UINT64_MAX;
    size_t leader = c->p->min_p > 0.0f ? candidates_leader(c) : NOBODY;
    if (leader == NOBODY && c->p->min_p > 0.0f)
        return 0;
    for (int cuts = 0; cuts < MAX_CUTS; cuts++) {
        size_t winner = gumbel_argmax(c, leader, behind);
        if (winner == NOBODY)
            return 0;
        verdict v = passes(c, winner, &behind);
        if (v == UNKNOWN)
            return 0;
        if (v == KEPT) {
            *token = (int32_t)winner;
            return 1;
        }
        uint64_t own = trit_rank_entry(c->z[winner], (uint32_t)winner);
        behind = own < behind ? own : behind;
    }
    return 0;
}

int trit_choose(candidates *c, int32_t *token)
{
    const trit_sampling *p = c->p;
    size_t leader = candidates_upper_leader(c);
    if (c->z[leader] == REMOVED) {
        *token = TRIT_TOKEN_NONE;
        return 1;
    }
    if (is_greedy(p)) {
        leader = candidates_leader(c);
        *token = (int32_t)leader;
        return leader != NOBODY;
    }
    candidates_divide(c); /* which can make two values equal */
    if (c->screen != NULL)
        return choose_by_bounds(c, token);
    leader = candidates_leader(c);
    float z_max = c->z[leader];
    if (p->top_k > 0 && (size_t)p->top_k < c->vocab)
        filter_top_k(c, z_max, (size_t)p->top_k);
    if (p->top_p < 1.0f)
        filter_top_p(c, z_max, p->top_p);
    *token = (int32_t)gumbel_argmax(c, leader, UINT64_MAX);
    return 1;
}
