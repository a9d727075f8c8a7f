/* sparkhawk bench: how fast a model is here, and how much of what the machine can do that is. */
#include <math.h>
#include <sched.h>
#include <time.h>

#include "json_output.h"
#include "models.h"

typedef struct bench_args {
    model_args model;
    const char *vs, *depths, *threads, *batches;
    int64_t prefill, generate, repeats, top_k;
    double temp, top_p;
    bool all_logits, json;
} bench_args;

#define AT(field) offsetof(bench_args, field)

static const option bench_options[] = {
    MODEL_ROW,
    DEVICE_ROW,
    { "vs", 0, OPT_PATH, AT(vs), 0, 0, "MODEL", "time this model too, in turn with the first, and print first over second" },
    { "prefill", 0, OPT_INT, AT(prefill), 0, 1 << 20, "N", "prompt tokens of a prefill; 0: no such test" },
    { "generate", 'n', OPT_INT, AT(generate), 0, 1 << 20, "N", "tokens of a decode; 0: no such test" },
    { "depths", 'd', OPT_TEXT, AT(depths), 0, 0, "LIST", "tokens before the first that is timed, such as \"0 4096\"" },
    { "threads", 't', OPT_TEXT, AT(threads), 0, 0, "LIST", "numbers of threads; 0: one for each CPU" },
    { "batch", 'b', OPT_TEXT, AT(batches), 0, 0, "LIST", "sequences that are decoded at once" },
    { "repeats", 'r', OPT_INT, AT(repeats), 1, 1000, "N", "times that each test runs; the median is shown" },
    KV_ROW,
    { "dense", 0, OPT_FLAG, AT(model.dense), 0, 0, NULL, "compute sparse layers densely, with equal results, for comparisons" },
    { "exact", 0, OPT_FLAG, AT(model.exact), 0, 0, NULL, "keep activations in f32: slower, for comparisons" },
    { "temp", 0, OPT_REAL, AT(temp), 0, 100, "T", "decode with tokens chosen at this temperature; 0: the likeliest" },
    { "top-k", 0, OPT_INT, AT(top_k), 0, INT32_MAX, "K", "among the K likeliest; 0: all" },
    { "top-p", 0, OPT_REAL, AT(top_p), 0, 1, "P", "among the likeliest that make up P" },
    { "all-logits", 0, OPT_FLAG, AT(all_logits), 0, 0, NULL, "decode with all logits on the host, choosing nothing" },
    { "json", 0, OPT_FLAG, AT(json), 0, 0, NULL,
      "print {\"bandwidth_gb_s\", \"gflop_s\", \"rows\": [{\"test\", \"depth\", \"threads\", \"batch\", \"tok_s\", \"tok_s_min\", "
      "\"tok_s_max\", \"bytes_per_token\", \"share\"}]}" },
    { 0 }
};

enum { MAX_BATCH = 512 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- one measurement ---- */

typedef struct subject {
    shk_model *model;
    shk_session *sessions[MAX_BATCH];
    shk_sampler *samplers[MAX_BATCH];
    size_t batch;
    float *logits;
    int32_t *tokens; /* [batch, n]: sequences alike would want the same rows of sparse layers */
} subject;

typedef struct test {
    bool prefill;
    uint64_t depth;
    size_t batch, n; /* tokens of each sequence */
    int threads;
    bool all_logits;
    shk_sampling sampling;
} test;

static void subject_close(subject *s) {
    for (size_t i = 0; i < s->batch + 1 && i < MAX_BATCH; i++) { /* the one that failed may have a sampler */
        shk_session_free(s->sessions[i]);
        shk_sampler_free(s->samplers[i]);
    }
    shk_model_free(s->model);
    free(s->logits);
    free(s->tokens);
    *s = (subject){ 0 };
}

static int subject_open(subject *s, const char *path, const model_args *a, const test *t) {
    shk_error err;
    shk_model_params params = model_params(a);
    params.threads = t->threads;
    if (shk_model_load(&s->model, path, &params, &err)) return fail("%s", err.message);
    int32_t vocab = shk_model_vocab_size(s->model);
    uint64_t context = shk_model_context(s->model), wanted = t->depth + t->n + 1;
    for (; s->batch < t->batch; s->batch++)
        if (shk_sampler_new(&s->samplers[s->batch], &t->sampling, vocab, &err) ||
            shk_session_new(&s->sessions[s->batch], s->model, context && context < wanted ? wanted : 0, &err))
            return fail("%s", err.message);
    s->logits = need(NULL, t->batch * (size_t)vocab, sizeof *s->logits);
    s->tokens = need(NULL, t->batch * t->n, sizeof *s->tokens);
    uint32_t random = 1;
    for (size_t i = 0; i < t->batch * t->n; i++) {
        random = random * 1664525u + 1013904223u;
        s->tokens[i] = (int32_t)(random % (uint32_t)(vocab < 256000 ? vocab : 256000)); /* all are text in every family */
    }
    return EXIT_SUCCESS;
}

/* Seconds that the timed tokens take, from a fresh state at the depth. */
static int measure(subject *s, const test *t, double *seconds) {
    shk_error err;
    shk_span spans[MAX_BATCH];
    int32_t sampled[MAX_BATCH];
    size_t vocab = (size_t)shk_model_vocab_size(s->model);
    for (size_t i = 0; i < t->batch; i++) {
        spans[i] = (shk_span){ .session = s->sessions[i], .tokens = s->tokens + i * t->n, .n = t->prefill ? t->n : 1 };
        if (t->all_logits) spans[i].logits = s->logits + i * vocab;
        else spans[i].sampler = s->samplers[i], spans[i].sampled = &sampled[i];
        if (shk_session_simulate(s->sessions[i], t->depth, i + 1, &err)) return fail("%s", err.message);
    }
    double start = now();
    for (size_t j = 0; j < (t->prefill ? 1 : t->n); j++) {
        for (size_t i = 0; i < t->batch; i++) spans[i].tokens = s->tokens + i * t->n + j;
        if (shk_advance(s->model, spans, t->batch, &err)) return fail("%s", err.message);
    }
    *seconds = now() - start;
    return EXIT_SUCCESS;
}

/* ---- a row of the table: the same test on one model, or on two in turn ---- */

typedef struct summary {
    double median, min, max;
} summary;

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static summary summarise(double *v, size_t n) {
    qsort(v, n, sizeof *v, ascending);
    return (summary){ n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2, v[0], v[n - 1] };
}

typedef struct row {
    summary rate, ratio; /* tokens per second; first over second, pair by pair */
    double bytes, flops; /* per token */
} row;

static int run_test(const bench_args *a, const char *path, const test *t, row *out) {
    subject s[2] = { { 0 }, { 0 } };
    size_t repeats = (size_t)a->repeats;
    double *rate = need(NULL, repeats, sizeof *rate), *ratio = need(NULL, repeats, sizeof *ratio);
    int status = subject_open(&s[0], path, &a->model, t), sides = a->vs ? 2 : 1;
    if (!status && a->vs) status = subject_open(&s[1], a->vs, &a->model, t);
    shk_work before = { 0 }, after = { 0 };
    for (size_t r = 0; !status && r <= repeats; r++) { /* the first warms up */
        double seconds[2] = { 1, 1 };
        before = shk_model_work(s[0].model);
        for (int i = 0; !status && i < sides; i++) status = measure(&s[i], t, &seconds[i]);
        after = shk_model_work(s[0].model);
        if (r) rate[r - 1] = (double)(t->n * t->batch) / seconds[0], ratio[r - 1] = seconds[1] / seconds[0];
    }
    if (!status) {
        double tokens = (double)(t->n * t->batch);
        out->rate = summarise(rate, repeats);
        out->ratio = summarise(ratio, repeats);
        out->bytes = (after.weight_bytes + after.state_bytes - before.weight_bytes - before.state_bytes) / tokens;
        out->flops = (after.flops - before.flops) / tokens;
    }
    for (int i = 0; i < 2; i++) subject_close(&s[i]);
    free(rate);
    free(ratio);
    return status;
}

/* The share of the ceiling that binds: the memory's, or the arithmetic's. */
static double share_of(const row *r, const shk_ceilings *c) {
    return fmax(r->bytes * r->rate.median / c->bytes_per_s, r->flops * r->rate.median / c->flops_per_s);
}

static void print_row(const bench_args *a, const test *t, const row *r, const shk_ceilings *c) {
    char threads[16] = "-"; /* a GPU's are its own affair */
    if (model_params(&a->model).device == SHK_DEVICE_CPU) snprintf(threads, sizeof threads, "%d", t->threads);
    putf("%-7s %7llu %7s %5zu %9.2f (%.2f to %.2f) %10.1f %10.1f %5.0f %%", t->prefill ? "prefill" : "decode",
         (unsigned long long)t->depth, threads, t->batch, r->rate.median, r->rate.min, r->rate.max, r->bytes * 1e-6,
         r->flops * 1e-6, 100 * share_of(r, c));
    if (a->vs) putf("   %.3f (%.3f to %.3f)", r->ratio.median, r->ratio.min, r->ratio.max);
    putf("\n");
    put_flush();
}

static json_t *row_json(const bench_args *a, const test *t, const row *r, const shk_ceilings *c) {
    json_t *o = json_pack("{s:s,s:I,s:i,s:I,s:f,s:f,s:f,s:f,s:f,s:f}", "test", t->prefill ? "prefill" : "decode", "depth",
                          (json_int_t)t->depth, "threads", t->threads, "batch", (json_int_t)t->batch, "tok_s", r->rate.median,
                          "tok_s_min", r->rate.min, "tok_s_max", r->rate.max, "bytes_per_token", r->bytes, "flops_per_token",
                          r->flops, "share", share_of(r, c));
    if (a->vs) {
        json_object_set_new(o, "ratio", json_real(r->ratio.median));
        json_object_set_new(o, "ratio_min", json_real(r->ratio.min));
        json_object_set_new(o, "ratio_max", json_real(r->ratio.max));
    }
    return o;
}

/* ---- the whole ---- */

typedef struct list {
    int32_t *v;
    size_t n;
} list;

static bool parse_list(const char *text, const char *name, int32_t min, int32_t max, list *out) {
    if (!parse_ids(text, name, &out->v, &out->n)) return false;
    for (size_t i = 0; i < out->n; i++)
        if (out->v[i] < min || out->v[i] > max) return fail("%s: %d is not from %d to %d", name, out->v[i], min, max), false;
    return out->n > 0 || (fail("%s is empty", name), false);
}

/* A model that does not load is told of before anything is timed. */
static int try_model(const char *path) {
    shk_model *m;
    shk_error err;
    if (shk_model_load(&m, path, NULL, &err)) return fail("%s", err.message);
    shk_model_free(m);
    return EXIT_SUCCESS;
}

static int cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

static int bench_all(const bench_args *a, const char *path, const list *threads, const list *depths, const list *batches,
                     json_t *root) {
    json_t *rows = json_array();
    shk_device device = model_params(&a->model).device;
    bool gpu = device == SHK_DEVICE_CUDA;
    json_object_set_new(root, "rows", rows);
    for (size_t i = 0; i < threads->n; i++) {
        shk_ceilings c;
        shk_error err;
        if (shk_probe(&c, device, threads->v[i], &err)) return fail("%s", err.message);
        if (i == 0) {
            json_object_set_new(root, "bandwidth_gb_s", json_real(c.bytes_per_s * 1e-9));
            json_object_set_new(root, "gflop_s", json_real(c.flops_per_s * 1e-9));
        }
        if (!a->json && gpu) putf("the GPU: ");
        else if (!a->json) putf("%d threads: ", threads->v[i]);
        if (!a->json)
            putf("the memory gives %.1f GB/s, the arithmetic %.0f GFLOP/s in %s\n"
                 "test      depth threads batch     tok/s                  MB/token MFLOP/token  share%s\n",
                 c.bytes_per_s * 1e-9, c.flops_per_s * 1e-9, gpu ? "bf16" : "f32", a->vs ? "   first/second" : "");
        for (size_t d = 0; d < depths->n; d++)
            for (size_t b = 0; b < batches->n; b++)
                for (int prefill = 1; prefill >= 0; prefill--) {
                    test t = { prefill,
                               (uint64_t)depths->v[d],
                               prefill ? 1 : (size_t)batches->v[b],
                               (size_t)(prefill ? a->prefill : a->generate),
                               threads->v[i],
                               a->all_logits,
                               shk_sampling_default() };
                    t.sampling.temperature = (float)a->temp, t.sampling.top_k = (int)a->top_k, t.sampling.top_p = (float)a->top_p;
                    row r;
                    if (!t.n || (prefill && b)) continue; /* one prefill, whatever the batches */
                    int status = run_test(a, path, &t, &r);
                    if (status) return status;
                    json_array_append_new(rows, row_json(a, &t, &r, &c));
                    if (!a->json) print_row(a, &t, &r, &c);
                }
    }
    return EXIT_SUCCESS;
}

static int bench_run(const void *p, const strings *operands) {
    (void)operands;
    const bench_args *a = p;
    list threads = { 0 }, depths = { 0 }, batches = { 0 };
    int status = EXIT_FAILURE;
    json_t *root = NULL;
    char *path = NULL;
    if (!parse_list(a->threads, "--threads", 0, 1024, &threads) || !parse_list(a->depths, "--depths", 0, 1 << 30, &depths) ||
        !parse_list(a->batches, "--batch", 1, MAX_BATCH, &batches) || !(path = model_path(&a->model)))
        goto done;
    for (size_t i = 0; i < threads.n; i++)
        if (!threads.v[i]) threads.v[i] = cpus();
    root = needed(json_object());
    if (try_model(path) || (a->vs && try_model(a->vs))) goto done;
    status = bench_all(a, path, &threads, &depths, &batches, root);
    if (!status && a->json) status = put_json(json_incref(root));
done:
    json_decref(root);
    free(path);
    free(threads.v);
    free(depths.v);
    free(batches.v);
    return status;
}

const command cmd_bench = {
    .name = "bench",
    .summary = "measure the speed of a model",
    .operands = "",
    .description =
        "Times prefill and greedy decode, from a state filled with random numbers at the depth, and prints medians with their "
        "range, "
        "the bytes and operations of a token as the kernels count them, and the share of this machine's measured ceiling "
        "(memory or arithmetic, whichever is nearer) that this makes.\n\n"
        "With --vs the two models take turns, and the ratio is of such pairs.",
    .options = bench_options,
    .defaults =
        &(const bench_args){
            .depths = "0", .threads = "0", .batches = "1", .prefill = 512, .generate = 32, .repeats = 5, .top_p = 1 },
    .size = sizeof(bench_args),
    .run = bench_run,
};
