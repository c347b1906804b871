/* status.h - writes a caller's trit_error. Texts say what was wrong, what was got and what was expected. */
#ifndef TRIT_STATUS_H
#define TRIT_STATUS_H

#include "compiler.h"
#include "trit/trit.h"

/* Fill *err (may be NULL) and return `status`, so that a check reads: return trit_fail(err, ...). */
trit_status trit_fail(trit_error *err, trit_status status, const char *format, ...) TRIT_PRINTF(3, 4);

#endif
