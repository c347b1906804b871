/*
 * candidates.h - what the sampler chooses from: a value z for every id, after penalties, bias and suppression, later divided by the
 * temperature.
 *
 * z is exact, or an upper bound until its id is finished from the low plane (screen.h). Everything that is done to a logit is monotone, so
 * what bounds the logit bounds z. Removed ids hold REMOVED and stay so.
 */
#ifndef TRIT_CANDIDATES_H
#define TRIT_CANDIDATES_H

#include "rank.h"
#include "sampler.h"

#define CLAMP 1e30f
#define REMOVED -2e38f

#define NOBODY ((size_t) - 1)

enum { BLOCK = 32 }; /* ids whose largest z is kept */

typedef struct candidates {
    const trit_row_ops *ops;
    const trit_sampling *p;
    const trit_screen *screen; /* NULL: every z is exact */
    size_t vocab;
    trit_sampler_scratch *s;
    float *z; /* s->z */
    int divided;
    size_t limit; /* panels that may be finished */
} candidates;

/* Values are clamped, so that extreme parameters cannot make an infinity or a NaN; removed ids are lower still. */
static inline float clamped(float x)
{
    return x > CLAMP ? CLAMP : x < -CLAMP ? -CLAMP : x;
}

static inline int is_exact(const candidates *c, size_t id)
{
    return c->screen == NULL || c->s->finished[id / TRIT_HEAD_PANEL] != 0;
}

/* Fill z from logits (vocab). Suppressed and masked ids are removed; the mask is ready. The counts are in use until the release. */
void candidates_fill(candidates *c, const float *logits);
void candidates_release(candidates *c);
void candidates_divide(candidates *c);
/* After z was changed by others. */
void candidates_update_blocks(candidates *c);

/* z of an id if its logit were this. */
float candidates_settle(const candidates *c, size_t id, float logit);
/* Make z of a panel's ids exact. */
void candidates_finish(candidates *c, size_t panel);
size_t candidates_count(const candidates *c, float floor);
/* Make exact whatever reaches `floor`; returns 0, and may have done a part, if that is more than the limit. */
int candidates_finish_from(candidates *c, float floor);
/* The lowest id of the largest z, be it exact or a bound. */
size_t candidates_upper_leader(const candidates *c);
/* The lowest id of the largest z, exact unless it is REMOVED; NOBODY if finding it takes more than the limit. */
size_t candidates_leader(candidates *c);

#endif
