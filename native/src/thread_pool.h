/*
 * thread_pool.h - fork and join over a list of work items, by threads that live as long as the pool.
 *
 * The caller takes part. Items are claimed one by one from an atomic counter, so unequal items and a thread that the system takes away
 * do not matter: a worker that wakes late finds nothing left and is not waited for. Between runs a worker spins for some 20 us, which
 * covers the gap between two layers' linears, then sleeps; an idle pool uses no CPU time.
 *
 * Workers run with flush-to-zero, with all signals blocked, and at a lower priority than the thread that made the pool, so that an
 * event loop on the same cores keeps its time.
 */
#ifndef TRIT_THREAD_POOL_H
#define TRIT_THREAD_POOL_H

#include <stddef.h>

#include "trit/trit.h"

enum { TRIT_MAX_THREADS = 256 };

typedef struct trit_pool trit_pool;

/* item 0..n_items-1, each exactly once; thread 0 is the caller. */
typedef void trit_task_fn(void *context, size_t item, size_t thread);

/* n_threads 1..TRIT_MAX_THREADS, the caller among them. */
trit_status trit_pool_create(trit_pool **out, int32_t n_threads, trit_error *err);
void trit_pool_destroy(trit_pool **pool);
size_t trit_pool_threads(const trit_pool *pool);
/* Returns when every item is done. max_threads: only threads below it take part (scratch may exist for fewer). */
void trit_pool_run(trit_pool *pool, trit_task_fn *task, void *context, size_t n_items, size_t max_threads);

#endif
