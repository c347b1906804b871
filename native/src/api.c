/*
 * api.c - the functions of trit.h that take handles: checks of arguments, then one call inward. No arithmetic here.
 *
 * (trit_isa_* are in dispatch.c, the packing functions in pack/, trit_status_name and trit_version in status.c.)
 */
#include <string.h>

#include "batch.h"
#include "ffn.h"
#include "forward.h"
#include "linear.h"
#include "measure/calibrate.h"
#include "measure/measure.h"
#include "mem.h"
#include "status.h"

/* ---- arguments -------------------------------------------------------------------------------------------------- */

static trit_status check_pointer(const char *name, const void *pointer, size_t alignment, trit_error *err)
{
    if (pointer == NULL)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "%s is NULL", name);
    if ((uintptr_t)pointer % alignment != 0)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "%s is not aligned to %zu bytes", name, alignment);
    return TRIT_OK;
}

static trit_status check_range(const char *name, int64_t value, int64_t least, int64_t most, trit_error *err)
{
    if (value >= least && value <= most)
        return TRIT_OK;
    return trit_fail(err, TRIT_ERR_ARGUMENT, "%s is %lld, expected %lld to %lld", name, (long long)value,
                     (long long)least, (long long)most);
}

/* ---- model ------------------------------------------------------------------------------------------------------ */

trit_status trit_model_open(trit_model **out, int fd, const trit_arch *arch, const trit_tensor *tensors,
                            size_t n_tensors, trit_isa isa, int32_t n_threads, trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("out", out, _Alignof(trit_model *), err)) != TRIT_OK ||
        (status = check_pointer("arch", arch, _Alignof(trit_arch), err)) != TRIT_OK ||
        (status = check_pointer("tensors", tensors, _Alignof(trit_tensor), err)) != TRIT_OK ||
        (status = check_range("n_threads", n_threads, 1, TRIT_MAX_THREADS, err)) != TRIT_OK)
        return status;
    return trit_model_load(out, fd, arch, tensors, n_tensors, isa, n_threads, err);
}

void trit_model_close(trit_model **model)
{
    if (model == NULL)
        return;
    trit_model_unload(*model);
    *model = NULL;
}

trit_isa trit_model_isa(const trit_model *model)
{
    return model == NULL ? TRIT_ISA_AUTO : model->kernels.isa;
}

const char *trit_model_kernel(const trit_model *model, int32_t op)
{
    return model == NULL || op < 0 || op >= TRIT_OP_COUNT ? "" : model->kernels.names[op];
}

trit_status trit_model_calibrate(trit_model *model, trit_error *err)
{
    trit_status status = check_pointer("model", model, _Alignof(trit_model), err);
    if (status != TRIT_OK)
        return status;
    if (model->isa_was_given)
        return trit_fail(err, TRIT_ERR_STATE, "the model was opened for instruction set %s, which stays",
                         trit_isa_name(model->kernels.isa));
    return trit_calibrate(model, err);
}

size_t trit_model_timings(const trit_model *model, trit_timing *out, size_t most)
{
    size_t n = model == NULL ? 0 : model->n_timings;
    for (size_t i = 0; out != NULL && i < n && i < most; i++)
        out[i] = model->timings[i];
    return n;
}

uint64_t trit_model_body_bytes(const trit_model *model)
{
    return model == NULL ? 0 : model->body_bytes;
}

uint64_t trit_model_head_bytes(const trit_model *model)
{
    return model == NULL ? 0 : model->head_bytes;
}

/* ---- KV --------------------------------------------------------------------------------------------------------- */

trit_status trit_kv_region_bytes(const trit_model *model, int32_t n_blocks, trit_kv_dtype dtype, uint64_t *bytes,
                                 trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("model", model, _Alignof(trit_model), err)) != TRIT_OK ||
        (status = check_pointer("bytes", bytes, _Alignof(uint64_t), err)) != TRIT_OK)
        return status;
    return trit_kv_size(model, n_blocks, dtype, bytes, err);
}

trit_status trit_kv_attach(trit_kv **out, const trit_model *model, int fd, int32_t n_blocks, trit_kv_dtype dtype,
                           int32_t reset, trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("out", out, _Alignof(trit_kv *), err)) != TRIT_OK ||
        (status = check_pointer("model", model, _Alignof(trit_model), err)) != TRIT_OK)
        return status;
    return trit_kv_map(out, model, fd, n_blocks, dtype, reset != 0, err);
}

void trit_kv_detach(trit_kv **kv)
{
    if (kv == NULL)
        return;
    trit_kv_unmap(*kv);
    *kv = NULL;
}

static trit_status check_block(const trit_kv *kv, int32_t block, trit_error *err)
{
    trit_status status = check_pointer("kv", kv, _Alignof(trit_kv), err);
    return status != TRIT_OK ? status : check_range("block", block, 0, (int64_t)kv->n_blocks - 1, err);
}

trit_status trit_kv_commit(trit_kv *kv, int32_t block, const uint8_t hash[TRIT_HASH_BYTES], trit_error *err)
{
    trit_status status;
    if ((status = check_block(kv, block, err)) != TRIT_OK || (status = check_pointer("hash", hash, 1, err)) != TRIT_OK)
        return status;
    trit_kv_seal(kv, (size_t)block, hash);
    return TRIT_OK;
}

trit_status trit_kv_invalidate(trit_kv *kv, int32_t block, trit_error *err)
{
    trit_status status = check_block(kv, block, err);
    if (status == TRIT_OK)
        trit_kv_unseal(kv, (size_t)block);
    return status;
}

trit_status trit_kv_verify(const trit_kv *kv, int32_t block, int32_t *whole, uint8_t hash[TRIT_HASH_BYTES],
                           trit_error *err)
{
    trit_status status;
    if ((status = check_block(kv, block, err)) != TRIT_OK ||
        (status = check_pointer("whole", whole, _Alignof(int32_t), err)) != TRIT_OK ||
        (status = check_pointer("hash", hash, 1, err)) != TRIT_OK)
        return status;
    *whole = trit_kv_is_whole(kv, (size_t)block, hash);
    return TRIT_OK;
}

trit_status trit_kv_poison(trit_kv *kv, int32_t block, trit_error *err)
{
    trit_status status = check_block(kv, block, err);
    if (status == TRIT_OK)
        trit_kv_fill_poison(kv, (size_t)block);
    return status;
}

/* ---- sampling --------------------------------------------------------------------------------------------------- */

trit_status trit_sample(const float *logits, int32_t vocab, const trit_sampling *sampling, int32_t target,
                        int32_t n_top, trit_choice *out, trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("logits", logits, _Alignof(float), err)) != TRIT_OK ||
        (status = check_range("vocab", vocab, 1, 1 << 24, err)) != TRIT_OK ||
        (status = check_pointer("sampling", sampling, _Alignof(trit_sampling), err)) != TRIT_OK ||
        (status = check_range("target", target, -1, vocab - 1, err)) != TRIT_OK ||
        (status = check_range("n_top", n_top, -1, TRIT_MAX_TOP, err)) != TRIT_OK ||
        (status = check_pointer("out", out, _Alignof(trit_choice), err)) != TRIT_OK)
        return status;
    if (target < 0 && (status = trit_sampling_check(sampling, vocab, 0, err)) != TRIT_OK)
        return status;
    trit_kernels kernels;
    if (!trit_kernels_select(&kernels, TRIT_ISA_AUTO))
        return trit_fail(err, TRIT_ERR_UNSUPPORTED, "this build has no kernels");
    trit_sampler_scratch scratch;
    if ((status = trit_sampler_scratch_create(&scratch, (size_t)vocab, err)) != TRIT_OK)
        return status;
    uint64_t mode = trit_float_mode_enter();
    if (trit_sampler_choose(kernels.rows, logits, NULL, (size_t)vocab, sampling, target, n_top, out, &scratch) !=
        TRIT_SAMPLED)
        status = trit_fail(err, TRIT_ERR_STATE, "the mask did not become ready");
    trit_float_mode_leave(mode);
    trit_sampler_scratch_destroy(&scratch);
    return status;
}

/* ---- session ---------------------------------------------------------------------------------------------------- */

trit_status trit_session_create(trit_session **out, const trit_model *model, trit_kv *kv,
                                const trit_session_options *options, trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("out", out, _Alignof(trit_session *), err)) != TRIT_OK ||
        (status = check_pointer("model", model, _Alignof(trit_model), err)) != TRIT_OK ||
        (status = check_pointer("kv", kv, _Alignof(trit_kv), err)) != TRIT_OK ||
        (status = check_pointer("options", options, _Alignof(trit_session_options), err)) != TRIT_OK)
        return status;
    return trit_session_build(out, model, kv, options, err);
}

void trit_session_destroy(trit_session **session)
{
    if (session == NULL)
        return;
    trit_session_tear_down(*session);
    *session = NULL;
}

trit_status trit_session_step(trit_session *session, const trit_batch *batch, trit_choice *choices, float *logits,
                              trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("session", session, _Alignof(trit_session), err)) != TRIT_OK ||
        (status = check_pointer("batch", batch, _Alignof(trit_batch), err)) != TRIT_OK)
        return status;
    if (batch->n_outputs > 0 && (status = check_pointer("choices", choices, _Alignof(trit_choice), err)) != TRIT_OK)
        return status;
    if (logits != NULL && (status = check_pointer("logits", logits, _Alignof(float), err)) != TRIT_OK)
        return status;
    const trit_batch_limits limits = {.arch = &session->model->arch,
                                      .kv = session->kv,
                                      .max_rows = session->options.max_rows,
                                      .max_seqs = session->options.max_seqs,
                                      .max_outputs = session->options.max_outputs,
                                      .step = ++session->step,
                                      .writers = session->writers};
    if ((status = trit_batch_check(batch, &limits, err)) != TRIT_OK || batch->n_rows == 0)
        return status;
    uint64_t mode = trit_float_mode_enter();
    status = trit_forward(session, batch, choices, logits, err);
    trit_float_mode_leave(mode);
    return status;
}

void trit_session_read_stats(const trit_session *session, trit_session_stats *out)
{
    if (out != NULL)
        *out = session == NULL ? (trit_session_stats){0} : session->stats;
}

trit_status trit_session_linear(trit_session *session, int32_t kind, int32_t layer, const float *x, int32_t rows,
                                int8_t *q, float *y, trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("session", session, _Alignof(trit_session), err)) != TRIT_OK ||
        (status = check_range("kind", kind, TRIT_T_Q, TRIT_T_DOWN, err)) != TRIT_OK ||
        (status = check_range("layer", layer, 0, session->model->arch.n_layers - 1, err)) != TRIT_OK ||
        (status = check_pointer("x", x, _Alignof(float), err)) != TRIT_OK ||
        (status = check_range("rows", rows, 1, session->options.max_rows, err)) != TRIT_OK ||
        (status = check_pointer("q", q, 1, err)) != TRIT_OK ||
        (status = check_pointer("y", y, _Alignof(float), err)) != TRIT_OK)
        return status;
    const trit_linear *linear = &session->model->layers[layer].linears[kind];
    const struct {
        float *y;
        size_t stride;
    } places[] = {{session->q, session->query_stride},  {session->k, session->kv_stride},
                  {session->v, session->kv_stride},     {session->y, session->hidden_stride},
                  {session->gate, session->ffn_stride}, {session->up, session->ffn_stride},
                  {session->y, session->hidden_stride}};
    const trit_linear_job job = {linear, places[kind].y, places[kind].stride};
    uint64_t mode = trit_float_mode_enter();
    trit_quantise_rows(session, linear, x, linear->k, (size_t)rows);
    if (kind == TRIT_T_DOWN) {
        for (size_t row = 0; row < (size_t)rows; row++)
            trit_ffn_list_inputs(session, linear, row, (size_t)rows);
        trit_ffn_down(session, linear, (size_t)rows);
    } else {
        trit_linear_run(session, &job, 1, (size_t)rows);
    }
    trit_float_mode_leave(mode);
    for (size_t row = 0; row < (size_t)rows; row++) {
        memcpy(q + row * linear->k, session->x_q + row * trit_linear_x_stride(linear), linear->k);
        memcpy(y + row * linear->n, job.y + row * job.y_stride, linear->n * sizeof *y);
    }
    return TRIT_OK;
}

/* ---- measuring -------------------------------------------------------------------------------------------------- */

enum { MAX_REPEATS = 10000 };

trit_status trit_measure_read(int fd, uint64_t bytes, const trit_read_pattern *pattern, int32_t n_threads,
                              int32_t repeats, double *bytes_per_second, trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("pattern", pattern, _Alignof(trit_read_pattern), err)) != TRIT_OK ||
        (status = check_range("streams", pattern->streams, 1, TRIT_MAX_STREAMS, err)) != TRIT_OK ||
        (status = check_range("prefetch_bytes", pattern->prefetch_bytes, 0, 65536, err)) != TRIT_OK ||
        (status = check_range("n_threads", n_threads, 1, TRIT_MAX_THREADS, err)) != TRIT_OK ||
        (status = check_range("repeats", repeats, 1, MAX_REPEATS, err)) != TRIT_OK ||
        (status = check_pointer("bytes_per_second", bytes_per_second, _Alignof(double), err)) != TRIT_OK)
        return status;
    if (bytes < 1 << 18 || bytes > (uint64_t)1 << 40)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "bytes is %llu, expected 2^18 to 2^40", (unsigned long long)bytes);
    return trit_read_bandwidth(fd, bytes, *pattern, n_threads, repeats, bytes_per_second, err);
}

trit_status trit_measure_int8(trit_isa isa, int32_t n_threads, double seconds, double *ops_per_second, trit_error *err)
{
    trit_status status;
    if ((status = check_range("n_threads", n_threads, 1, TRIT_MAX_THREADS, err)) != TRIT_OK ||
        (status = check_pointer("ops_per_second", ops_per_second, _Alignof(double), err)) != TRIT_OK)
        return status;
    if (!(seconds >= 1e-3 && seconds <= 60.0))
        return trit_fail(err, TRIT_ERR_ARGUMENT, "seconds is %g, expected 0.001 to 60", seconds);
    if (isa == TRIT_ISA_AUTO)
        isa = trit_isa_best();
    if ((status = trit_isa_check(isa, err)) != TRIT_OK)
        return status;
    return trit_int8_rate(isa, n_threads, seconds, ops_per_second, err);
}

trit_status trit_session_time_linears(trit_session *session, int32_t rows, int32_t repeats, double *seconds,
                                      trit_error *err)
{
    trit_status status;
    if ((status = check_pointer("session", session, _Alignof(trit_session), err)) != TRIT_OK ||
        (status = check_range("rows", rows, 1, session->options.max_rows, err)) != TRIT_OK ||
        (status = check_range("repeats", repeats, 1, MAX_REPEATS, err)) != TRIT_OK ||
        (status = check_pointer("seconds", seconds, _Alignof(double), err)) != TRIT_OK)
        return status;
    uint64_t mode = trit_float_mode_enter();
    *seconds = trit_linears_seconds(session, (size_t)rows, repeats);
    trit_float_mode_leave(mode);
    return TRIT_OK;
}
