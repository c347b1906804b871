/* compiler.h - the few things C11 has no words for: the float mode of a thread, a pause in a spin loop, format checking. */
#ifndef TRIT_COMPILER_H
#define TRIT_COMPILER_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__GNUC__)
#define TRIT_PRINTF(format_index, args_index) __attribute__((format(printf, format_index, args_index)))
#else
#define TRIT_PRINTF(format_index, args_index)
#endif

static inline void trit_cpu_relax(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/*
 * docs/numerics.md: flush-to-zero and denormals-are-zero on, round to nearest even, no traps. Returns the mode found, for
 * trit_float_mode_leave: the caller of the library gets its own mode back.
 */
static inline uint64_t trit_float_mode_enter(void)
{
#if defined(__x86_64__)
    uint64_t found = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* all exceptions masked (0x1f80), FTZ (0x8000), DAZ (0x0040) */
    return found;
#elif defined(__aarch64__)
    uint64_t found;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24)); /* FZ */
    return found;
#else
    return 0;
#endif
}

static inline void trit_float_mode_leave(uint64_t found)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)found);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(found));
#else
    (void)found;
#endif
}

#endif
