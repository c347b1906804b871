/*
 * kerncheck - every kernel and row operation of every instruction set in kernels.inc against the plain C reference, bit for bit.
 *
 *   kerncheck [--isa NAME] [--op NAME] [--seed N] [--list] [--bench]
 *
 * An instruction set this CPU lacks is printed as "not run", never as passed; where a plain-C model of its instructions was built,
 * the modelled kernels are checked under <isa>-model. Exit status 0 only if nothing failed.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kerncheck.h"

/* ---- the list --------------------------------------------------------------------------------------------------- */

/* Kernels built against a model of their instructions have a name of their own, declared here. */
#define MODEL_REF(op, type, function)
#define MODEL_AVX2(op, type, function)
#define MODEL_NEON(op, type, function)
#ifdef TRIT_MODELLED_AVX512VNNI
#define MODEL_AVX512VNNI(op, type, function) extern type function##_model;
#else
#define MODEL_AVX512VNNI(op, type, function)
#endif
#define X(op, type, isa, function) MODEL_##isa(op, type, function)
#include "kernels.inc"
#undef MODEL_AVX512VNNI
#ifdef TRIT_MODELLED_AVX512VNNI
#define MODEL_AVX512VNNI(op, type, function) \
    {#op, "avx512vnni-model", #function "_model", TRIT_ISA_AVX512VNNI, 1, (kc_fn *)function##_model, NULL},
#else
#define MODEL_AVX512VNNI(op, type, function)
#endif

/* The list may name kernels that exist as a model only. */
#define NATIVE(op, function, isa) {#op, NULL, #function, isa, 0, (kc_fn *)function, NULL},
#define NATIVE_ROWS(table, isa) {"rows", NULL, #table, isa, 0, NULL, &table},
#define NATIVE_REF(op, function) NATIVE(op, function, TRIT_ISA_REF)
#define NATIVE_AVX2(op, function) NATIVE(op, function, TRIT_ISA_AVX2)
#define NATIVE_NEON(op, function) NATIVE(op, function, TRIT_ISA_NEON)
#define ROWS_REF(table) NATIVE_ROWS(table, TRIT_ISA_REF)
#define ROWS_AVX2(table) NATIVE_ROWS(table, TRIT_ISA_AVX2)
#define ROWS_NEON(table) NATIVE_ROWS(table, TRIT_ISA_NEON)
#ifdef TRIT_HAVE_AVX512VNNI
#define NATIVE_AVX512VNNI(op, function) NATIVE(op, function, TRIT_ISA_AVX512VNNI)
#define ROWS_AVX512VNNI(table) NATIVE_ROWS(table, TRIT_ISA_AVX512VNNI)
#else
#define NATIVE_AVX512VNNI(op, function)
#define ROWS_AVX512VNNI(table)
#endif

static kc_kernel kernels[] = {
#define X(op, type, isa, function) NATIVE_##isa(op, function)
#define R(isa, table) ROWS_##isa(table)
#include "kernels.inc"
#define X(op, type, isa, function) MODEL_##isa(op, type, function)
#include "kernels.inc"
    {"pack", NULL, "trit_pack", TRIT_ISA_REF, 0, NULL, NULL},
};

static const struct {
    const char *op;
    void (*run)(const kc_kernel *kernel, int bench);
} checks[] = {
    {"rows", check_rows}, {"gemv", check_gemv}, {"gemm", check_gemm}, {"head", check_head},
    {"qk", check_qk},     {"av", check_av},     {"pack", check_pack}, {"codes_valid", check_codes_valid},
};

/* ---- buffers ---------------------------------------------------------------------------------------------------- */

enum { CANARY = 0xC5, POISON = 0xA5, MAX_BUFFERS = 64 };

static struct {
    uint8_t *mapping;
    size_t mapping_bytes, first, bytes; /* first: offset of the buffer in the mapping */
} buffers[MAX_BUFFERS];
static size_t n_buffers;

void *kc_buffer(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t rounded = (bytes + 63) / 64 * 64;
    size_t body = (rounded + 64 + page - 1) / page * page; /* at least a vector of canary in front */
    uint8_t *mapping = mmap(NULL, body + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || n_buffers == MAX_BUFFERS || mprotect(mapping, page, PROT_NONE) != 0 ||
        mprotect(mapping + page + body, page, PROT_NONE) != 0) {
        fprintf(stderr, "kerncheck: cannot map %zu bytes\n", bytes);
        exit(2);
    }
    size_t first = page + body - rounded;
    memset(mapping + page, CANARY, body - rounded);
    memset(mapping + first + bytes, CANARY, rounded - bytes);
    buffers[n_buffers].mapping = mapping;
    buffers[n_buffers].mapping_bytes = body + 2 * page;
    buffers[n_buffers].first = first;
    buffers[n_buffers].bytes = bytes;
    n_buffers++;
    return mapping + first;
}

void kc_poison(void *buffer, size_t bytes)
{
    memset(buffer, POISON, bytes);
}

static int all_canary(const uint8_t *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (from[i] != CANARY)
            return 0;
    return 1;
}

int kc_release(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int intact = 1;
    for (size_t i = 0; i < n_buffers; i++) {
        size_t end = buffers[i].first + buffers[i].bytes;
        size_t before = buffers[i].first - page < 4096 ? buffers[i].first - page : 4096;
        intact &= all_canary(buffers[i].mapping + buffers[i].first - before, before);
        intact &= all_canary(buffers[i].mapping + end, buffers[i].mapping_bytes - page - end);
        munmap(buffers[i].mapping, buffers[i].mapping_bytes);
    }
    n_buffers = 0;
    return intact;
}

/* ---- random: splitmix64 ----------------------------------------------------------------------------------------- */

static uint64_t random_state;

uint64_t kc_random(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t kc_between(int64_t low, int64_t high)
{
    return low + (int64_t)(kc_random() % (uint64_t)(high - low + 1));
}

float kc_normal(float scale)
{
    double sum = 0;
    for (int i = 0; i < 6; i++)
        sum += (double)(kc_random() >> 11) * 0x1p-53;
    return (float)((sum - 3.0) * 1.4142135) * scale;
}

/* ---- books ------------------------------------------------------------------------------------------------------ */

static unsigned n_passed, n_failed, n_not_run;
static unsigned kernel_cases, kernel_failures;

void kc_expect(const kc_kernel *kernel, int holds, const char *what, ...)
{
    kernel_cases++;
    if (holds) {
        n_passed++;
        return;
    }
    n_failed++;
    if (kernel_failures++ < 5) {
        va_list args;
        printf("  FAILED %s %s: ", kernel->isa_name, kernel->function);
        va_start(args, what);
        vprintf(what, args);
        va_end(args);
        printf("\n");
    }
}

int kc_same_floats(const float *a, const float *b, size_t n, size_t *first)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        int both_nan = (x & 0x7fffffffu) > 0x7f800000u && (y & 0x7fffffffu) > 0x7f800000u;
        if (x != y && !both_nan) {
            *first = i;
            return 0;
        }
    }
    return 1;
}

int kc_same_bytes(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

/* ---- main ------------------------------------------------------------------------------------------------------- */

/* What every thread that computes sets: flush to zero, denormals are zero. */
static void set_flush_to_zero(void)
{
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040u);
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    fpcr |= 1u << 24;
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr));
#endif
}

static void run_kernel(const kc_kernel *kernel, int bench)
{
    if (!kernel->runs) {
        printf("%-11s %-18s %-44s not run: this CPU lacks %s\n", kernel->op, kernel->isa_name, kernel->function,
               trit_isa_name(kernel->isa));
        n_not_run++;
        return;
    }
    if (bench && strstr(kernel->isa_name, "-model") != NULL)
        return; /* the speed of a model says nothing */
    kernel_cases = kernel_failures = 0;
    if (bench)
        printf("%-11s %s\n", kernel->op, kernel->function);
    for (size_t c = 0; c < sizeof checks / sizeof checks[0]; c++)
        if (strcmp(checks[c].op, kernel->op) == 0)
            checks[c].run(kernel, bench);
    if (!bench)
        printf("%-11s %-18s %-44s %s (%u cases)\n", kernel->op, kernel->isa_name, kernel->function,
               kernel_failures ? "FAILED" : "ok", kernel_cases);
    fflush(stdout);
}

/* Every instruction set lists all ops, dispatch finds them, and trit_isa_kernels names them. */
static void check_dispatch(void)
{
    static const kc_kernel self = {"dispatch", "all", "trit_kernels_select", TRIT_ISA_REF, 1, NULL, NULL};
    trit_kernels table;
    kernel_cases = kernel_failures = 0;
    kc_expect(&self, !trit_kernels_select(&table, (trit_isa)17) && !trit_kernels_select(&table, (trit_isa)-2),
              "selects an instruction set that does not exist");
    kc_expect(&self, trit_kernels_select(&table, TRIT_ISA_AUTO) && table.isa == trit_isa_best(), "auto is the best");
    for (int isa = TRIT_ISA_REF; isa <= TRIT_ISA_NEON; isa++) {
        int chosen = trit_kernels_select(&table, (trit_isa)isa);
        kc_expect(&self, chosen == trit_isa_supported((trit_isa)isa), "%s selected iff supported",
                  trit_isa_name((trit_isa)isa));
        if (!chosen)
            continue;
        kc_expect(&self,
                  table.gemv && table.gemm && table.head && table.qk && table.av && table.codes_valid && table.rows,
                  "%s has every op", trit_isa_name((trit_isa)isa));
        for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
            if (kernels[i].isa == (trit_isa)isa && kernels[i].fn && !strstr(kernels[i].function, "_model"))
                kc_expect(&self, strstr(trit_isa_kernels((trit_isa)isa), kernels[i].function) != NULL,
                          "trit_isa_kernels(%s) names %s", trit_isa_name((trit_isa)isa), kernels[i].function);
    }
    printf("%-11s %-18s %-44s %s (%u cases)\n", self.op, self.isa_name, self.function,
           kernel_failures ? "FAILED" : "ok", kernel_cases);
}

static int usage(void)
{
    fprintf(stderr, "usage: kerncheck [--isa NAME] [--op NAME] [--seed N] [--list] [--bench]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *isa = NULL, *op = NULL;
    int bench = 0, list = 0;
    uint64_t seed = (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0)
            bench = 1;
        else if (strcmp(argv[i], "--list") == 0)
            list = 1;
        else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc)
            isa = argv[++i];
        else if (strcmp(argv[i], "--op") == 0 && i + 1 < argc)
            op = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 0);
        else
            return usage();
    }
    set_flush_to_zero();
    printf("kerncheck: seed %" PRIu64 ", best instruction set %s\n", seed, trit_isa_name(trit_isa_best()));
    unsigned n_matched = 0;
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        kc_kernel *kernel = &kernels[i];
        if (kernel->isa_name == NULL) {
            kernel->isa_name = trit_isa_name(kernel->isa);
            kernel->runs = trit_isa_supported(kernel->isa);
        }
        if ((isa && strcmp(isa, kernel->isa_name) != 0) || (op && strcmp(op, kernel->op) != 0))
            continue;
        n_matched++;
        if (list) {
            printf("%-11s %-18s %-44s %s\n", kernel->op, kernel->isa_name, kernel->function,
                   kernel->runs ? "runs here" : "not run here");
            continue;
        }
        random_state = seed; /* each kernel sees the same inputs, alone or among others */
        run_kernel(kernel, bench);
    }
    if (n_matched == 0) {
        fprintf(stderr, "kerncheck: nothing is called --isa %s --op %s\n", isa ? isa : "(any)", op ? op : "(any)");
        return 2;
    }
    if (list)
        return 0;
    if (!bench && !isa && !op)
        check_dispatch();
    if (bench)
        return 0;
    printf("%u passed, %u failed, %u not run\n", n_passed, n_failed, n_not_run);
    return n_failed != 0;
}
