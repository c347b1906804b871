/*
 * dispatch.c - chooses kernels: the reference first, then every rung up to the instruction set asked for overwrites what it has.
 * Also defines trit_isa_name, trit_isa_supported, trit_isa_best and trit_isa_kernels, which read the same list.
 *
 * Compiled for the baseline: it must run on a CPU that has none of the instruction sets it chooses from.
 */
#include "cpu.h"
#include "kernels.h"

enum { ISA_COUNT = TRIT_ISA_NEON + 1 };

/* How many kernels of each instruction set the list holds: all ops, or none if this build leaves it out. */
enum {
    OP_COUNT = 6,
    REF_COUNT = 0
#define X(op, type, isa, function) +(TRIT_ISA_##isa == TRIT_ISA_REF)
#include "kernels.inc"
    ,
    AVX2_COUNT = 0
#define X(op, type, isa, function) +(TRIT_ISA_##isa == TRIT_ISA_AVX2)
#include "kernels.inc"
    ,
    AVX512VNNI_COUNT = 0
#define X(op, type, isa, function) +(TRIT_ISA_##isa == TRIT_ISA_AVX512VNNI)
#include "kernels.inc"
    ,
    NEON_COUNT = 0
#define X(op, type, isa, function) +(TRIT_ISA_##isa == TRIT_ISA_NEON)
#include "kernels.inc"
};
_Static_assert(REF_COUNT == OP_COUNT, "the reference has every op");
_Static_assert(AVX2_COUNT % OP_COUNT == 0 && AVX512VNNI_COUNT % OP_COUNT == 0 && NEON_COUNT % OP_COUNT == 0,
               "an instruction set has every op");

/* Whether this build contains it. */
static int is_built(trit_isa isa)
{
    int found = 0;
#define X(op, type, isa_, function) found |= isa == TRIT_ISA_##isa_;
#include "kernels.inc"
    return found;
}

/* Overwrite in *k the entries that `isa` has. */
static void take_rung(trit_kernels *k, trit_isa isa)
{
#define X(op, type, isa_, function) \
    if (isa == TRIT_ISA_##isa_)     \
        k->op = function;
#define R(isa_, table)          \
    if (isa == TRIT_ISA_##isa_) \
        k->rows = &table;
#include "kernels.inc"
}

const char *trit_isa_name(trit_isa isa)
{
    switch (isa) {
    case TRIT_ISA_AUTO: return "auto";
    case TRIT_ISA_REF: return "ref";
    case TRIT_ISA_AVX2: return "avx2";
    case TRIT_ISA_AVX512VNNI: return "avx512vnni";
    case TRIT_ISA_NEON: return "neon";
    }
    return "unknown";
}

int trit_isa_supported(trit_isa isa)
{
    return isa >= TRIT_ISA_REF && isa < (trit_isa)ISA_COUNT && is_built(isa) && trit_cpu_runs(isa);
}

trit_isa trit_isa_best(void)
{
    trit_isa best = TRIT_ISA_REF;
    for (int isa = TRIT_ISA_REF; isa < ISA_COUNT; isa++)
        if (trit_isa_supported((trit_isa)isa))
            best = (trit_isa)isa;
    return best;
}

int trit_kernels_select(trit_kernels *out, trit_isa isa)
{
    if (isa == TRIT_ISA_AUTO)
        isa = trit_isa_best();
    if (!trit_isa_supported(isa))
        return 0;
    trit_kernels kernels = {.isa = isa};
    for (int rung = TRIT_ISA_REF; rung <= (int)isa; rung++)
        if (trit_isa_supported((trit_isa)rung))
            take_rung(&kernels, (trit_isa)rung);
    *out = kernels;
    return 1;
}

/* Adjacent string literals: the names of one instruction set. The leading space of the whole is skipped. */
#define NAME_REF(function)
#define NAME_AVX2(function)
#define NAME_AVX512VNNI(function)
#define NAME_NEON(function)

static const char ref_names[] = ""
#undef NAME_REF
#define NAME_REF(function) " " #function
#define X(op, type, isa, function) NAME_##isa(function)
#include "kernels.inc"
    ;
#undef NAME_REF
#define NAME_REF(function)

static const char avx2_names[] = ""
#undef NAME_AVX2
#define NAME_AVX2(function) " " #function
#define X(op, type, isa, function) NAME_##isa(function)
#include "kernels.inc"
    ;
#undef NAME_AVX2
#define NAME_AVX2(function)

static const char avx512vnni_names[] = ""
#undef NAME_AVX512VNNI
#define NAME_AVX512VNNI(function) " " #function
#define X(op, type, isa, function) NAME_##isa(function)
#include "kernels.inc"
    ;
#undef NAME_AVX512VNNI
#define NAME_AVX512VNNI(function)

static const char neon_names[] = ""
#undef NAME_NEON
#define NAME_NEON(function) " " #function
#define X(op, type, isa, function) NAME_##isa(function)
#include "kernels.inc"
    ;

const char *trit_isa_kernels(trit_isa isa)
{
    static const char *const names[ISA_COUNT] = {
        [TRIT_ISA_REF] = ref_names,
        [TRIT_ISA_AVX2] = avx2_names,
        [TRIT_ISA_AVX512VNNI] = avx512vnni_names,
        [TRIT_ISA_NEON] = neon_names,
    };
    if (isa == TRIT_ISA_AUTO)
        isa = trit_isa_best();
    if (isa < TRIT_ISA_REF || isa >= (trit_isa)ISA_COUNT || !is_built(isa))
        return "";
    return names[isa] + 1;
}
