/* screen.c - see screen.h. */
#include "screen.h"

int64_t trit_screen_slack(const int16_t *h, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += h[i] < 0 ? -h[i] : h[i];
    return 128 * sum;
}

void trit_screen_upper(const trit_screen *screen, size_t first, size_t end, float *upper)
{
    for (size_t id = first; id < end; id++)
        upper[id] = trit_head_logit(256 * screen->dots[id] + screen->slack, screen->h_scale, screen->head->shift[id]);
}

void trit_screen_finish(const trit_screen *screen, size_t panel, float logits[TRIT_HEAD_PANEL])
{
    const trit_planes *head = screen->head;
    int64_t low[TRIT_HEAD_PANEL];
    size_t first = panel * TRIT_HEAD_PANEL, left = screen->vocab - first;
    screen->kernel(screen->h, screen->h_hi, screen->h_lo, head->groups * TRIT_GROUP, 1,
                   head->lo + panel * head->groups * 64, head->groups, 0, 1, low, TRIT_HEAD_PANEL);
    for (size_t i = 0; i < TRIT_HEAD_PANEL && i < left; i++)
        logits[i] = trit_head_logit(256 * screen->dots[first + i] + low[i], screen->h_scale, head->shift[first + i]);
}
