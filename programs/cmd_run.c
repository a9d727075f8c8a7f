/* sparkhawk run: a prompt, and what follows it. */
#include "engine.h"
#include "json_output.h"

typedef struct run_args {
    model_args model;
    sampling_args sampling;
    const char *prompt, *file, *tokens, *state_load, *state_save, *json_schema;
    strings stop;
    bool chat, special, ignore_eos, json, json_object, quiet;
} run_args;

#define AT(field) offsetof(run_args, field)

static const option run_options[] = {
    MODEL_ROW,
    { "prompt", 'p', OPT_TEXT, AT(prompt), 0, 0, "TEXT", "the prompt; -: standard input" },
    { "file", 'f', OPT_PATH, AT(file), 0, 0, "FILE", "a file that holds the prompt; -: standard input" },
    { "tokens", 0, OPT_TEXT, AT(tokens), 0, 0, "IDS", "the prompt as token ids, such as \"2 5 9\"" },
    { "chat", 0, OPT_FLAG, AT(chat), 0, 0, NULL, "the prompt is a user's message: put it into the chat template" },
    { "special", 0, OPT_FLAG, AT(special), 0, 0, NULL, "text such as <start_of_turn> in the prompt is the special token" },
    SAMPLING_ROWS,
    { "stop", 0, OPT_LIST, AT(stop), 0, 0, "STRING", "end before this text appears" },
    { "json-object", 0, OPT_FLAG, AT(json_object), 0, 0, NULL, "generate a JSON object, and end with it" },
    { "json-schema", 0, OPT_PATH, AT(json_schema), 0, 0, "FILE",
      "generate a JSON value that fits the schema in FILE, and end with it" },
    { "ignore-eos", 0, OPT_FLAG, AT(ignore_eos), 0, 0, NULL, "go on past tokens that end a text" },
    { "state-load", 0, OPT_PATH, AT(state_load), 0, 0, "FILE", "continue from a stored state; the prompt then gets no bos token" },
    { "state-save", 0, OPT_PATH, AT(state_save), 0, 0, "FILE", "store the state behind the last token that was generated" },
    COMPUTE_ROWS,
    { "json", 0, OPT_FLAG, AT(json), 0, 0, NULL,
      "print one JSON object when done: text, tokens, prompt_tokens, prefill_s, decode_s, stop (length, end, string, interrupt)" },
    { "quiet", 'q', OPT_FLAG, AT(quiet), 0, 0, NULL, "no line about the speed on standard error" },
    { 0 }
};

static int check(const run_args *a) {
    int prompts = !!a->prompt + !!a->file + !!a->tokens;
    if (prompts > 1) return misuse(&cmd_run, "only one of --prompt, --file and --tokens can be the prompt");
    if (!prompts) return misuse(&cmd_run, "what is the prompt? --prompt, --file or --tokens says so");
    if (a->json_object && a->json_schema)
        return misuse(&cmd_run, "only one of --json-object and --json-schema can say what is wanted");
    if (a->chat && !a->prompt && !a->file) return misuse(&cmd_run, "--chat wants --prompt or --file");
    for (size_t i = 0; i < a->stop.n; i++)
        if (!*a->stop.items[i]) return misuse(&cmd_run, "--stop: an empty string is everywhere");
    return EXIT_SUCCESS;
}

/* The prompt as ids, malloc'd. NULL: said so. */
static int32_t *prompt_ids(const run_args *a, const engine *e, size_t *n_ids) {
    int32_t *ids = NULL;
    const char *file = a->file ? a->file : a->prompt && !strcmp(a->prompt, "-") ? "-" : NULL;
    if (a->tokens) {
        if (!parse_ids(a->tokens, "--tokens", &ids, n_ids)) return NULL;
    } else if (!e->tokenizer) {
        return fail("the model has no tokenizer: give the prompt as --tokens"), NULL;
    } else {
        size_t n = file ? 0 : strlen(a->prompt);
        char *text = file ? read_all(file, &n) : needed(strdup(a->prompt));
        if (!text) return NULL;
        if (a->chat && strlen(text) < n) fail("a zero byte in a message"); /* which is a terminated string */
        else ids = a->chat ? engine_turn(e, NULL, text, n_ids) : engine_tokenize(e, text, n, a->special, n_ids);
        free(text);
    }
    if (ids && !*n_ids) {
        bool start = !a->tokens && !shk_session_position(e->session);
        fail("the prompt is empty%s", start ? ", and the vocabulary has no bos token to start from" : "");
        free(ids);
        ids = NULL;
    }
    return ids;
}

/* What the text must be, if anything is said of that. false: said so. */
static bool open_grammar(const run_args *a, const engine *e, shk_grammar **out) {
    char *schema = NULL;
    size_t n;
    shk_error err;
    if (!a->json_object && !a->json_schema) return true;
    if (!e->tokenizer) return fail("the model has no tokenizer, and so no text that could be JSON"), false;
    if (a->json_schema && !(schema = read_all(a->json_schema, &n))) return false;
    if (schema && strlen(schema) < n) return free(schema), fail("%s: a zero byte in a schema", a->json_schema), false;
    bool made = !shk_grammar_new(out, e->tokenizer, schema, &err);
    if (!made) fail("%s%s%s", a->json_schema ? a->json_schema : "", schema ? ": " : "", err.message);
    free(schema);
    return made;
}

static int on_text(void *user, const char *text, size_t n) {
    const run_args *a = user;
    bool written = a->json || !n || put_text(text, n);
    return interrupted || !written;
}

static void report(const shk_generated *out, size_t n_prompt) {
    char decode[40] = "";
    if (out->n_tokens > 1 && out->decode_s > 0) /* the first token is the prefill's */
        snprintf(decode, sizeof decode, ", %.1f tok/s", (double)(out->n_tokens - 1) / out->decode_s);
    fprintf(stderr, "prompt: %zu tokens, %.1f tok/s; generated: %zu tokens%s\n", n_prompt,
            out->prefill_s > 0 ? (double)n_prompt / out->prefill_s : 0.0, out->n_tokens, decode);
}

static int print(const run_args *a, const engine *e, const shk_generated *out, size_t n_prompt) {
    static const char *const reasons[] = {
        [SHK_STOP_LENGTH] = "length", [SHK_STOP_END] = "end", [SHK_STOP_STRING] = "string", [SHK_STOP_CALLER] = "interrupt"
    };
    if (a->json)
        return put_json(json_pack("{s:o, s:o, s:I, s:f, s:f, s:s}", "text", json_text(out->text, out->n_text), "tokens",
                                  json_ids(out->tokens, out->n_tokens), "prompt_tokens", (json_int_t)n_prompt, "prefill_s",
                                  out->prefill_s, "decode_s", out->decode_s, "stop", reasons[out->stop]));
    for (size_t i = 0; !e->tokenizer && i < out->n_tokens; i++) putf("%s%d", i ? " " : "", out->tokens[i]);
    if (e->tokenizer ? out->n_text && out->text[out->n_text - 1] != '\n' : out->n_tokens > 0) putf("\n");
    if (put_flush() && !a->quiet) report(out, n_prompt);
    return EXIT_SUCCESS;
}

static int run_run(const void *p, const strings *operands) {
    (void)operands;
    const run_args *a = p;
    int status = check(a);
    if (status) return status;
    engine e;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    shk_grammar *grammar = NULL;
    shk_error err;
    shk_generated out;
    if ((status = engine_open(&e, &cmd_run, &a->model, &a->sampling, a->state_load))) goto done;
    status = EXIT_FAILURE;
    if (!open_grammar(a, &e, &grammar) || !(ids = prompt_ids(a, &e, &n_ids))) goto done;
    catch_interrupts(true);
    shk_generation g = { .prompt = ids, .n_prompt = n_ids, .stop = a->stop.items, .n_stop = a->stop.n, .ignore_end = a->ignore_eos,
                         .grammar = grammar, .on_text = on_text, .user = (void *)(uintptr_t)a };
    if ((status = engine_generate(&e, &g, &out))) goto done;
    status = print(a, &e, &out, n_ids);
    shk_generated_clear(&out);
    if (a->state_save && shk_session_save(e.session, a->state_save, &err)) status = fail("%s", err.message);
    if (!status && interrupted) status = EXIT_INTERRUPTED;
done:
    free(ids);
    shk_grammar_free(grammar);
    engine_close(&e);
    return status;
}

const command cmd_run = {
    .name = "run",
    .summary = "continue a prompt",
    .operands = "",
    .description = "Generates what follows a prompt and prints it as it becomes certain. The prompt is plain text, unless "
                   "--chat makes it a message. The text may be held to JSON. A model without a "
                   "tokenizer takes --tokens and prints ids. Ctrl-C ends the "
                   "text, and a second one the program.",
    .options = run_options,
    .defaults = &(const run_args){ .sampling = { .max_tokens = 256, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64 } },
    .size = sizeof(run_args),
    .run = run_run,
};
