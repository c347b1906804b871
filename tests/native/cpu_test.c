/* cpu_test.c - from what a processor and its kernel answer to the instruction sets it serves with; pure, so for any processor here. */
#include "check.h"
#include "cpu.h"
#include "dispatch.h"

enum { XCR0_AVX2 = 0x7, XCR0_AVX512 = 0xe7, XCR0_AMX = 0x600e7 };

/* cpuid words as published for each kind (Intel SDM and AMD PPR), reduced to the bits that are asked for. */
enum {
    ECX1_AVX2 = 1 << 28 | 1 << 12,
    EBX7_AVX2 = 1 << 5,
    ECX7_AVX512 = 1 << 11 | 1 << 1,
    EDX7_AMX = 1 << 24 | 1 << 25,
    EAX71_AVX_VNNI = 1 << 4
};
#define EBX7_AVX512 (EBX7_AVX2 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)

typedef struct machine {
    const char *name;
    trit_x86_answers answers;
    unsigned runs; /* bit per trit_isa */
} machine;

#define RUNS(isa) (1u << TRIT_ISA_##isa)
#define AVX512_RUNGS (RUNS(REF) | RUNS(AVX2) | RUNS(AVX512VNNI256) | RUNS(AVX512VNNI))

static const machine machines[] = {
    {"before AVX", {0}, RUNS(REF)},
    {"Zen 3", {.ecx1 = ECX1_AVX2, .ebx7 = EBX7_AVX2, .xcr0 = XCR0_AVX2}, RUNS(REF) | RUNS(AVX2)},
    {"Zen 4", {.ecx1 = ECX1_AVX2, .ebx7 = EBX7_AVX512, .ecx7 = ECX7_AVX512, .xcr0 = XCR0_AVX512}, AVX512_RUNGS},
    {"Skylake-X, AVX-512 without VNNI",
     {.ecx1 = ECX1_AVX2, .ebx7 = EBX7_AVX512, .xcr0 = XCR0_AVX512},
     RUNS(REF) | RUNS(AVX2)},
    {"Alder Lake",
     {.ecx1 = ECX1_AVX2, .ebx7 = EBX7_AVX2, .eax7_1 = EAX71_AVX_VNNI, .xcr0 = XCR0_AVX2},
     RUNS(REF) | RUNS(AVX2) | RUNS(AVXVNNI)},
    {"Sapphire Rapids",
     {ECX1_AVX2, EBX7_AVX512, ECX7_AVX512, EDX7_AMX, EAX71_AVX_VNNI, XCR0_AMX, 1},
     AVX512_RUNGS | RUNS(AVXVNNI) | RUNS(AMX)},
    {"Sapphire Rapids, tiles refused by the kernel",
     {ECX1_AVX2, EBX7_AVX512, ECX7_AVX512, EDX7_AMX, EAX71_AVX_VNNI, XCR0_AMX, 0},
     AVX512_RUNGS | RUNS(AVXVNNI)},
    {"Sapphire Rapids, tiles not kept",
     {ECX1_AVX2, EBX7_AVX512, ECX7_AVX512, EDX7_AMX, EAX71_AVX_VNNI, XCR0_AVX512, 0},
     AVX512_RUNGS | RUNS(AVXVNNI)},
    {"Sapphire Rapids, zmm registers not kept",
     {ECX1_AVX2, EBX7_AVX512, ECX7_AVX512, EDX7_AMX, EAX71_AVX_VNNI, XCR0_AVX2, 0},
     RUNS(REF) | RUNS(AVX2) | RUNS(AVXVNNI)},
    {"no register kept", {ECX1_AVX2, EBX7_AVX512, ECX7_AVX512, EDX7_AMX, EAX71_AVX_VNNI, 0, 0}, RUNS(REF)},
};

static unsigned rungs_of(uint32_t usable)
{
    unsigned runs = 0;
    for (int isa = TRIT_ISA_REF; isa < TRIT_ISA_COUNT; isa++)
        runs |= trit_isa_runs_on((trit_isa)isa, usable) ? 1u << isa : 0u;
    return runs;
}

static void check_x86(void)
{
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        trit_cpu cpu = trit_cpu_of_x86(&machines[i].answers);
        unsigned runs = rungs_of(cpu.usable);
        if (!CHECK(runs == machines[i].runs))
            printf("    %s: runs %x, expected %x\n", machines[i].name, runs, machines[i].runs);
        CHECK((cpu.usable & ~cpu.has) == 0);
    }
}

static void check_arm(void)
{
    CHECK(rungs_of(trit_cpu_of_arm(0, 0).usable) == RUNS(REF));
    CHECK(rungs_of(trit_cpu_of_arm(1ul << 20, 0).usable) == (RUNS(REF) | RUNS(NEON)));
    CHECK(rungs_of(trit_cpu_of_arm(1ul << 20, 1ul << 13).usable) == (RUNS(REF) | RUNS(NEON) | RUNS(NEONI8MM)));
    CHECK(rungs_of(trit_cpu_of_arm(0, 1ul << 13).usable) == RUNS(REF)); /* i8mm kernels use dotprod too */
}

/* Why an instruction set does not run is said in words a person can look up. */
static void check_reasons(void)
{
    trit_cpu cpu = trit_cpu_read();
    for (int isa = -2; isa <= TRIT_ISA_COUNT; isa++) {
        trit_error err = {.text = ""};
        trit_status status = trit_isa_check((trit_isa)isa, &err);
        CHECK(status == (trit_isa_supported((trit_isa)isa) ? TRIT_OK : TRIT_ERR_UNSUPPORTED));
        CHECK((err.text[0] == '\0') == (status == TRIT_OK));
        if (trit_isa_supported((trit_isa)isa))
            CHECK(trit_isa_runs_on((trit_isa)isa, cpu.usable));
    }
}

/* The kernels to choose from are those of supported instruction sets, never the reference. */
static void check_candidates(void)
{
    for (int op = 0; op < TRIT_OP_COUNT; op++) {
        trit_kernel found[TRIT_ISA_COUNT];
        size_t n = trit_kernels_candidates((trit_op)op, found);
        const char *best = trit_isa_kernel(TRIT_ISA_AUTO, op);
        CHECK(n < TRIT_ISA_COUNT);
        CHECK(n == 0 ? strcmp(best, trit_isa_kernel(TRIT_ISA_REF, op)) == 0 : strcmp(found[n - 1].name, best) == 0);
        for (size_t i = 0; i < n; i++)
            CHECK(strcmp(found[i].name, trit_isa_kernel(TRIT_ISA_REF, op)) != 0);
    }
}

int main(void)
{
    check_x86();
    check_arm();
    check_reasons();
    check_candidates();
    return CHECK_SUMMARY;
}
