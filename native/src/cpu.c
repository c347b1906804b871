/*
 * cpu.c - feature bits and operating system permission.
 *
 * x86: cpuid says what the silicon has, xgetbv whether the kernel saves the registers (Intel SDM volume 1, 13.3, 14.3 and 18.2),
 * and for AMX tiles, eight kilobytes a thread, the kernel must be asked too (Linux, Documentation/arch/x86/xstate.rst). All must
 * hold, or the first wide instruction would be a SIGILL or a corrupted register. AArch64: the kernel's AT_HWCAP says both.
 */
#include "cpu.h"

/* ---- answers to features ---------------------------------------------------------------------------------------- */

#define XCR0_XMM_YMM 0x06u  /* SSE and AVX state */
#define XCR0_ZMM 0xe6u      /* and opmask, ZMM0-15 upper halves, ZMM16-31 */
#define XCR0_TILES 0x60000u /* tile configuration and tile data */

trit_cpu trit_cpu_of_x86(const trit_x86_answers *a)
{
    enum state { YMM, ZMM, TILES };
    const struct {
        uint32_t word;
        int bit;
        uint32_t feature;
        enum state state;
    } bits[] = {
        {a->ecx1, 28, TRIT_CPU_AVX, YMM},         {a->ecx1, 12, TRIT_CPU_FMA, YMM},
        {a->ebx7, 5, TRIT_CPU_AVX2, YMM},         {a->eax7_1, 4, TRIT_CPU_AVX_VNNI, YMM},
        {a->ebx7, 16, TRIT_CPU_AVX512F, ZMM},     {a->ebx7, 30, TRIT_CPU_AVX512BW, ZMM},
        {a->ebx7, 31, TRIT_CPU_AVX512VL, ZMM},    {a->ebx7, 17, TRIT_CPU_AVX512DQ, ZMM},
        {a->ecx7, 11, TRIT_CPU_AVX512_VNNI, ZMM}, {a->ecx7, 1, TRIT_CPU_AVX512_VBMI, ZMM},
        {a->edx7, 24, TRIT_CPU_AMX_TILE, TILES},  {a->edx7, 25, TRIT_CPU_AMX_INT8, TILES},
    };
    const int kept[] = {
        [YMM] = (a->xcr0 & XCR0_XMM_YMM) == XCR0_XMM_YMM,
        [ZMM] = (a->xcr0 & XCR0_ZMM) == XCR0_ZMM,
        [TILES] = (a->xcr0 & XCR0_TILES) == XCR0_TILES && a->tiles_granted,
    };
    trit_cpu cpu = {0, 0};
    for (unsigned i = 0; i < sizeof bits / sizeof bits[0]; i++)
        if (bits[i].word >> bits[i].bit & 1) {
            cpu.has |= bits[i].feature;
            cpu.usable |= kept[bits[i].state] ? bits[i].feature : 0;
        }
    return cpu;
}

trit_cpu trit_cpu_of_arm(unsigned long hwcap, unsigned long hwcap2)
{
    /* asm/hwcap.h: HWCAP_ASIMDDP (sdot, udot), HWCAP2_I8MM (smmla, usmmla, usdot) */
    uint32_t features = (hwcap >> 20 & 1 ? TRIT_CPU_ASIMDDP : 0u) | (hwcap2 >> 13 & 1 ? TRIT_CPU_I8MM : 0u);
    return (trit_cpu){features, features};
}

/* ---- this processor --------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */

static int ask_for_tiles(void)
{
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}
#else
static int ask_for_tiles(void)
{
    return 0;
}
#endif

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* The processor does not change, and the grant is the process's: asked for once. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static trit_cpu this_cpu;

static void read_once(void)
{
    trit_x86_answers a = {0};
    uint32_t eax, ebx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &a.ecx1, &edx) || !__get_cpuid_count(7, 0, &eax, &a.ebx7, &a.ecx7, &a.edx7))
        return;
    if (eax >= 1) { /* the last subleaf */
        uint32_t ecx;
        (void)__get_cpuid_count(7, 1, &a.eax7_1, &ebx, &ecx, &edx);
    }
    a.xcr0 = a.ecx1 >> 27 & 1 ? read_xcr0() : 0; /* OSXSAVE */
    a.tiles_granted = (a.edx7 >> 24 & 1) && (a.xcr0 & XCR0_TILES) == XCR0_TILES && ask_for_tiles();
    this_cpu = trit_cpu_of_x86(&a);
}

trit_cpu trit_cpu_read(void)
{
    (void)pthread_once(&once, read_once);
    return this_cpu;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

trit_cpu trit_cpu_read(void)
{
    return trit_cpu_of_arm(getauxval(AT_HWCAP), getauxval(AT_HWCAP2));
}

#else

trit_cpu trit_cpu_read(void)
{
    return (trit_cpu){0, 0};
}

#endif
