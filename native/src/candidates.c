/* candidates.c - see candidates.h. */
#include "candidates.h"

static const uint32_t IN_PROMPT = 1u << 31; /* the rest counts occurrences in the completion */

/* ---- penalties and bias ----------------------------------------------------------------------------------------- */

static int has_penalties(const trit_sampling *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;
}

/* count: of the id, with its mark; not 0. */
static float penalised(float l, uint32_t count, const trit_sampling *p)
{
    l = l > 0.0f ? l / p->repetition_penalty : l * p->repetition_penalty;
    count &= ~IN_PROMPT;
    if (count > 0)
        l = (l - (float)count * p->frequency_penalty) - p->presence_penalty;
    return clamped(l);
}

static void count_history(candidates *c)
{
    const trit_sampling *p = c->p;
    for (int32_t i = 0; i < p->n_history; i++) {
        uint32_t *count = &c->s->counts[p->history[i]];
        *count = i < p->n_prompt ? IN_PROMPT : *count + 1;
    }
}

float candidates_settle(const candidates *c, size_t id, float logit)
{
    const trit_sampling *p = c->p;
    float l = clamped(logit);
    if (c->s->counts[id] != 0)
        l = penalised(l, c->s->counts[id], p);
    for (int32_t i = 0; i < p->n_bias; i++)
        if ((size_t)p->bias_ids[i] == id)
            l = clamped(l + p->bias_values[i]);
    return c->divided ? clamped(l / p->temperature) : l;
}

/* ---- whole rows ------------------------------------------------------------------------------------------------- */

static float largest_of(const float *z, size_t n)
{
    float lanes[BLOCK];
    if (n < BLOCK) {
        float largest = z[0];
        for (size_t i = 1; i < n; i++)
            largest = z[i] > largest ? z[i] : largest;
        return largest;
    }
    for (size_t j = 0; j < BLOCK / 2; j++)
        lanes[j] = z[j] > z[j + BLOCK / 2] ? z[j] : z[j + BLOCK / 2];
    for (size_t width = BLOCK / 4; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lanes[j] = lanes[j] > lanes[j + width] ? lanes[j] : lanes[j + width];
    return lanes[0];
}

static void update_block(candidates *c, size_t block)
{
    size_t first = block * BLOCK, n = c->vocab - first < BLOCK ? c->vocab - first : (size_t)BLOCK;
    c->s->block_max[block] = largest_of(c->z + first, n);
}

void candidates_update_blocks(candidates *c)
{
    for (size_t block = 0; block * BLOCK < c->vocab; block++)
        update_block(c, block);
}

void candidates_fill(candidates *c, const float *logits)
{
    const trit_sampling *p = c->p;
    float *z = c->z;
    c->s->n_finished = 0;
    if (c->screen != NULL)
        memset(c->s->finished, 0, (c->vocab + TRIT_HEAD_PANEL - 1) / TRIT_HEAD_PANEL);
    for (size_t id = 0; id < c->vocab; id++)
        z[id] = clamped(logits[id]);
    if (has_penalties(p)) {
        count_history(c);
        for (int32_t i = 0; i < p->n_history; i++) {
            int32_t id = p->history[i];
            z[id] = penalised(clamped(logits[id]), c->s->counts[id], p);
        }
    }
    for (int32_t i = 0; i < p->n_bias; i++)
        z[p->bias_ids[i]] = clamped(z[p->bias_ids[i]] + p->bias_values[i]);
    for (int32_t i = 0; i < p->n_suppressed; i++)
        z[p->suppressed[i]] = REMOVED;
    for (size_t id = 0; p->mask != NULL && id < c->vocab; id++)
        if ((p->mask[id / 32] >> id % 32 & 1u) == 0)
            z[id] = REMOVED;
    candidates_update_blocks(c);
}

void candidates_release(candidates *c)
{
    for (int32_t i = 0; has_penalties(c->p) && i < c->p->n_history; i++)
        c->s->counts[c->p->history[i]] = 0;
}

void candidates_divide(candidates *c)
{
    float *z = c->z;
    c->divided = 1;
    for (size_t id = 0; id < c->vocab; id++)
        z[id] = z[id] == REMOVED ? REMOVED : clamped(z[id] / c->p->temperature);
    candidates_update_blocks(c);
}

/* ---- finishing -------------------------------------------------------------------------------------------------- */

void candidates_finish(candidates *c, size_t panel)
{
    float logits[TRIT_HEAD_PANEL];
    size_t first = panel * TRIT_HEAD_PANEL;
    trit_screen_finish(c->screen, panel, logits);
    for (size_t id = first; id < first + TRIT_HEAD_PANEL && id < c->vocab; id++)
        if (c->z[id] != REMOVED)
            c->z[id] = candidates_settle(c, id, logits[id - first]);
    c->s->finished[panel] = 1;
    c->s->n_finished++;
    update_block(c, first / BLOCK);
}

size_t candidates_count(const candidates *c, float floor)
{
    uint32_t n = 0; /* narrow, so that the comparison and the sum vectorise alike */
    for (size_t id = 0; id < c->vocab; id++)
        n += c->z[id] >= floor;
    return n;
}

int candidates_finish_from(candidates *c, float floor)
{
    if (c->screen == NULL)
        return 1;
    if (candidates_count(c, floor) > c->limit)
        return 0;
    for (size_t block = 0; block * BLOCK < c->vocab; block++) {
        size_t end = (block + 1) * BLOCK < c->vocab ? (block + 1) * BLOCK : c->vocab;
        if (c->s->block_max[block] >= floor)
            for (size_t id = block * BLOCK; id < end; id++)
                if (c->z[id] >= floor && !is_exact(c, id))
                    candidates_finish(c, id / TRIT_HEAD_PANEL);
    }
    return c->s->n_finished <= c->limit;
}

size_t candidates_upper_leader(const candidates *c)
{
    const float *block_max = c->s->block_max;
    size_t best = 0;
    for (size_t block = 1; block * BLOCK < c->vocab; block++)
        if (block_max[block] > block_max[best])
            best = block;
    size_t id = best * BLOCK;
    while (c->z[id] != block_max[best])
        id++;
    return id;
}

size_t candidates_leader(candidates *c)
{
    for (;;) {
        size_t id = candidates_upper_leader(c);
        if (is_exact(c, id) || c->z[id] == REMOVED)
            return id;
        if (c->s->n_finished >= c->limit)
            return NOBODY;
        candidates_finish(c, id / TRIT_HEAD_PANEL);
    }
}
