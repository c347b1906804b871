/* measure.h - what the machine can do, and what the linears do, in the same process. Arguments were checked by api.c. */
#ifndef TRIT_MEASURE_H
#define TRIT_MEASURE_H

#include "session.h"

enum { TRIT_MAX_STREAMS = 16 };

trit_status trit_read_bandwidth(int fd, uint64_t bytes, trit_read_pattern pattern, int32_t n_threads, int32_t repeats,
                                double *bytes_per_second, trit_error *err);
trit_status trit_int8_rate(trit_isa isa, int32_t n_threads, double seconds, double *ops_per_second, trit_error *err);

/* Of a clock that only goes forward. */
double trit_now_seconds(void);
double trit_linears_seconds(trit_session *session, size_t rows, int32_t repeats);

#endif
