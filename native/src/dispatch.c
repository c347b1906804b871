/*
 * dispatch.c - chooses kernels: the reference first, then every rung up to the instruction set asked for overwrites what it has.
 * Also defines the functions of trit.h about instruction sets, which read the same two lists: isas.inc and kernels.inc.
 *
 * Compiled for the baseline: it must run on a CPU that has none of the instruction sets it chooses from.
 */
#include "dispatch.h"

#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "kernels.h"
#include "status.h"

/* ---- the lists -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint32_t needs; /* TRIT_CPU_* */
} isas[] = {
#define I(NAME, name, needs) [TRIT_ISA_##NAME] = {#name, needs},
#include "isas.inc"
};
_Static_assert(sizeof isas / sizeof isas[0] == TRIT_ISA_COUNT, "isas.inc lists every instruction set of trit.h");

static const char *const op_names[TRIT_OP_COUNT] = {
#define O(op, type) [TRIT_OP_##op] = #op,
    TRIT_OPS(O)
#undef O
};

static const struct entry {
    trit_isa isa;
    trit_op op;
    trit_kernel kernel;
} list[] = {
#define X(op, type, isa, function) {TRIT_ISA_##isa, TRIT_OP_##op, {(trit_any_fn *)function, #function}},
#include "kernels.inc"
};
enum { LISTED = sizeof list / sizeof list[0] };

static const struct {
    trit_isa isa;
    const trit_row_ops *rows;
} row_lists[] = {
#define R(isa, table) {TRIT_ISA_##isa, &table},
#include "kernels.inc"
};

static const struct {
    trit_isa isa;
    trit_int8_loop_fn *loop;
} loops[] = {
#define L(isa, loop) {TRIT_ISA_##isa, loop},
#include "kernels.inc"
};

static int is_isa(trit_isa isa)
{
    return isa >= TRIT_ISA_REF && isa < (trit_isa)TRIT_ISA_COUNT;
}

/* Whether this build contains it. */
static int is_built(trit_isa isa)
{
    for (size_t i = 0; i < LISTED; i++)
        if (list[i].isa == isa)
            return 1;
    return 0;
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

void trit_kernels_use(trit_kernels *k, trit_op op, const trit_kernel *kernel)
{
    switch (op) {
#define O(op, type) \
    case TRIT_OP_##op: k->op = (type *)kernel->function; break;
        TRIT_OPS(O)
#undef O
    default: return;
    }
    k->names[op] = kernel->name;
}

/* Every rung up to isa that `usable` processor features allow. */
static void climb(trit_kernels *k, trit_isa isa, uint32_t usable)
{
    k->isa = isa;
    for (int rung = TRIT_ISA_REF; rung <= (int)isa; rung++) {
        if (!trit_isa_runs_on((trit_isa)rung, usable))
            continue;
        for (size_t i = 0; i < LISTED; i++)
            if (list[i].isa == (trit_isa)rung)
                trit_kernels_use(k, list[i].op, &list[i].kernel);
        for (size_t i = 0; i < sizeof row_lists / sizeof row_lists[0]; i++)
            if (row_lists[i].isa == (trit_isa)rung)
                k->rows = row_lists[i].rows;
    }
}

int trit_isa_runs_on(trit_isa isa, uint32_t usable)
{
    return is_isa(isa) && (isas[isa].needs & ~usable) == 0;
}

int trit_kernels_select(trit_kernels *out, trit_isa isa)
{
    if (isa == TRIT_ISA_AUTO)
        isa = trit_isa_best();
    if (!trit_isa_supported(isa))
        return 0;
    *out = (trit_kernels){.isa = isa};
    climb(out, isa, trit_cpu_read().usable);
    return 1;
}

size_t trit_kernels_candidates(trit_op op, trit_kernel out[TRIT_ISA_COUNT])
{
    uint32_t usable = trit_cpu_read().usable;
    size_t n = 0;
    for (size_t i = 0; i < LISTED; i++)
        if (list[i].op == op && list[i].isa != TRIT_ISA_REF && trit_isa_runs_on(list[i].isa, usable))
            out[n++] = list[i].kernel;
    return n;
}

trit_int8_loop_fn *trit_int8_loop_of(trit_isa isa)
{
    trit_int8_loop_fn *best = NULL;
    for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++)
        if (loops[i].isa <= isa && trit_isa_supported(loops[i].isa))
            best = loops[i].loop;
    return best;
}

/* ---- trit.h ----------------------------------------------------------------------------------------------------- */

const char *trit_isa_name(trit_isa isa)
{
    return isa == TRIT_ISA_AUTO ? "auto" : is_isa(isa) ? isas[isa].name : "unknown";
}

const char *trit_op_name(int32_t op)
{
    return op >= 0 && op < TRIT_OP_COUNT ? op_names[op] : "";
}

/* ", avx512f, ..." without the comma in front: the names of `features` into text. */
static void name_features(uint32_t features, char *text, size_t bytes)
{
    static const char *const words[] = {
#define F(name, word) word,
        TRIT_CPU_FEATURES(F)
#undef F
    };
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (features >> i & 1 && used < bytes)
            used += (size_t)snprintf(text + used, bytes - used, "%s%s", used > 0 ? ", " : "", words[i]);
}

trit_status trit_isa_check(trit_isa isa, trit_error *err)
{
    if (!is_isa(isa))
        return trit_fail(err, TRIT_ERR_UNSUPPORTED, "there is no instruction set %d", (int)isa);
    if (!is_built(isa))
        return trit_fail(err, TRIT_ERR_UNSUPPORTED, "instruction set %s is not in this build", isas[isa].name);
    trit_cpu cpu = trit_cpu_read();
    uint32_t lacks = isas[isa].needs & ~cpu.usable;
    char words[160];
    if ((lacks & ~cpu.has) != 0) {
        name_features(lacks & ~cpu.has, words, sizeof words);
        return trit_fail(err, TRIT_ERR_UNSUPPORTED, "instruction set %s: this processor lacks %s", isas[isa].name,
                         words);
    }
    if (lacks != 0) {
        name_features(lacks, words, sizeof words);
        return trit_fail(err, TRIT_ERR_UNSUPPORTED,
                         "instruction set %s: the operating system does not keep or does not grant the registers of %s",
                         isas[isa].name, words);
    }
    return TRIT_OK;
}

int trit_isa_supported(trit_isa isa)
{
    return trit_isa_check(isa, NULL) == TRIT_OK;
}

trit_isa trit_isa_best(void)
{
    int isa = TRIT_ISA_COUNT - 1;
    while (isa > TRIT_ISA_REF && !trit_isa_supported((trit_isa)isa))
        isa--;
    return (trit_isa)isa;
}

const char *trit_isa_kernel(trit_isa isa, int32_t op)
{
    if (isa == TRIT_ISA_AUTO)
        isa = trit_isa_best();
    if (!is_isa(isa) || !is_built(isa) || op < 0 || op >= TRIT_OP_COUNT)
        return "";
    trit_kernels kernels = {.isa = isa};
    /* As on a processor that has all this one has and what `isa` needs. */
    climb(&kernels, isa, trit_cpu_read().usable | isas[isa].needs);
    return kernels.names[op];
}
