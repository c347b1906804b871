/*
 * read.c - read bandwidth: plain sequential, and in several streams with prefetching.
 *
 * The buffer is cut into items that the threads take; an item is read as `streams` adjacent stretches of PIECE_BYTES, a block of each in
 * turn. Several streams keep more pages, and so more of the hardware's own prefetching, busy.
 */
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#include "measure/measure.h"
#include "mem.h"
#include "status.h"

enum { PIECE_BYTES = 1 << 18, BLOCK_BYTES = 256, READ_LANES = 16, HUGE_PAGE = 2 << 20 };

typedef struct read_job {
    const uint8_t *bytes;
    size_t streams, prefetch_bytes;
    atomic_uint_fast64_t sink;
} read_job;

double trit_now_seconds(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void read_item(void *context, size_t item, size_t thread)
{
    (void)thread;
    read_job *job = context;
    const uint8_t *first = job->bytes + item * job->streams * PIECE_BYTES;
    uint64_t lanes[READ_LANES] = {0}, sum = 0;
    for (size_t at = 0; at < PIECE_BYTES; at += BLOCK_BYTES)
        for (size_t stream = 0; stream < job->streams; stream++) {
            const uint8_t *block = first + stream * PIECE_BYTES + at;
            const uint64_t *words = (const uint64_t *)(const void *)block;
#if defined(__GNUC__)
            for (size_t line = 0; job->prefetch_bytes != 0 && line < BLOCK_BYTES; line += 64)
                __builtin_prefetch(block + job->prefetch_bytes + line); /* past the end, too: it cannot fault */
#endif
            for (size_t i = 0; i < BLOCK_BYTES / sizeof *words; i += READ_LANES)
                for (size_t j = 0; j < READ_LANES; j++)
                    lanes[j] += words[i + j];
        }
    for (size_t j = 0; j < READ_LANES; j++)
        sum += lanes[j];
    atomic_fetch_add(&job->sink, sum);
}

/* Whole items of the buffer, the best of `repeats` after one to warm up. */
static double best_rate(trit_pool *pool, read_job *job, uint64_t bytes, int32_t n_threads, int32_t repeats)
{
    uint64_t item_bytes = (uint64_t)job->streams * PIECE_BYTES;
    if (bytes < item_bytes) { /* small: one stream, and what does not fill a piece is left out */
        job->streams = 1;
        item_bytes = PIECE_BYTES;
    }
    size_t n_items = (size_t)(bytes / item_bytes);
    double best = 0.0;
    for (int32_t i = 0; i <= repeats; i++) {
        double start = trit_now_seconds();
        trit_pool_run(pool, read_item, job, n_items, (size_t)n_threads);
        double rate = (double)(n_items * item_bytes) / (trit_now_seconds() - start);
        best = i > 0 && rate > best ? rate : best;
    }
    return best;
}

/* Own memory, at a multiple of a huge page, written once. NULL: there is none. */
static uint8_t *map_own(uint64_t bytes, int huge_pages, void **mapping)
{
    *mapping = mmap(NULL, (size_t)bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*mapping == MAP_FAILED)
        return NULL;
    uint8_t *start = (uint8_t *)*mapping + (HUGE_PAGE - (uintptr_t)*mapping % HUGE_PAGE) % HUGE_PAGE;
#if defined(MADV_HUGEPAGE)
    if (huge_pages)
        (void)madvise(start, (size_t)bytes, MADV_HUGEPAGE); /* refused: then they are small */
#else
    (void)huge_pages;
#endif
    for (uint64_t at = 0; at < bytes; at += 4096)
        start[at] = 1;
    return start;
}

trit_status trit_read_bandwidth(int fd, uint64_t bytes, trit_read_pattern pattern, int32_t n_threads, int32_t repeats,
                                double *bytes_per_second, trit_error *err)
{
    trit_pool *pool = NULL;
    trit_map map = {0};
    void *mapping = MAP_FAILED;
    read_job job = {.streams = (size_t)pattern.streams, .prefetch_bytes = (size_t)pattern.prefetch_bytes};
    trit_status status = TRIT_OK;
    if (fd >= 0) {
        if ((status = trit_map_file(&map, fd, err)) != TRIT_OK)
            return status;
        if (map.file_bytes < bytes)
            status = trit_fail(err, TRIT_ERR_ARGUMENT, "bytes is %llu, but the file has %llu",
                               (unsigned long long)bytes, (unsigned long long)map.file_bytes);
        job.bytes = map.bytes;
    } else {
        job.bytes = map_own(bytes, pattern.huge_pages, &mapping);
        if (job.bytes == NULL)
            status = trit_fail(err, TRIT_ERR_MEMORY, "no memory for a buffer of %llu bytes", (unsigned long long)bytes);
    }
    if (status == TRIT_OK)
        status = trit_pool_create(&pool, n_threads, err);
    if (status == TRIT_OK)
        *bytes_per_second = best_rate(pool, &job, bytes, n_threads, repeats);
    trit_pool_destroy(&pool);
    trit_map_release(&map);
    if (mapping != MAP_FAILED)
        (void)munmap(mapping, (size_t)bytes + HUGE_PAGE);
    return status;
}
