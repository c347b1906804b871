/*
 * api_test.c - every public function called wrongly in every way that can be named: each call is answered with the right status and a text,
 * writes no out parameter, and leaves the handle usable. Under the sanitizers this is also the proof that nothing undefined happened.
 */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "tiny_model.h"

enum { VOCAB = 203 };

static tiny_model tiny;

/* ---- model ------------------------------------------------------------------------------------------------------ */

static void refuse_open(trit_status expected, const trit_arch *arch, const trit_tensor *tensors, size_t n_tensors,
                        int line)
{
    trit_model *model = NULL;
    trit_error err = {.text = ""};
    trit_status got = trit_model_open(&model, tiny.fd, arch, tensors, n_tensors, TRIT_ISA_AUTO, 1, &err);
    check_answer(got, expected, &err, "trit_model_open of a damaged description", __FILE__, line);
    check_that(model == NULL, "out stays NULL", __FILE__, line);
    trit_model_close(&model);
}

/* Each field of the arch set to each hostile value: refused, or accepted only if the table still fits (it never does). */
static void check_hostile_arch(void)
{
    static const int32_t values[] = {
        0, -1, 1, 2, 3, 5, 7, 257, 65537, INT32_MAX, INT32_MIN, INT32_MAX - 3, 1 << 17, 1 << 24, (1 << 24) + 1};
    for (size_t field = 0; field < 10; field++)
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            trit_arch arch = tiny.arch;
            int32_t *place = (int32_t *)&arch + field;
            if (*place == values[i] || (field == 8 && values[i] == 1)) /* silu fits the same table */
                continue;
            *place = values[i];
            trit_model *model = NULL;
            trit_error err = {.text = ""};
            trit_status got =
                trit_model_open(&model, tiny.fd, &arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, &err);
            if (!CHECK(got != TRIT_OK && model == NULL && err.text[0] != '\0'))
                printf("    field %zu = %d\n", field, values[i]);
            trit_model_close(&model);
        }
    static const float eps[] = {0.0f, -1.0f, NAN, INFINITY, 1e-40f, 2.0f};
    for (size_t i = 0; i < sizeof eps / sizeof eps[0]; i++) {
        trit_arch arch = tiny.arch;
        arch.norm_eps = eps[i];
        refuse_open(TRIT_ERR_ARGUMENT, &arch, tiny.tensors, tiny.n_tensors, __LINE__);
    }
}

/* Each field of each tensor set to each hostile value. */
static void check_hostile_tensors(void)
{
    static const int64_t values[] = {0,
                                     1,
                                     -1,
                                     3,
                                     63,
                                     65,
                                     INT32_MAX,
                                     (int64_t)INT32_MAX + 1,
                                     UINT32_MAX,
                                     INT64_MAX,
                                     INT64_MIN,
                                     INT64_MAX - 63,
                                     INT64_MIN + 64};
    for (size_t at = 0; at < tiny.n_tensors; at++)
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
            for (int field = 0; field < 8; field++) {
                trit_tensor table[TINY_MAX_TENSORS];
                memcpy(table, tiny.tensors, sizeof table);
                trit_tensor *t = &table[at], same = *t;
                switch (field) {
                case 0: t->kind = (int32_t)values[i]; break;
                case 1: t->layer = (int32_t)values[i]; break;
                case 2: t->layout = (int32_t)values[i]; break;
                case 3: t->layout_version = (int32_t)values[i]; break;
                case 4: t->n = values[i]; break;
                case 5: t->k = values[i]; break;
                case 6: t->offset = (uint64_t)values[i]; break;
                default: t->bytes = (uint64_t)values[i]; break;
                }
                if (memcmp(t, &same, sizeof same) == 0 || (at == 0 && field == 6 && values[i] == 0)) /* 0 is free */
                    continue;
                if (field == 2 && same.layout >= TRIT_LAYOUT_T2_ROWS && t->layout == TRIT_LAYOUT_T2_P64G4 &&
                    same.bytes == trit_layout_bytes(t->layout, t->n, t->k))
                    continue; /* up and down may come as panels, and these would be as long */
                trit_model *model = NULL;
                trit_error err = {.text = ""};
                trit_status got =
                    trit_model_open(&model, tiny.fd, &tiny.arch, table, tiny.n_tensors, TRIT_ISA_AUTO, 1, &err);
                if (!CHECK(got != TRIT_OK && model == NULL && err.text[0] != '\0'))
                    printf("    tensor %zu field %d = %lld\n", at, field, (long long)values[i]);
                trit_model_close(&model);
            }
}

static void check_tables(void)
{
    trit_tensor table[TINY_MAX_TENSORS + 40] = {{0}};
    size_t n = tiny.n_tensors;
    for (size_t missing = 0; missing < n; missing++) {
        memcpy(table, tiny.tensors, n * sizeof *table);
        table[missing] = table[n - 1];
        refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, n - 1, __LINE__);
        memcpy(table, tiny.tensors, n * sizeof *table); /* twice */
        table[n] = table[missing];
        refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, n + 1, __LINE__);
        if (missing > 0 && table[missing].bytes == table[missing - 1].bytes) { /* overlapping */
            table[missing].offset = table[missing - 1].offset;
            refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, n, __LINE__);
        }
    }
    memcpy(table, tiny.tensors, n * sizeof *table);
    refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, 0, __LINE__);
    for (size_t i = n; i < TINY_MAX_TENSORS + 40; i++)
        table[i] = table[0];
    refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, TINY_MAX_TENSORS, __LINE__);
    refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, SIZE_MAX, __LINE__);
    static const float scales[] = {0.0f, -1.0f, NAN, INFINITY, 1e-40f};
    for (size_t i = 0; i < 5; i++) {
        memcpy(table, tiny.tensors, n * sizeof *table);
        table[0].scale = scales[i];
        refuse_open(TRIT_ERR_FORMAT, &tiny.arch, table, n, __LINE__);
    }
    trit_arch plain = tiny.arch;
    plain.sub_norms = 0; /* the table still has them */
    refuse_open(TRIT_ERR_FORMAT, &plain, tiny.tensors, n, __LINE__);
}

static const trit_tensor *tensor_of(int32_t kind, int32_t layer)
{
    for (size_t i = 0; i < tiny.n_tensors; i++)
        if (tiny.tensors[i].kind == kind && tiny.tensors[i].layer == layer)
            return &tiny.tensors[i];
    return NULL;
}

/* A few bytes of one tensor changed to something that cannot be. */
static void check_contents(void)
{
    static const struct {
        int32_t kind, layer;
        uint64_t at, n;
        uint8_t bytes[4];
    } damages[] = {{TRIT_T_Q, 0, 0, 1, {0xc0}},
                   {TRIT_T_DOWN, 1, 77, 1, {0x03}},
                   {TRIT_T_UP, 0, 3000, 1, {0x57 | 0x08}},
                   {TRIT_T_EMBED_SHIFT, -1, 5, 1, {127}},
                   {TRIT_T_EMBED_SHIFT, -1, 202, 1, {128}},
                   {TRIT_T_NORM_FINAL, -1, 8, 4, {0, 0, 0xc0, 0x7f}},
                   {TRIT_T_ROPE_SIN, -1, 4 * 8, 4, {0, 0, 0x80, 0xff}}};
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        uint8_t found[4];
        off_t at = (off_t)(tensor_of(damages[i].kind, damages[i].layer)->offset + damages[i].at);
        ssize_t n = (ssize_t)damages[i].n;
        CHECK(pread(tiny.fd, found, (size_t)n, at) == n && pwrite(tiny.fd, damages[i].bytes, (size_t)n, at) == n);
        refuse_open(TRIT_ERR_FORMAT, &tiny.arch, tiny.tensors, tiny.n_tensors, __LINE__);
        CHECK(pwrite(tiny.fd, found, (size_t)n, at) == n);
    }
}

static void check_model_arguments(void)
{
    trit_model *model = NULL;
    int pipes[2];
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_model_open(NULL, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_model_open(&model, tiny.fd, NULL, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_model_open(&model, tiny.fd, &tiny.arch, NULL, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 257, err));
    CHECK_REFUSED(TRIT_ERR_IO,
                  trit_model_open(&model, -1, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    CHECK_REFUSED(TRIT_ERR_UNSUPPORTED,
                  trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, (trit_isa)99, 1, err));
    CHECK_REFUSED(TRIT_ERR_UNSUPPORTED,
                  trit_model_open(&model, tiny.fd, &tiny.arch, tiny.tensors, tiny.n_tensors, (trit_isa)-7, 1, err));
    CHECK(pipe(pipes) == 0);
    CHECK_REFUSED(TRIT_ERR_FORMAT,
                  trit_model_open(&model, pipes[0], &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    (void)close(pipes[0]);
    (void)close(pipes[1]);
    int empty = tiny_memfd(0);
    CHECK_REFUSED(TRIT_ERR_FORMAT,
                  trit_model_open(&model, empty, &tiny.arch, tiny.tensors, tiny.n_tensors, TRIT_ISA_AUTO, 1, err));
    (void)close(empty);
    CHECK(trit_model_open(&model, -1, NULL, NULL, 0, TRIT_ISA_AUTO, 1, NULL) ==
          TRIT_ERR_ARGUMENT); /* no place for an error */
    CHECK(model == NULL && trit_model_isa(NULL) == TRIT_ISA_AUTO && trit_model_body_bytes(NULL) == 0 &&
          trit_model_head_bytes(NULL) == 0);
    trit_model_close(NULL);
    trit_model_close(&model);

    /* The file cut anywhere: the table points past its end. */
    for (uint64_t cut = 1; cut < 4; cut++) {
        CHECK(ftruncate(tiny.fd, (off_t)(tiny.tensors[tiny.n_tensors - 1].offset + cut)) == 0);
        refuse_open(TRIT_ERR_FORMAT, &tiny.arch, tiny.tensors, tiny.n_tensors, __LINE__);
    }
    tiny_drop(&tiny);
    CHECK(tiny_make(&tiny, &tiny_arch, 42, 1));
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static void check_packing(void)
{
    int8_t codes[64 * 64] = {0}, shift[16];
    uint8_t packed[64 * 64 * 2];
    float rows[16 * 64] = {0};
    CHECK(trit_layout_bytes(99, 1, 1) == 0 && trit_layout_bytes(TRIT_LAYOUT_F32, -1, 4) == 0 &&
          trit_layout_bytes(TRIT_LAYOUT_F32, 4, 0) == 0);
    CHECK(trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, INT64_MAX, INT64_MAX) == 0 &&
          trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, INT64_MAX, 1) == 0);
    CHECK(trit_layout_bytes(TRIT_LAYOUT_I8, (int64_t)1 << 32, (int64_t)1 << 32) == 0);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, NULL, 64, 64, packed, 1024, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, 64, 64, NULL, 1024, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, 64, 64, packed, 1023, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, -1, 64, packed, 1024, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, INT64_MAX, INT64_MAX, packed, 1024, err));
    codes[5] = 2;
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, 64, 64, packed, 1024, err));
    memset(packed, 0xff, sizeof packed);
    CHECK_REFUSED(TRIT_ERR_FORMAT, trit_unpack_ternary(TRIT_LAYOUT_T2_P64G4, packed, 1024, 64, 64, codes, err));
    CHECK_REFUSED(TRIT_ERR_FORMAT, trit_unpack_hf(packed, 64, 64, codes, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_unpack_hf(NULL, 64, 64, codes, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_head(rows, 1, 8, 16, 64, packed, 2048, shift, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_head(rows, 0, 17, 16, 64, packed, 2048, shift, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_head(rows, 0, 16, 16, 64, packed, 2047, shift, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_head(rows, 0, 16, 16, 64, packed, 2048, NULL, err));
    rows[70] = INFINITY;
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_pack_head(rows, 0, 16, 16, 64, packed, 2048, shift, err));
}

/* ---- KV --------------------------------------------------------------------------------------------------------- */

static void check_kv_arguments(const tiny_stack *stack)
{
    trit_kv *kv = NULL;
    uint64_t bytes = 0;
    int32_t whole = 0;
    uint8_t hash[32] = {0};
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_region_bytes(NULL, 4, TRIT_KV_INT16, &bytes, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_region_bytes(stack->model, 4, TRIT_KV_INT16, NULL, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_region_bytes(stack->model, 0, TRIT_KV_INT16, &bytes, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_region_bytes(stack->model, INT32_MIN, TRIT_KV_INT16, &bytes, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_attach(NULL, stack->model, stack->kv_fd, 4, TRIT_KV_INT16, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_attach(&kv, NULL, stack->kv_fd, 4, TRIT_KV_INT16, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_attach(&kv, stack->model, stack->kv_fd, 0, TRIT_KV_INT16, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_kv_attach(&kv, stack->model, stack->kv_fd, TINY_BLOCKS + 1, TRIT_KV_INT16, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_attach(&kv, stack->model, stack->kv_fd, INT32_MAX, TRIT_KV_INT16, 0, err));
    CHECK_REFUSED(TRIT_ERR_IO, trit_kv_attach(&kv, stack->model, -1, 4, TRIT_KV_INT16, 0, err));
    int directory = open("/", O_RDONLY);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_attach(&kv, stack->model, directory, 4, TRIT_KV_INT16, 0, err));
    (void)close(directory);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_commit(NULL, 0, hash, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_commit(stack->kv, 0, NULL, err));
    static const int32_t bad[] = {-1, TINY_BLOCKS, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_commit(stack->kv, bad[i], hash, err));
        CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_invalidate(stack->kv, bad[i], err));
        CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_verify(stack->kv, bad[i], &whole, hash, err));
        CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_poison(stack->kv, bad[i], err));
    }
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_verify(stack->kv, 0, NULL, hash, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_verify(stack->kv, 0, &whole, NULL, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_invalidate(NULL, 0, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_kv_poison(NULL, 0, err));
    CHECK(kv == NULL && bytes == 0);
    trit_kv_detach(NULL);
    trit_kv_detach(&kv);
}

/* ---- session ---------------------------------------------------------------------------------------------------- */

static void check_session_arguments(const tiny_stack *stack)
{
    trit_session *session = NULL;
    const trit_session_options good = {1, 1, 1, 1, 0};
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_create(NULL, stack->model, stack->kv, &good, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_create(&session, NULL, stack->kv, &good, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_create(&session, stack->model, NULL, &good, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_create(&session, stack->model, stack->kv, NULL, err));
    static const int32_t bad[] = {0, -1, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 16; i++) {
        trit_session_options options = good;
        ((int32_t *)&options)[i / 4] = bad[i % 4];
        CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_create(&session, stack->model, stack->kv, &options, err));
    }
    CHECK(session == NULL);
    trit_session_destroy(NULL);
    trit_session_destroy(&session);
    trit_session_stats stats = {.steps = 9};
    trit_session_read_stats(NULL, &stats);
    trit_session_read_stats(stack->session, NULL);
    CHECK(stats.steps == 0);

    float x[132] = {0}, y[132];
    int8_t q[132];
    double seconds = 0.0;
    CHECK_OK(trit_session_linear(stack->session, TRIT_T_DOWN, 1, x, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(NULL, TRIT_T_Q, 0, x, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_NORM_ATTN, 0, x, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, -1, 0, x, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, 2, x, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, -1, x, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, 0, NULL, 1, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, 0, x, 0, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, 0, x, 161, q, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, 0, x, 1, NULL, y, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_linear(stack->session, TRIT_T_Q, 0, x, 1, q, NULL, err));
    CHECK_OK(trit_session_time_linears(stack->session, 160, 1, &seconds, err));
    CHECK(seconds > 0.0);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_time_linears(NULL, 1, 1, &seconds, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_time_linears(stack->session, 161, 1, &seconds, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_time_linears(stack->session, 1, 0, &seconds, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_time_linears(stack->session, 1, 1, NULL, err));
}

static void check_measuring(void)
{
    double rate = 0.0;
    const trit_read_pattern plain = {.streams = 1}, many = {4, 1024, 1}, none = {.streams = 0}, far = {1, 65537, 0};
    CHECK_OK(trit_measure_read(-1, 1 << 22, &plain, 2, 2, &rate, err));
    CHECK(rate > 1e6); /* a rate per second, even emulated */
    CHECK_OK(trit_measure_read(-1, 1 << 22, &many, 2, 1, &rate, err));
    CHECK_OK(trit_measure_read(-1, 1 << 18, &many, 1, 1, &rate, err)); /* less than four streams need */
    int fd = tiny_memfd(1 << 20);
    CHECK_OK(trit_measure_read(fd, 1 << 20, &many, 2, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(fd, (1 << 20) + 1, &plain, 1, 1, &rate, err));
    (void)close(fd);
    CHECK_REFUSED(TRIT_ERR_IO, trit_measure_read(fd, 1 << 20, &plain, 1, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 0, &plain, 1, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, UINT64_MAX, &plain, 1, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 1 << 20, &plain, 0, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 1 << 20, &plain, 1, 0, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 1 << 20, &plain, 1, 1, NULL, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 1 << 20, NULL, 1, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 1 << 20, &none, 1, 1, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_read(-1, 1 << 20, &far, 1, 1, &rate, err));
    for (int isa = TRIT_ISA_AUTO; isa < TRIT_ISA_COUNT; isa++) {
        if (isa != TRIT_ISA_AUTO && !trit_isa_supported((trit_isa)isa)) {
            CHECK_REFUSED(TRIT_ERR_UNSUPPORTED, trit_measure_int8((trit_isa)isa, 1, 0.01, &rate, err));
            continue;
        }
        CHECK_OK(trit_measure_int8((trit_isa)isa, 2, 0.01, &rate, err));
        CHECK(rate > 1e6); /* a rate per second, even emulated */
    }
    CHECK_REFUSED(TRIT_ERR_UNSUPPORTED, trit_measure_int8((trit_isa)77, 1, 0.01, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_int8(TRIT_ISA_REF, 1, NAN, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_int8(TRIT_ISA_REF, 1, 0.0, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_int8(TRIT_ISA_REF, 300, 0.01, &rate, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_measure_int8(TRIT_ISA_REF, 1, 0.01, NULL, err));
}

static void check_names(void)
{
    for (int i = -3; i < 12; i++)
        CHECK(trit_status_name((trit_status)i)[0] != '\0' && trit_isa_name((trit_isa)i)[0] != '\0' &&
              trit_isa_kernel((trit_isa)i, i) != NULL && trit_op_name(i) != NULL);
    CHECK(trit_isa_supported(TRIT_ISA_REF) && trit_isa_supported(trit_isa_best()) && !trit_isa_supported((trit_isa)55));
    CHECK(!trit_isa_supported(TRIT_ISA_AUTO) && trit_version()[0] != '\0');
}

int main(void)
{
    tiny_stack stack;
    CHECK(tiny_make(&tiny, &tiny_arch, 42, 1));
    check_names();
    check_model_arguments();
    check_hostile_arch();
    check_hostile_tensors();
    check_tables();
    check_contents();
    check_packing();
    CHECK_OK(tiny_open(&stack, &tiny, TRIT_ISA_AUTO, 2, err));
    CHECK(trit_model_body_bytes(stack.model) > 0 &&
          trit_model_head_bytes(stack.model) == trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, VOCAB, 72));
    check_kv_arguments(&stack);
    check_session_arguments(&stack);
    check_measuring();
    tiny_close(&stack);
    tiny_drop(&tiny);
    return CHECK_SUMMARY;
}
