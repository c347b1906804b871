/*
 * alloc_fail.c - the whole public API run again and again, each time with the next allocation, mapping or thread refused, until a run
 * needs no more of them. Every refusal must be answered with TRIT_ERR_MEMORY or TRIT_ERR_IO and leave nothing behind; run under
 * AddressSanitizer a leak or a use of what is not there shows. A step itself takes nothing.
 *
 * The linker redirects the four functions that the library takes resources from (--wrap): native/cmake/engine_checks.cmake.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "tiny_model.h"

static long calls, refused_call; /* counts from 1; 0: refuse none */

static int is_refused(void)
{
    return ++calls == refused_call;
}

int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    return is_refused() ? ENOMEM : __real_posix_memalign(memory, alignment, bytes);
}

void *__real_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (is_refused()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return __real_mmap(address, bytes, protection, flags, fd, offset);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    return is_refused() ? EAGAIN : __real_pthread_create(thread, attributes, start, argument);
}

static long calls_of_step;

static trit_status step(trit_session *session, const trit_batch *batch, trit_choice *choice, trit_error *err)
{
    long before = calls;
    trit_status status = trit_session_step(session, batch, choice, NULL, err);
    calls_of_step = calls - before;
    return status;
}

/* Everything once; the first status that is not OK. */
static trit_status whole_api(const tiny_model *tiny, int kv_fd, trit_error *err)
{
    const trit_session_options options = {.n_threads = 3, .max_rows = 8, .max_seqs = 2, .max_outputs = 2};
    static const int32_t token_ids[3] = {1, 2, 3}, cu_rows[2] = {0, 3}, start = 0, block = 4;
    static const uint8_t hash[32] = {1};
    const trit_sampling sampling = {.temperature = 1.0f, .top_p = 0.5f, .repetition_penalty = 1.0f};
    const trit_output output = {.row = 2, .target = -1, .sampling = sampling};
    const trit_batch batch = {.n_seqs = 1,
                              .n_rows = 3,
                              .n_outputs = 1,
                              .max_blocks = 1,
                              .token_ids = token_ids,
                              .cu_rows = cu_rows,
                              .start_pos = &start,
                              .block_tables = &block,
                              .outputs = &output};
    trit_model *model = NULL;
    trit_kv *kv = NULL;
    trit_session *session = NULL;
    trit_choice choice;
    double rate;
    float logits[4] = {0};
    trit_status status;
    if ((status = trit_model_open(&model, tiny->fd, &tiny->arch, tiny->tensors, tiny->n_tensors, TRIT_ISA_AUTO, 2,
                                  err)) == TRIT_OK &&
        (status = trit_kv_attach(&kv, model, kv_fd, TINY_BLOCKS, TRIT_KV_INT16, 1, err)) == TRIT_OK &&
        (status = trit_session_create(&session, model, kv, &options, err)) == TRIT_OK &&
        (status = step(session, &batch, &choice, err)) == TRIT_OK &&
        (status = trit_kv_commit(kv, block, hash, err)) == TRIT_OK &&
        (status = trit_session_time_linears(session, 2, 1, &rate, err)) == TRIT_OK &&
        (status = trit_sample(logits, 4, &sampling, -1, 2, &choice, err)) == TRIT_OK &&
        (status = trit_measure_read(-1, 1 << 18, &(trit_read_pattern){.streams = 1}, 2, 1, &rate, err)) == TRIT_OK)
        status = trit_measure_int8(TRIT_ISA_REF, 2, 0.001, &rate, err);
    /* What failed gave no handle; what succeeded is released, in order. */
    trit_session_destroy(&session);
    trit_kv_detach(&kv);
    trit_model_close(&model);
    return status;
}

int main(void)
{
    tiny_model tiny;
    tiny_stack stack;
    uint64_t bytes = 0;
    CHECK(tiny_make_dense(&tiny, &tiny_arch, 42, 1));
    CHECK_OK(tiny_open(&stack, &tiny, TRIT_ISA_AUTO, 1, err));
    CHECK_OK(trit_kv_region_bytes(stack.model, TINY_BLOCKS, TRIT_KV_INT16, &bytes, err));
    tiny_close(&stack);
    int kv_fd = tiny_memfd(bytes);
    CHECK(kv_fd >= 0);
    for (long at = 1;; at++) {
        trit_error err = {.text = ""};
        calls = 0;
        refused_call = at;
        trit_status status = whole_api(&tiny, kv_fd, &err);
        if (calls < at) { /* nothing was refused any more */
            CHECK(status == TRIT_OK);
            CHECK(at > 50);
            CHECK(calls_of_step == 0); /* not even the session's first step takes memory */
            break;
        }
        if (!CHECK((status == TRIT_ERR_MEMORY || status == TRIT_ERR_IO) && err.status == status && err.text[0] != '\0'))
            printf("    refusal %ld: %s \"%s\"\n", at, trit_status_name(status), err.text);
    }
    (void)close(kv_fd);
    tiny_drop(&tiny);
    return CHECK_SUMMARY;
}
