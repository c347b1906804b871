/* sampler_check.c - the bounds of one output's sampling parameters. */
#include "sampler.h"
#include "status.h"

enum { MAX_HISTORY = (1 << 30) - 1 }; /* the sampler counts occurrences in 30 bits */

static trit_status check_float(const char *name, float value, float least, float most, size_t at, trit_error *err)
{
    if (value >= least && value <= most) /* false for NaN */
        return TRIT_OK;
    return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: %s is %g, expected %g to %g", at, name, (double)value,
                     (double)least, (double)most);
}

static trit_status check_ids(const char *name, const int32_t *ids, int32_t n, int32_t most, int32_t vocab, size_t at,
                             trit_error *err)
{
    if (n < 0 || n > most)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: n_%s is %d, expected 0 to %d", at, name, n, most);
    if (n > 0 && ids == NULL)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: %s is NULL, expected %d ids", at, name, n);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: %s id %d is %d, expected 0 to %d", at, name, i,
                             ids[i], vocab - 1);
    return TRIT_OK;
}

trit_status trit_sampling_check(const trit_sampling *p, int32_t vocab, size_t at, trit_error *err)
{
    const struct {
        const char *name;
        float value, least, most;
    } rules[] = {
        {"temperature", p->temperature, 0.0f, 1e4f},
        {"top_p", p->top_p, 0.0f, 1.0f},
        {"min_p", p->min_p, 0.0f, 1.0f},
        {"repetition_penalty", p->repetition_penalty, 1e-4f, 1e4f},
        {"presence_penalty", p->presence_penalty, -1e4f, 1e4f},
        {"frequency_penalty", p->frequency_penalty, -1e4f, 1e4f},
    };
    trit_status status;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if ((status = check_float(rules[i].name, rules[i].value, rules[i].least, rules[i].most, at, err)) != TRIT_OK)
            return status;
    if (p->position < 0 || p->top_k < 0)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: position is %d and top_k %d, expected neither negative",
                         at, p->position, p->top_k);
    if ((status = check_ids("history", p->history, p->n_history, MAX_HISTORY, vocab, at, err)) != TRIT_OK)
        return status;
    if (p->n_prompt < 0 || p->n_prompt > p->n_history)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: n_prompt is %d, expected 0 to n_history = %d", at,
                         p->n_prompt, p->n_history);
    if ((status = check_ids("bias", p->bias_ids, p->n_bias, vocab, vocab, at, err)) != TRIT_OK)
        return status;
    if (p->n_bias > 0 && p->bias_values == NULL)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %zu: bias_values is NULL, expected %d values", at, p->n_bias);
    for (int32_t i = 0; i < p->n_bias; i++)
        if ((status = check_float("bias value", p->bias_values[i], -1e4f, 1e4f, at, err)) != TRIT_OK)
            return status;
    return check_ids("suppressed", p->suppressed, p->n_suppressed, vocab, vocab, at, err);
}
