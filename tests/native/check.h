/* check.h - counts of the native tests above the kernels. A program ends with CHECK_SUMMARY, its exit status. */
#ifndef TRIT_TESTS_CHECK_H
#define TRIT_TESTS_CHECK_H

#include <stdio.h>
#include <string.h>

#include "trit/trit.h"

static int check_passed, check_failed;

static inline int check_that(int good, const char *what, const char *file, int line)
{
    if (good)
        check_passed++;
    else {
        check_failed++;
        printf("%s:%d: FAILED: %s\n", file, line, what);
    }
    return good;
}

/* A call that must be answered with `status`, and with a text. */
static inline void check_answer(trit_status got, trit_status expected, const trit_error *err, const char *what,
                                const char *file, int line)
{
    int told = expected == TRIT_OK ||
               (err->status == expected && err->text[0] != '\0' && strlen(err->text) < sizeof err->text);
    if (!check_that(got == expected && told, what, file, line))
        printf("    got %s, expected %s, text \"%s\"\n", trit_status_name(got), trit_status_name(expected), err->text);
}

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_OK(call)                                                    \
    do {                                                                  \
        trit_error check_err = {.status = TRIT_OK};                       \
        trit_error *err = &check_err;                                     \
        trit_status check_got = (call);                                   \
        check_answer(check_got, TRIT_OK, err, #call, __FILE__, __LINE__); \
    } while (0)
/* `call` names the error place `err`. */
#define CHECK_REFUSED(expected, call)                                        \
    do {                                                                     \
        trit_error check_err = {.status = TRIT_OK};                          \
        trit_error *err = &check_err;                                        \
        trit_status check_got = (call);                                      \
        check_answer(check_got, (expected), err, #call, __FILE__, __LINE__); \
    } while (0)
#define CHECK_SUMMARY (printf("%d passed, %d failed\n", check_passed, check_failed), check_failed != 0)

/* splitmix64 */
static inline uint64_t check_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline int32_t check_below(uint64_t *state, int32_t n)
{
    return (int32_t)(check_random(state) % (uint64_t)n);
}

#endif
