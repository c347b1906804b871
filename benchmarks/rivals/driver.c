/*
 * driver.c - times llama.cpp through its public interface, one order at a time, so that its turns can alternate with another engine's.
 *
 *     rival_driver MODEL.gguf THREADS CONTEXT MAX_BATCH MAX_STEPS
 *
 * Reads orders on standard input, one a line, and answers each with one line of JSON:
 *     prefill         compute the prompt of CONTEXT tokens from nothing, logits of its last token
 *     decode B STEPS  STEPS steps of B sequences, each behind that prompt; one token per sequence and step, logits of all
 * Answers: {"tokens": N, "seconds": S, "cpu_seconds": C}, CPU time being that of the whole process. The order is that of
 * llama-batched-bench with a shared prompt: sequence 0 holds it, the others get a copy, and nothing is sampled. Every stretch of
 * decoding begins again behind the prompt. The first order must be `prefill`.
 */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static struct llama_context *context;
static struct llama_batch batch;
static int prompt_tokens, max_batch, max_steps, vocab_size, copies;

static void fail(const char *what)
{
    fprintf(stderr, "rival_driver: %s\n", what);
    exit(1);
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static void add(int position, int sequence, int logits)
{
    int at = batch.n_tokens++;
    batch.token[at] = rand() % vocab_size;
    batch.pos[at] = position;
    batch.n_seq_id[at] = 1;
    batch.seq_id[at][0] = sequence;
    batch.logits[at] = (int8_t)logits;
}

static void run_batch(void)
{
    if (llama_decode(context, batch) != 0)
        fail("llama_decode failed");
    llama_synchronize(context);
    batch.n_tokens = 0;
}

static void prefill(void)
{
    llama_memory_clear(llama_get_memory(context), false);
    copies = 1;
    for (int i = 0; i < prompt_tokens; i++)
        add(i, 0, i == prompt_tokens - 1);
    run_batch();
}

/* Give the first n sequences the prompt and nothing behind it. */
static void rewind_to_prompt(int n)
{
    llama_memory_t memory = llama_get_memory(context);
    for (int s = 0; s < copies; s++)
        llama_memory_seq_rm(memory, s, prompt_tokens, -1);
    if (n <= copies)
        return;
    for (int s = copies; s < n; s++)
        llama_memory_seq_cp(memory, 0, s, -1, -1);
    copies = n;
    add(prompt_tokens, 0, 1); /* copies between streams happen before the next batch */
    run_batch();
    llama_memory_seq_rm(memory, 0, prompt_tokens, -1);
}

static void decode(int n, int steps)
{
    for (int i = 0; i < steps; i++) {
        for (int s = 0; s < n; s++)
            add(prompt_tokens + i, s, 1);
        run_batch();
    }
}

static void open_model(const char *path, int threads)
{
    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, model_params);
    if (model == NULL)
        fail("the model cannot be loaded");
    struct llama_context_params params = llama_context_default_params();
    /* llama.cpp divides the context evenly among the sequences and wants multiples of 256 */
    int each = (prompt_tokens + max_steps + 255) / 256 * 256;
    params.n_ctx = (uint32_t)(max_batch * each);
    params.n_seq_max = (uint32_t)max_batch;
    params.n_batch = (uint32_t)(prompt_tokens > max_batch ? prompt_tokens : max_batch);
    params.n_threads = params.n_threads_batch = threads;
    params.no_perf = true;
    context = llama_init_from_model(model, params);
    if (context == NULL)
        fail("no context: is there memory enough?");
    vocab_size = llama_vocab_n_tokens(llama_model_get_vocab(model));
    if (vocab_size <= 0)
        fail("the model has no vocabulary");
    batch = llama_batch_init((int32_t)params.n_batch, 0, 1);
}

/* As llama-batched-bench: the weights' pages come in, the threads start. */
static void warm_up(void)
{
    for (int i = 0; i < 16 && i < prompt_tokens; i++)
        add(i, 0, 0);
    run_batch();
}

static void quiet(enum ggml_log_level level, const char *text, void *unused)
{
    (void)unused;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail("usage: rival_driver MODEL.gguf THREADS CONTEXT MAX_BATCH MAX_STEPS");
    prompt_tokens = atoi(argv[3]);
    max_batch = atoi(argv[4]);
    max_steps = atoi(argv[5]);
    if (atoi(argv[2]) < 1 || prompt_tokens < 1 || max_batch < 1 || max_steps < 1)
        fail("every number must be positive");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    open_model(argv[1], atoi(argv[2]));
    warm_up();
    printf("{\"system\": \"%s\"}\n", llama_print_system_info());
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        int n = 1, steps = prompt_tokens, decoding = sscanf(line, "decode %d %d", &n, &steps) == 2;
        if (!decoding && strcmp(line, "prefill\n") != 0)
            fail("orders are `prefill` and `decode B STEPS`");
        if (decoding && (copies == 0 || n < 1 || n > max_batch || steps < 1 || steps > max_steps))
            fail("decode: more sequences or steps than announced, or no prompt yet");
        if (decoding)
            rewind_to_prompt(n);
        double start = now_seconds(), cpu = cpu_seconds();
        if (decoding)
            decode(n, steps);
        else
            prefill();
        double seconds = now_seconds() - start;
        printf("{\"tokens\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", n * steps, seconds, cpu_seconds() - cpu);
        fflush(stdout);
    }
    return 0;
}
