/*
 * pool_test.c - the thread pool: every item exactly once, whatever the number of threads; limits; no race (run under ThreadSanitizer);
 * and no CPU time while idle.
 */
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "check.h"
#include "thread_pool.h"

enum { MAX_ITEMS = 1000 };

typedef struct tally {
    int visits[MAX_ITEMS]; /* not atomic on purpose: each is one thread's */
    atomic_size_t highest_thread;
    size_t n_threads;
} tally;

static void visit(void *context, size_t item, size_t thread)
{
    tally *t = context;
    t->visits[item]++;
    size_t known = atomic_load(&t->highest_thread);
    while (thread > known && !atomic_compare_exchange_weak(&t->highest_thread, &known, thread))
        continue;
}

static void check_runs(int32_t n_threads, int n_runs)
{
    static tally t;
    trit_pool *pool = NULL;
    uint64_t state = (uint64_t)n_threads;
    int wrong = 0;
    CHECK_OK(trit_pool_create(&pool, n_threads, err));
    CHECK(trit_pool_threads(pool) == (size_t)n_threads);
    for (int run = 0; run < n_runs; run++) {
        size_t n_items = (size_t)check_below(&state, run % 7 == 0 ? MAX_ITEMS : 20);
        size_t limit = 1 + (size_t)check_below(&state, n_threads);
        memset(t.visits, 0, sizeof t.visits);
        atomic_store(&t.highest_thread, 0);
        trit_pool_run(pool, visit, &t, n_items, limit);
        for (size_t i = 0; i < MAX_ITEMS; i++)
            wrong += t.visits[i] != (i < n_items);
        wrong += atomic_load(&t.highest_thread) >= limit;
        if (run % 50 == 0) { /* let workers fall asleep now and then */
            const struct timespec pause = {.tv_nsec = 200000};
            (void)nanosleep(&pause, NULL);
        }
    }
    CHECK(wrong == 0);
    trit_pool_destroy(&pool);
    CHECK(pool == NULL);
    trit_pool_destroy(&pool);
}

static void check_idle_pool_uses_no_cpu(void)
{
    trit_pool *pool = NULL;
    static tally t;
    struct timespec before, after;
    const struct timespec nap = {.tv_nsec = 100000000};
    CHECK_OK(trit_pool_create(&pool, 8, err));
    trit_pool_run(pool, visit, &t, 100, 8);
    const struct timespec settle = {.tv_nsec = 5000000};
    (void)nanosleep(&settle, NULL);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    (void)nanosleep(&nap, NULL);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used = (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    if (!CHECK(used < 0.02))
        printf("    %g s of CPU time in 0.1 s of idleness\n", used);
    trit_pool_destroy(&pool);
}

static void ask_blocked(void *context, size_t item, size_t thread)
{
    (void)item;
    sigset_t set;
    if (thread > 0 && pthread_sigmask(SIG_SETMASK, NULL, &set) == 0 && !sigismember(&set, SIGTERM))
        atomic_store((atomic_int *)context, 1);
}

static void check_workers_take_no_signals(void)
{
    trit_pool *pool = NULL;
    atomic_int open = 0;
    CHECK_OK(trit_pool_create(&pool, 4, err));
    for (int i = 0; i < 50; i++)
        trit_pool_run(pool, ask_blocked, &open, 64, 4);
    CHECK(atomic_load(&open) == 0);
    trit_pool_destroy(&pool);
}

static void multiply_denormal(void *context, size_t item, size_t thread)
{
    (void)item;
    volatile float denormal = 1e-40f;
    if (thread > 0 && denormal * 0.5f != 0.0f)
        atomic_store((atomic_int *)context, 1);
}

static void check_workers_flush_denormals(void)
{
    trit_pool *pool = NULL;
    atomic_int survived = 0;
    CHECK_OK(trit_pool_create(&pool, 4, err));
    for (int i = 0; i < 50; i++)
        trit_pool_run(pool, multiply_denormal, &survived, 64, 4);
    CHECK(atomic_load(&survived) == 0);
    trit_pool_destroy(&pool);
}

int main(void)
{
    trit_pool *pool = NULL;
    static const int32_t sizes[] = {1, 2, 3, 8, 32};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        check_runs(sizes[i], 500);
    check_runs(256, 20);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pool_create(&pool, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pool_create(&pool, 257, err));
    check_workers_take_no_signals();
    check_workers_flush_denormals();
    check_idle_pool_uses_no_cpu();
    return CHECK_SUMMARY;
}
