/*
 * pool_test.c - the thread pool: every item exactly once, whatever the number of threads; limits; no race (run under ThreadSanitizer);
 * and no CPU time while idle.
 *
 *   pool_test --bench [THREADS]    what a fork and join costs while the workers spin, instead
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
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

/* ---- bench ------------------------------------------------------------------------------------------------------ */

static int64_t now_nanoseconds(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void wait_nanoseconds(int64_t wanted)
{
    int64_t start = now_nanoseconds();
    while (now_nanoseconds() - start < wanted)
        continue;
}

typedef struct bench_work {
    int64_t nanoseconds; /* of an item */
    atomic_size_t by_workers;
} bench_work;

static void bench_item(void *context, size_t item, size_t thread)
{
    (void)item;
    bench_work *work = context;
    if (work->nanoseconds > 0)
        wait_nanoseconds(work->nanoseconds);
    if (thread > 0)
        atomic_fetch_add_explicit(&work->by_workers, 1, memory_order_relaxed);
}

/* Median time of runs of one item per thread, `gap` ns after the last one, beyond the time of the item itself. */
static void bench_runs(int32_t n_threads, int64_t item_nanoseconds, int64_t gap)
{
    enum { RUNS = 4001 };
    static int64_t taken[RUNS];
    trit_pool *pool = NULL;
    bench_work work = {.nanoseconds = item_nanoseconds};
    CHECK_OK(trit_pool_create(&pool, n_threads, err));
    for (int run = 0; run < RUNS; run++) {
        wait_nanoseconds(gap);
        int64_t start = now_nanoseconds();
        trit_pool_run(pool, bench_item, &work, (size_t)n_threads, (size_t)n_threads);
        taken[run] = now_nanoseconds() - start;
    }
    trit_pool_destroy(&pool);
    for (int i = 1; i < RUNS; i++) { /* insertion: nearly all are alike */
        int64_t value = taken[i];
        int j = i;
        for (; j > 0 && taken[j - 1] > value; j--)
            taken[j] = taken[j - 1];
        taken[j] = value;
    }
    printf("%d threads, items of %5lld ns, %5lld ns apart: median %6lld ns, 90 %% below %6lld ns; workers took %.2f of "
           "each run's items\n",
           n_threads, (long long)item_nanoseconds, (long long)gap, (long long)(taken[RUNS / 2] - item_nanoseconds),
           (long long)(taken[RUNS / 10 * 9] - item_nanoseconds), (double)atomic_load(&work.by_workers) / RUNS);
}

static int bench(int32_t n_threads)
{
    static const int64_t items[] = {0, 2000, 20000}, gaps[] = {0, 2000, 10000};
    for (size_t i = 0; i < 3; i++)
        for (size_t g = 0; g < 3; g++)
            bench_runs(n_threads, items[i], gaps[g]);
    return CHECK_SUMMARY;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench(argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 2);
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
