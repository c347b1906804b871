/*
 * cpu.c - feature bits and operating system permission.
 *
 * x86: cpuid says what the silicon has, xgetbv whether the kernel saves the registers (Intel SDM volume 1, 14.3 and 15.2). Both
 * must hold, or the first wide instruction would be a SIGILL or a corrupted register. AArch64: the kernel's AT_HWCAP says both.
 */
#include "cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

#define XCR0_XMM_YMM 0x06u /* SSE and AVX state */
#define XCR0_ZMM 0xe6u     /* and opmask, ZMM0-15 upper halves, ZMM16-31 */

static uint32_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
}

static int has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

int trit_cpu_runs(trit_isa isa)
{
    if (isa == TRIT_ISA_REF)
        return 1;
    uint32_t eax, ebx1, ecx1, edx, eax7, ebx7, ecx7, edx7;
    if (!__get_cpuid(1, &eax, &ebx1, &ecx1, &edx) || !__get_cpuid_count(7, 0, &eax7, &ebx7, &ecx7, &edx7))
        return 0;
    uint32_t xcr0 = has(ecx1, bit_OSXSAVE) ? read_xcr0() : 0;

    int avx2 = has(xcr0, XCR0_XMM_YMM) && has(ecx1, bit_AVX | bit_FMA) && has(ebx7, bit_AVX2);
    if (isa == TRIT_ISA_AVX2)
        return avx2;
    if (isa == TRIT_ISA_AVX512VNNI)
        return avx2 && has(xcr0, XCR0_ZMM) && has(ecx7, bit_AVX512VNNI) &&
               has(ebx7, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ);
    return 0;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

#define HWCAP_BIT_ASIMDDP (1ul << 20) /* asm/hwcap.h: sdot, udot */

int trit_cpu_runs(trit_isa isa)
{
    if (isa == TRIT_ISA_REF)
        return 1;
    return isa == TRIT_ISA_NEON && (getauxval(AT_HWCAP) & HWCAP_BIT_ASIMDDP) != 0;
}

#else

int trit_cpu_runs(trit_isa isa)
{
    return isa == TRIT_ISA_REF;
}

#endif
