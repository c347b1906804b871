/*
 * screen.h - a row of logits known from the high plane of the head alone: bounds for every id, exact values where they matter.
 *
 *      logit = ((float)D * h_scale) * 2^-shift,   D = 256 * (high . h) + (low . h),   |low . h| <= 128 * ||h||_1 = slack
 *
 * Rounding to float, multiplying by a positive number and flushing are all monotone, so the same expression of D plus and minus the
 * slack bounds the very float that the full computation gives, without a margin. A finished logit is that float.
 */
#ifndef TRIT_SCREEN_H
#define TRIT_SCREEN_H

#include <string.h>

#include "model.h"

typedef struct trit_screen {
    trit_head_fn *kernel;
    const trit_planes *head;
    size_t vocab;
    const int16_t *h; /* the hidden row, padded to 64 */
    const int8_t *h_hi, *h_lo;
    float h_scale;
    int64_t slack;
    const int64_t *dots; /* (16 n_panels) with the high plane */
} trit_screen;

/* 2^-shift by its exponent field: 0 for shift = 127, infinite for shift = -128, which no converted model holds. */
static inline float trit_exp2_negated(int8_t shift)
{
    uint32_t bits = (uint32_t)(127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline float trit_head_logit(int64_t dot, float h_scale, int8_t shift)
{
    return ((float)dot * h_scale) * trit_exp2_negated(shift);
}

/* What the low plane can add to D at most. h (n) */
int64_t trit_screen_slack(const int16_t *h, size_t n);

/* Upper bounds of ids [first, end). */
void trit_screen_upper(const trit_screen *screen, size_t first, size_t end, float *upper);

/* A lower bound of one id. */
static inline float trit_screen_lower(const trit_screen *screen, size_t id)
{
    return trit_head_logit(256 * screen->dots[id] - screen->slack, screen->h_scale, screen->head->shift[id]);
}

/* Whether every logit of the row is finite, by far, whatever the planes hold: |D| <= 256 * slack. If not, only the full row can tell. */
static inline int trit_screen_holds(const trit_screen *screen)
{
    float largest = (float)(256 * screen->slack) * screen->h_scale; /* false for NaN */
    return largest < 1e30f && largest * trit_exp2_negated(screen->head->least_shift) < 1e30f;
}

/* Read the low plane of a panel: the exact logits of its 16 ids; what stands for ids past the vocabulary is unspecified. */
void trit_screen_finish(const trit_screen *screen, size_t panel, float logits[TRIT_HEAD_PANEL]);

#endif
