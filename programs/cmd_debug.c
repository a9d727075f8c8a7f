/* sparkhawk debug: what a model computes, for comparisons. */
#include "models.h"
#include "sparkhawk_train.h"

typedef struct debug_args {
    model_args model;
    const char *tokens, *output;
} debug_args;

#define AT(field) offsetof(debug_args, field)

static const option debug_options[] = {
    MODEL_ROW,
    { "tokens", 0, OPT_TEXT, AT(tokens), 0, 0, "IDS", "the token ids, such as \"2 5 9\"" },
    { "output", 'o', OPT_PATH, AT(output), 0, 0, "FILE", "where to write; -: standard output" },
    COMPUTE_ROWS,
    { 0 }
};

/* f32 in the machine's order, which is little-endian on everything that the library runs on. */
static int logits(shk_model *m, shk_session *s, const int32_t *ids, size_t n, sink *out) {
    enum { PIECE = 64 }; /* bounds the memory */
    size_t vocab = (size_t)shk_model_vocab_size(m);
    float *values = need(NULL, PIECE * vocab, sizeof *values);
    int status = EXIT_SUCCESS;
    shk_error err;
    for (size_t i = 0; !status && i < n; i += PIECE) {
        shk_span span = { .session = s, .tokens = ids + i, .n = n - i < PIECE ? n - i : PIECE, .logits = values, .all_logits = 1 };
        if (shk_advance(m, &span, 1, &err)) status = fail("%s", err.message);
        else if (!sink_put(out, values, span.n * vocab * sizeof *values)) status = EXIT_FAILURE;
        if (interrupted) status = EXIT_INTERRUPTED;
    }
    free(values);
    return status;
}

static int active(shk_model *m, shk_session *s, const int32_t *ids, size_t n, sink *out) {
    shk_span span = { .session = s, .tokens = ids, .n = n };
    shk_error err;
    char *json = NULL;
    shk_model_record(m, 1);
    if (shk_advance(m, &span, 1, &err) || shk_model_recorded(m, &json, &err)) return fail("%s", err.message);
    sink_put(out, json, strlen(json));
    sink_put(out, "\n", 1);
    free(json);
    return EXIT_SUCCESS;
}

static const struct {
    const char *name;
    int (*run)(shk_model *m, shk_session *s, const int32_t *ids, size_t n, sink *out); /* NULL: by itself */
} kinds[] = { { "logits", logits }, { "active", active }, { "grads", NULL } };

static const char *kind_name(size_t i) { return i < sizeof kinds / sizeof *kinds ? kinds[i].name : NULL; }

static int grads(const debug_args *a, const int32_t *ids, size_t n) {
    shk_error err;
    double loss;
    shk_model_params params = model_params(&a->model);
    params.threads = (int)a->model.threads;
    char *path = model_path(&a->model);
    if (!path) return EXIT_FAILURE;
    int status = EXIT_SUCCESS;
    if (shk_gradients(path, &params, ids, n, a->output, &loss, &err)) status = fail("%s", err.message);
    else putf("loss %.9g\n", loss);
    free(path);
    return status;
}

static int debug_run(const void *p, const strings *operands) {
    const debug_args *a = p;
    size_t kind = 0, n = 0;
    while (kind_name(kind) && strcmp(kind_name(kind), operands->items[0])) kind++;
    if (!kind_name(kind)) return misuse(&cmd_debug, "'%s' is none of %s", operands->items[0], cmd_debug.operands);
    if (!a->tokens || !a->output) return misuse(&cmd_debug, "--%s is missing", a->tokens ? "output" : "tokens");
    int32_t *ids = NULL;
    shk_model *m = NULL;
    shk_session *s = NULL;
    sink *out = NULL;
    shk_error err;
    int status = EXIT_FAILURE;
    if (!parse_ids(a->tokens, "--tokens", &ids, &n)) goto done;
    if (!n) {
        fail("--tokens: no ids");
        goto done;
    }
    if (!kinds[kind].run) {
        status = grads(a, ids, n);
        goto done;
    }
    if (!(m = model_open(&a->model))) goto done;
    if (shk_session_new(&s, m, n, &err)) fail("%s", err.message);
    else if ((out = sink_open(a->output))) catch_interrupts(true), status = kinds[kind].run(m, s, ids, n, out);
done:
    if (out) status = sink_close(out, status);
    shk_session_free(s);
    shk_model_free(m);
    free(ids);
    return status;
}

const command cmd_debug = {
    .name = "debug",
    .summary = "write what a model computes",
    .operands = "logits|active|grads",
    .description = "Runs a model over tokens and writes its logits (f32, little-endian, one row of the vocabulary's size for "
                   "each token), the number of active units in its sparse layers (JSON), or the gradients of its loss on them "
                   "(safetensors, f32, under the checkpoint's names).",
    .options = debug_options,
    .defaults = &(const debug_args){ .model = { 0 } },
    .size = sizeof(debug_args),
    .min_operands = 1,
    .max_operands = 1,
    .operand_word = kind_name,
    .run = debug_run,
};
