/* checked.h - sizes multiplied with overflow noticed, and the error text of pack/. */
#ifndef TRIT_PACK_CHECKED_H
#define TRIT_PACK_CHECKED_H

#include <stdarg.h>
#include <stdio.h>

#include "trit/trit.h"

/* a * b into *product; 0 if it does not fit. */
static inline int checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
    if (a != 0 && b > UINT64_MAX / a)
        return 0;
    *product = a * b;
    return 1;
}

/* value rounded up to a multiple of step, for value in [1, INT64_MAX]. */
static inline uint64_t round_up(int64_t value, uint64_t step)
{
    return ((uint64_t)value + step - 1) / step * step;
}

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static inline trit_status
pack_fail(trit_error *err, trit_status status, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        err->status = status;
        va_start(args, format);
        (void)vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}

#endif
