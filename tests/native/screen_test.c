/*
 * screen_test.c - what is chosen from bounds of the logits is what is chosen from the logits themselves: random heads, hidden rows and
 * sampling parameters, adversarial ones among them. `screen_test N` looks at N rows (the long form: 1000000).
 */
#include <math.h>
#include <stdlib.h>

#include "compiler.h"
#include "drawn.h"
#include "sampler.h"

enum { MAX_K = 128, DEFAULT_ROWS = 60000, ROWS_PER_HEAD = 40 };

static trit_kernels kernels;

/* ---- heads and hidden rows -------------------------------------------------------------------------------------- */

typedef struct head {
    _Alignas(64) int8_t hi[MAX_VOCAB * MAX_K], lo[MAX_VOCAB * MAX_K];
    int8_t shift[MAX_VOCAB];
    trit_planes planes;
    int32_t vocab, k;
} head;

typedef enum head_kind {
    PLAIN,
    DUPLICATES,
    ALL_EQUAL,
    LOW_ONLY,
    LOW_LARGEST,
    FEW_VALUES,
    LEADERS,
    SHIFTS,
    KINDS
} head_kind;

static int weight(head_kind kind, int32_t row, uint64_t *state)
{
    switch (kind) {
    case ALL_EQUAL: return 1234;
    case LOW_ONLY: return check_below(state, 256) - 128;
    case LOW_LARGEST: return 256 * (check_below(state, 3) - 1) + (check_below(state, 2) ? 127 : -128);
    case FEW_VALUES: return 256 * (check_below(state, 3) - 1);
    case LEADERS: return (check_below(state, 16001) - 8000) * (row % 37 == 0 ? 4 : 1);
    default: return check_below(state, 65025) - 32512;
    }
}

static int8_t low_digit(int value)
{
    return (int8_t)(((value + 128) & 255) - 128);
}

static void put(head *h, size_t row, size_t column, int e)
{
    size_t at = (row / 16 * h->planes.groups + column / 4) * 64 + row % 16 * 4 + column % 4;
    h->lo[at] = low_digit(e);
    h->hi[at] = (int8_t)((e - h->lo[at]) / 256);
}

static void draw_head(head *h, head_kind kind, uint64_t *state)
{
    static const int32_t vocabs[] = {1, 15, 16, 17, 50, 100, 100, 333, 333, 2500};
    static int e[MAX_K];
    h->vocab = vocabs[check_below(state, 10)];
    h->k = 4 + check_below(state, MAX_K - 3);
    size_t vocab = (size_t)h->vocab, k = (size_t)h->k, groups = (k + 63) / 64 * 16, n_panels = (vocab + 15) / 16;
    h->planes = (trit_planes){h->hi, h->lo, h->shift, INT8_MAX, groups, n_panels};
    memset(h->hi, 0, n_panels * groups * 64);
    memset(h->lo, 0, n_panels * groups * 64);
    for (size_t row = 0; row < vocab; row++) {
        int again = kind == DUPLICATES && check_below(state, 2); /* the row before once more */
        for (size_t c = 0; c < k; c++) {
            e[c] = again ? e[c] : weight(kind, (int32_t)row, state);
            put(h, row, c, e[c]);
        }
        h->shift[row] = (int8_t)(kind != SHIFTS           ? 14
                                 : check_below(state, 50) ? 10 + check_below(state, 8)
                                                          : check_below(state, 253) - 126);
        h->planes.least_shift = h->shift[row] < h->planes.least_shift ? h->shift[row] : h->planes.least_shift;
    }
}

typedef struct hidden {
    _Alignas(64) int16_t h[MAX_K];
    _Alignas(64) int8_t hi[MAX_K], lo[MAX_K];
    float scale;
} hidden;

static void draw_hidden(hidden *x, size_t k, uint64_t *state)
{
    static const float scales[] = {1e-12f, 1e-8f, 1e-6f, 1e-5f, 3e-5f,     1e-4f, 1e-4f,
                                   1e-3f,  1.0f,  1e20f, 1e38f, HUGE_VALF, NAN};
    int mode = check_below(state, 6);
    memset(x, 0, sizeof *x);
    /* Sized so that the logits of a plain head spread like one to ten: most rows; the rest are extremes. */
    x->scale = check_below(state, 8) ? random_float(state, 1e-7f, 3e-6f) : scales[check_below(state, 13)];
    for (size_t i = 0; i < k; i++) {
        int h = check_below(state, 65025) - 32512;
        if (mode == 0)
            h = check_below(state, 2) ? 32512 : -32512;
        else if (mode == 1 && i != k / 2) /* one large channel */
            h /= 256;
        else if (mode == 2 && check_below(state, 8) != 0)
            h = 0;
        x->h[i] = (int16_t)h;
        x->lo[i] = low_digit(h);
        x->hi[i] = (int8_t)((h - x->lo[i]) / 256);
    }
}

/* ---- both sources ----------------------------------------------------------------------------------------------- */

static int64_t high[MAX_VOCAB], low[MAX_VOCAB];
static float exact[MAX_VOCAB], upper[MAX_VOCAB];

static trit_screen multiply(const head *h, const hidden *x)
{
    size_t groups = h->planes.groups, n_panels = h->planes.n_panels, vocab = (size_t)h->vocab;
    kernels.head(x->h, x->hi, x->lo, MAX_K, 1, h->hi, groups, 0, n_panels, high, MAX_VOCAB);
    kernels.head(x->h, x->hi, x->lo, MAX_K, 1, h->lo, groups, 0, n_panels, low, MAX_VOCAB);
    trit_screen screen = {.kernel = kernels.head,
                          .head = &h->planes,
                          .vocab = vocab,
                          .h = x->h,
                          .h_hi = x->hi,
                          .h_lo = x->lo,
                          .h_scale = x->scale,
                          .slack = trit_screen_slack(x->h, (size_t)h->k),
                          .dots = high};
    trit_screen_upper(&screen, 0, vocab, upper);
    for (size_t id = 0; id < vocab; id++)
        exact[id] = trit_head_logit(256 * high[id] + low[id], x->scale, h->shift[id]);
    return screen;
}

static int bounds_hold(const trit_screen *screen, size_t vocab)
{
    for (size_t id = 0; id < vocab; id++)
        if (!(trit_screen_lower(screen, id) <= exact[id] && exact[id] <= upper[id] && isfinite(exact[id])))
            return 0;
    return 1;
}

/* ---- the property ----------------------------------------------------------------------------------------------- */

typedef struct tally {
    long rows, undecided, wrong, loose;
} tally;

static void compare(const head *h, const hidden *x, const trit_sampling *p, trit_sampler_scratch *scratch, tally *t)
{
    size_t vocab = (size_t)h->vocab;
    trit_choice expected = {.token = -9}, found = {.token = -9};
    trit_screen screen = multiply(h, x);
    t->rows++;
    t->loose += trit_screen_holds(&screen) && !bounds_hold(&screen, vocab);
    (void)trit_sampler_choose(kernels.rows, exact, NULL, vocab, p, -1, -1, &expected, scratch);
    trit_sampled sampled = trit_sampler_choose(kernels.rows, upper, &screen, vocab, p, -1, -1, &found, scratch);
    t->undecided += sampled == TRIT_SAMPLED_UNDECIDED;
    t->wrong += sampled == TRIT_SAMPLED && found.token != expected.token;
    for (size_t id = 0; id < vocab; id++)
        if (scratch->counts[id] != 0)
            t->wrong++;
}

/* Extremes that draw_sampling does not draw: one id left, very small and very large temperatures. */
static void sharpen(drawn *d, int32_t vocab, uint64_t *state)
{
    static const float temperatures[] = {1e-38f, 1e-6f, 1e-3f, 0.6f, 100.0f, 1e4f};
    if (check_below(state, 4) == 0)
        d->p.temperature = temperatures[check_below(state, 6)];
    if (check_below(state, 16) == 0) {
        int32_t id = check_below(state, vocab);
        memset(d->mask, 0, sizeof d->mask);
        d->mask[id / 32] = 1u << id % 32;
        d->p.mask = d->mask;
    }
}

static void check_equal_choices(long rows)
{
    static head h;
    static drawn d;
    static tally by_kind[KINDS];
    trit_sampler_scratch scratch;
    uint64_t state = 4711;
    CHECK_OK(trit_sampler_scratch_create(&scratch, MAX_VOCAB, err));
    for (long i = 0; i < rows; i++) {
        static head_kind kind;
        hidden x;
        if (i % ROWS_PER_HEAD == 0) {
            kind = (head_kind)check_below(&state, KINDS);
            draw_head(&h, kind, &state);
        }
        draw_hidden(&x, (size_t)h.k, &state);
        draw_sampling(&d, h.vocab, &state);
        sharpen(&d, h.vocab, &state);
        uint64_t before = (uint64_t)by_kind[kind].wrong + (uint64_t)by_kind[kind].loose;
        compare(&h, &x, &d.p, &scratch, &by_kind[kind]);
        if (by_kind[kind].wrong + by_kind[kind].loose != (long)before)
            printf("    row %ld, kind %d, vocab %d, k %d, temperature %g, top_p %g, top_k %d, min_p %g\n", i, (int)kind,
                   h.vocab, h.k, (double)d.p.temperature, (double)d.p.top_p, d.p.top_k, (double)d.p.min_p);
    }
    for (int k = 0; k < KINDS; k++) {
        CHECK(by_kind[k].wrong == 0);
        CHECK(by_kind[k].loose == 0);
        printf("    kind %d: %ld rows, %ld undecided\n", k, by_kind[k].rows, by_kind[k].undecided);
    }
    CHECK(by_kind[PLAIN].undecided * 4 < by_kind[PLAIN].rows);
    trit_sampler_scratch_destroy(&scratch);
}

int main(int argc, char **argv)
{
    CHECK(trit_kernels_select(&kernels, TRIT_ISA_AUTO));
    uint64_t mode = trit_float_mode_enter();
    check_equal_choices(argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_ROWS);
    trit_float_mode_leave(mode);
    return CHECK_SUMMARY;
}
