/* calibrate_test.c - the choice by measured speed: by made-up times in every order, then on a model. */
#include "check.h"
#include "measure/calibrate.h"
#include "tiny_model.h"

#ifdef TRIT_EMULATED
enum { EMULATED = 1 };
#else
enum { EMULATED = 0 };
#endif

/* seconds[i][round]; counts calls. */
typedef struct fake {
    double seconds[4][TRIT_CALIBRATE_ROUNDS];
    int calls[4], last, in_turn;
} fake;

static double fake_time(void *context, size_t i)
{
    fake *f = context;
    f->in_turn &= i == 0 || f->last == (int)i - 1;
    f->last = (int)i;
    return f->seconds[i][f->calls[i]++];
}

static void set_times(fake *f, const double *each, size_t n)
{
    *f = (fake){.in_turn = 1};
    for (size_t i = 0; i < n; i++)
        for (int round = 0; round < TRIT_CALIBRATE_ROUNDS; round++)
            f->seconds[i][round] = each[i];
}

static void check_choice(void)
{
    fake f;
    double best[4];
    set_times(&f, (double[]){3e-6, 1e-6, 2e-6}, 3);
    CHECK(trit_calibrate_choose(fake_time, &f, 3, best) == 1 && best[0] == 3e-6 && best[1] == 1e-6 && best[2] == 2e-6);
    CHECK(f.calls[0] == TRIT_CALIBRATE_ROUNDS && f.calls[2] == TRIT_CALIBRATE_ROUNDS && f.in_turn);
    set_times(&f, (double[]){1e-6, 1.02e-6, 1.01e-6, 1.2e-6}, 4); /* alike: the last of them */
    CHECK(trit_calibrate_choose(fake_time, &f, 4, best) == 2);
    set_times(&f, (double[]){1e-6}, 1);
    CHECK(trit_calibrate_choose(fake_time, &f, 1, best) == 0);
    /* one slow round (another process had the core) does not count */
    set_times(&f, (double[]){2e-6, 1e-6}, 2);
    f.seconds[1][0] = 5e-4;
    CHECK(trit_calibrate_choose(fake_time, &f, 2, best) == 1 && best[1] == 1e-6);
    /* slow kernels: once each, whatever the budget */
    set_times(&f, (double[]){1.0, 0.5, 2.0}, 3);
    CHECK(trit_calibrate_choose(fake_time, &f, 3, best) == 1 && f.calls[0] == 1 && f.calls[1] == 1 && f.calls[2] == 1);
}

/* What a calibrated model says of its kernels agrees with what serves, and a choice that was made by name stays. */
static void check_model(void)
{
    tiny_model tiny;
    CHECK(tiny_make(&tiny, &tiny_arch, 7, 1));
    trit_model *model = NULL;
    CHECK_OK(trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    CHECK(trit_model_timings(model, NULL, 0) == 0 && trit_model_timings(NULL, NULL, 0) == 0);
    CHECK_OK(trit_model_calibrate(model, err));
    trit_timing timings[TRIT_MAX_TIMINGS];
    size_t n = trit_model_timings(model, timings, TRIT_MAX_TIMINGS);
    trit_kernel found[TRIT_ISA_COUNT];
    CHECK((n == 0) == (trit_kernels_candidates(TRIT_OP_gemm, found) < 2));
    for (size_t i = 0; i < n; i++) {
        CHECK(timings[i].seconds > 0 && timings[i].seconds < 1.0);
        CHECK(timings[i].chosen == (strcmp(timings[i].kernel, trit_model_kernel(model, timings[i].op)) == 0));
    }
    for (int32_t op = 0; op < TRIT_OP_COUNT; op++)
        CHECK(trit_model_kernel(model, op)[0] != '\0');
    CHECK(trit_model_kernel(model, TRIT_OP_COUNT)[0] == '\0' && trit_model_kernel(NULL, 0)[0] == '\0');
    trit_model_close(&model);
    CHECK_OK(trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_REF, 1, err));
    CHECK_REFUSED(TRIT_ERR_STATE, trit_model_calibrate(model, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_model_calibrate(NULL, err));
    trit_model_close(&model);
    tiny_drop(&tiny);
}

static trit_kernel kernel_of(const trit_kernels *k, trit_op op)
{
    switch (op) {
#define O(name, type) \
    case TRIT_OP_##name: return (trit_kernel){(trit_any_fn *)k->name, k->names[op]};
        TRIT_OPS(O)
#undef O
    default: return (trit_kernel){NULL, ""};
    }
}

/* The best and, but for gemm (which would take it a second), the reference: on every machine something to choose between. */
static size_t best_and_ref(trit_op op, trit_kernel out[TRIT_ISA_COUNT])
{
    trit_kernels best, ref;
    CHECK(trit_kernels_select(&best, TRIT_ISA_AUTO) && trit_kernels_select(&ref, TRIT_ISA_REF));
    out[0] = kernel_of(&best, op);
    out[1] = kernel_of(op == TRIT_OP_gemm ? &best : &ref, op);
    return op == TRIT_OP_qk ? 0 : 2;
}

/* The timed calls themselves: the vectors win against plain C wherever a processor has vectors (an emulator's times are its own; there it is
 * enough that a candidate wins); an op without candidates is left alone. */
static void check_timed_calls(void)
{
    tiny_model tiny;
    CHECK(tiny_make(&tiny, &tiny_arch, 7, 1));
    trit_model *model = NULL;
    CHECK_OK(trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    CHECK_OK(trit_calibrate_among(model, best_and_ref, err));
    CHECK(model->n_timings == 2 * 5);
    for (int32_t op = 0; op < TRIT_OP_COUNT; op++)
        if (op != TRIT_OP_gemm && trit_isa_best() != TRIT_ISA_REF)
            CHECK(strcmp(trit_model_kernel(model, op), trit_isa_kernel(TRIT_ISA_AUTO, op)) == 0 ||
                  (EMULATED && strcmp(trit_model_kernel(model, op), trit_isa_kernel(TRIT_ISA_REF, op)) == 0));
    trit_model_close(&model);
    tiny_drop(&tiny);
}

int main(void)
{
    check_choice();
    check_model();
    check_timed_calls();
    return CHECK_SUMMARY;
}
