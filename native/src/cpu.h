/* cpu.h - what this processor has and its operating system lets us use. Compiled for the baseline. */
#ifndef TRIT_CPU_H
#define TRIT_CPU_H

#include <stdint.h>

/* F(NAME, word): an instruction set extension, and what /proc/cpuinfo calls it. */
#define TRIT_CPU_FEATURES(F)      \
    F(AVX, "avx")                 \
    F(FMA, "fma")                 \
    F(AVX2, "avx2")               \
    F(AVX_VNNI, "avx_vnni")       \
    F(AVX512F, "avx512f")         \
    F(AVX512BW, "avx512bw")       \
    F(AVX512VL, "avx512vl")       \
    F(AVX512DQ, "avx512dq")       \
    F(AVX512_VNNI, "avx512_vnni") \
    F(AVX512_VBMI, "avx512_vbmi") \
    F(AMX_TILE, "amx_tile")       \
    F(AMX_INT8, "amx_int8")       \
    F(ASIMDDP, "asimddp")         \
    F(I8MM, "i8mm")

enum {
#define F(name, word) TRIT_CPU_BIT_##name,
    TRIT_CPU_FEATURES(F)
#undef F
};

/* One bit each: TRIT_CPU_AVX2, ... */
enum {
#define F(name, word) TRIT_CPU_##name = 1 << TRIT_CPU_BIT_##name,
    TRIT_CPU_FEATURES(F)
#undef F
};

typedef struct trit_cpu {
    uint32_t has;    /* TRIT_CPU_* of the silicon */
    uint32_t usable; /* of them those whose registers the operating system keeps and grants */
} trit_cpu;

/*
 * This processor. Where it has tiles, the kernel is asked for them, once per process: without its grant the first use is a
 * SIGILL, and it refuses where some thread's signal stack is too small for them.
 */
trit_cpu trit_cpu_read(void);

/* What cpuid, xgetbv and the kernel answered on x86-64. */
typedef struct trit_x86_answers {
    uint32_t ecx1;             /* leaf 1 */
    uint32_t ebx7, ecx7, edx7; /* leaf 7, subleaf 0 */
    uint32_t eax7_1;           /* leaf 7, subleaf 1 */
    uint64_t xcr0;             /* 0 without OSXSAVE */
    int tiles_granted;
} trit_x86_answers;

/* The two ways to read a processor, as functions of what it answered; both are in every build. */
trit_cpu trit_cpu_of_x86(const trit_x86_answers *answers);
trit_cpu trit_cpu_of_arm(unsigned long hwcap, unsigned long hwcap2);

#endif
