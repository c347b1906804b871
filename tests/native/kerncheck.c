/*
 * kerncheck - every kernel and row operation of every instruction set in kernels.inc against the plain C reference, bit for bit.
 *
 *   kerncheck [--isa NAME] [--op NAME] [--seed N] [--shapes N] [--list] [--bench]
 *
 * Each line says how the kernel ran: natively, under emulation (a cross build), or through the model of its instructions
 * (<isa>-model). What this CPU lacks is printed as "not run", never as passed. Exit status 0 only if nothing failed.
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

static const kc_kernel natives[] = {
#define X(op, type, isa, function) {#op, NULL, #function, TRIT_ISA_##isa, KC_NATIVE, 0, (kc_fn *)function, NULL},
#define R(isa, table) {"rows", NULL, #table, TRIT_ISA_##isa, KC_NATIVE, 0, NULL, &table},
#include "kernels.inc"
    {"pack", NULL, "trit_pack", TRIT_ISA_REF, KC_NATIVE, 0, NULL, NULL},
};

enum { MAX_KERNELS = 256 };
static kc_kernel kernels[MAX_KERNELS];
static size_t n_kernels;

/* Few rows are mostly served by the kernel of gemm, which is checked once. */
static int is_gemm_again(const kc_kernel *k)
{
    int found = 0;
    for (size_t i = 0; strcmp(k->op, "few") == 0 && i < sizeof natives / sizeof natives[0]; i++)
        found |= strcmp(natives[i].op, "gemm") == 0 && natives[i].fn == k->fn;
    for (size_t i = 0; strcmp(k->op, "few") == 0 && i < kc_n_models; i++)
        found |= strcmp(kc_models[i].op, "gemm") == 0 && kc_models[i].fn == k->fn;
    return found;
}

/* The list in the order it is checked: what this CPU runs, then the models. */
static void fill_list(void)
{
    size_t n_natives = sizeof natives / sizeof natives[0];
    static char model_names[TRIT_ISA_COUNT][32];
    if (n_natives + kc_n_models > MAX_KERNELS) {
        fprintf(stderr, "kerncheck: more than %d kernels\n", MAX_KERNELS);
        exit(2);
    }
    for (size_t i = 0; i < n_natives + kc_n_models; i++) {
        kc_kernel k = i < n_natives ? natives[i] : kc_models[i - n_natives];
        k.isa_name = trit_isa_name(k.isa);
        k.runs = trit_isa_supported(k.isa);
        if (k.kind == KC_MODEL) {
            (void)snprintf(model_names[k.isa], sizeof model_names[k.isa], "%s-model", k.isa_name);
            k.isa_name = model_names[k.isa];
            k.runs = kc_model_runs(k.isa);
        }
        if (!is_gemm_again(&k))
            kernels[n_kernels++] = k;
    }
}

static const struct {
    const char *op;
    void (*run)(const kc_kernel *kernel, int bench);
} checks[] = {
    {"rows", check_rows},
    {"gemv", check_gemv},
    {"few", check_gemm},
    {"gemm", check_gemm},
    {"head", check_head},
    {"qk", check_qk},
    {"av", check_av},
    {"qk8", check_qk8},
    {"av8", check_av8},
    {"pack", check_pack},
    {"codes_valid", check_codes_valid},
    {"gemv_dense", check_gemv_dense},
    {"expand", check_expand},
    {"dense_valid", check_dense_valid},
    {"up_rows", check_up_rows},
    {"down_inputs", check_down_inputs},
    {"down_pairs", check_down_pairs},
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

size_t kc_size(size_t most)
{
    size_t highest = 1;
    while (highest < most && kc_between(0, 3) != 0)
        highest *= 2;
    return (size_t)kc_between((int64_t)(highest / 2 + 1), (int64_t)(highest < most ? highest : most));
}

static size_t n_shapes;

size_t kc_shapes(void)
{
    return n_shapes;
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

/* Under an emulator of another processor: the build says so, the program cannot know. */
static int is_emulated(void)
{
#ifdef TRIT_EMULATED
    return 1;
#else
    return 0;
#endif
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

static const char *const kind_words[] = {[KC_NATIVE] = "natively", [KC_MODEL] = "through the model"};

/* How the kernel runs here, or why not. */
static const char *way_of(const kc_kernel *kernel)
{
    return !kernel->runs                                ? "not run"
           : kernel->kind == KC_NATIVE && is_emulated() ? "under emulation"
                                                        : kind_words[kernel->kind];
}

static void run_kernel(const kc_kernel *kernel, int bench)
{
    if (!kernel->runs) {
        trit_error why = {.text = "its model needs AVX2"};
        if (kernel->kind == KC_NATIVE)
            (void)trit_isa_check(kernel->isa, &why);
        printf("%-11s %-18s %-48s not run: %s\n", kernel->op, kernel->isa_name, kernel->function, why.text);
        n_not_run++;
        return;
    }
    if (bench && kernel->kind == KC_MODEL)
        return; /* the speed of a model says nothing */
    kernel_cases = kernel_failures = 0;
    if (bench)
        printf("%-11s %s\n", kernel->op, kernel->function);
    for (size_t c = 0; c < sizeof checks / sizeof checks[0]; c++)
        if (strcmp(checks[c].op, kernel->op) == 0)
            checks[c].run(kernel, bench);
    if (!bench)
        printf("%-11s %-18s %-48s %s (%u cases %s)\n", kernel->op, kernel->isa_name, kernel->function,
               kernel_failures ? "FAILED" : "ok", kernel_cases, way_of(kernel));
    fflush(stdout);
}

/* Dispatch finds what the list holds: every op on every instruction set, its own kernel or that of a rung before. */
static void check_dispatch(void)
{
    static const kc_kernel self = {"dispatch", "all", "trit_kernels_select", TRIT_ISA_REF, KC_NATIVE, 1, NULL, NULL};
    trit_kernels table;
    kernel_cases = kernel_failures = 0;
    kc_expect(&self,
              !trit_kernels_select(&table, (trit_isa)TRIT_ISA_COUNT) && !trit_kernels_select(&table, (trit_isa)-2),
              "selects an instruction set that does not exist");
    kc_expect(&self, trit_kernels_select(&table, TRIT_ISA_AUTO) && table.isa == trit_isa_best(), "auto is the best");
    for (int isa = TRIT_ISA_REF; isa < TRIT_ISA_COUNT; isa++) {
        const char *name = trit_isa_name((trit_isa)isa);
        int chosen = trit_kernels_select(&table, (trit_isa)isa);
        kc_expect(&self, chosen == trit_isa_supported((trit_isa)isa), "%s selected iff supported", name);
        if (!chosen)
            continue;
#define O(op, type) kc_expect(&self, table.op != NULL && table.names[TRIT_OP_##op] != NULL, "%s has " #op, name);
        TRIT_OPS(O)
#undef O
        kc_expect(&self, table.rows != NULL, "%s has row operations", name);
        for (size_t i = 0; i < sizeof natives / sizeof natives[0]; i++)
            for (int32_t op = 0; natives[i].isa == (trit_isa)isa && op < TRIT_OP_COUNT; op++)
                kc_expect(&self,
                          strcmp(natives[i].op, trit_op_name(op)) != 0 ||
                              (strcmp(trit_isa_kernel((trit_isa)isa, op), natives[i].function) == 0 &&
                               strcmp(table.names[op], natives[i].function) == 0),
                          "%s serves %s by %s", name, natives[i].op, natives[i].function);
    }
    kc_expect(&self, trit_op_name(TRIT_OP_COUNT)[0] == '\0' && trit_op_name(-1)[0] == '\0',
              "names ops that do not exist");
    printf("%-11s %-18s %-48s %s (%u cases)\n", self.op, self.isa_name, self.function,
           kernel_failures ? "FAILED" : "ok", kernel_cases);
}

static int usage(void)
{
    fprintf(stderr, "usage: kerncheck [--isa NAME] [--op NAME] [--seed N] [--shapes N] [--list] [--bench]\n");
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
        else if (strcmp(argv[i], "--shapes") == 0 && i + 1 < argc)
            n_shapes = (size_t)strtoull(argv[++i], NULL, 0);
        else
            return usage();
    }
    set_flush_to_zero();
    printf("kerncheck: seed %" PRIu64 ", best instruction set %s\n", seed, trit_isa_name(trit_isa_best()));
    unsigned n_matched = 0;
    fill_list();
    for (size_t i = 0; i < n_kernels; i++) {
        const kc_kernel *kernel = &kernels[i];
        if ((isa && strcmp(isa, kernel->isa_name) != 0) || (op && strcmp(op, kernel->op) != 0))
            continue;
        n_matched++;
        if (list) {
            printf("%-11s %-18s %-48s %s\n", kernel->op, kernel->isa_name, kernel->function, way_of(kernel));
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
