/* status.c - names of statuses, the version, and the one place that formats an error. */
#include <stdarg.h>
#include <stdio.h>

#include "status.h"

#ifndef TRIT_VERSION
#define TRIT_VERSION "0.0.0"
#endif

const char *trit_status_name(trit_status status)
{
    switch (status) {
    case TRIT_OK: return "TRIT_OK";
    case TRIT_ERR_ARGUMENT: return "TRIT_ERR_ARGUMENT";
    case TRIT_ERR_MEMORY: return "TRIT_ERR_MEMORY";
    case TRIT_ERR_IO: return "TRIT_ERR_IO";
    case TRIT_ERR_FORMAT: return "TRIT_ERR_FORMAT";
    case TRIT_ERR_UNSUPPORTED: return "TRIT_ERR_UNSUPPORTED";
    case TRIT_ERR_STATE: return "TRIT_ERR_STATE";
    }
    return "TRIT_ERR_UNKNOWN";
}

const char *trit_version(void)
{
    return TRIT_VERSION;
}

trit_status trit_fail(trit_error *err, trit_status status, const char *format, ...)
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
