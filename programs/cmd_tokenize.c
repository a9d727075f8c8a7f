/* sparkhawk tokenize: text to token ids and back. */
#include "json_output.h"
#include "models.h"
#include "sparkhawk_train.h"

typedef struct tokenize_args {
    model_args model;
    bool decode, special, no_bos, json;
    const char *shards;
    int64_t shard_tokens, held_out;
} tokenize_args;

#define AT(field) offsetof(tokenize_args, field)

static const option tokenize_options[] = {
    MODEL_ROW,
    { "decode", 'd', OPT_FLAG, AT(decode), 0, 0, NULL, "the operands are ids: print their text" },
    { "special", 0, OPT_FLAG, AT(special), 0, 0, NULL, "text such as <start_of_turn> is the special token; decoding shows it" },
    { "no-bos", 0, OPT_FLAG, AT(no_bos), 0, 0, NULL, "no bos token before the text" },
    { "json", 0, OPT_FLAG, AT(json), 0, 0, NULL, "print one JSON object: tokens and text" },
    { "shards", 0, OPT_PATH, AT(shards), 0, 0, "DIR", "the operands are text files: turn them into token shards for training" },
    { "shard-tokens", 0, OPT_INT, AT(shard_tokens), 1, 1 << 30, "N", "close a shard when it has this many" },
    { "held-out", 0, OPT_INT, AT(held_out), 0, INT32_MAX, "N",
      "keep every Nth document of a file, or its last, out of training; 0: none" },
    { "threads", 't', OPT_INT, AT(model.threads), 0, 1024, "N", "threads that make shards; 0: one for each CPU" },
    { 0 }
};

/* The operands with a space between them, or standard input; malloc'd. NULL: said so. */
static char *input(const strings *operands, size_t *n) {
    if (!operands->n) return read_all("-", n);
    *n = 0;
    for (size_t i = 0; i < operands->n; i++) *n += strlen(operands->items[i]) + (i > 0);
    char *text = need(NULL, *n + 1, 1), *to = text;
    for (size_t i = 0; i < operands->n; i++) to = stpcpy(to, i ? " " : ""), to = stpcpy(to, operands->items[i]);
    *to = 0;
    return text;
}

static int print(const tokenize_args *a, const char *text, size_t n, const int32_t *ids, size_t n_ids) {
    if (a->json) return put_json(json_pack("{s:o, s:o}", "tokens", json_ids(ids, n_ids), "text", json_text(text, n)));
    if (a->decode) return put(text, n), EXIT_SUCCESS;
    for (size_t i = 0; i < n_ids; i++) putf("%s%d", i ? " " : "", ids[i]);
    return putf("\n"), EXIT_SUCCESS;
}

static int on_progress(void *user, uint64_t bytes, uint64_t of) {
    (void)user, (void)bytes, (void)of;
    return interrupted;
}

static int make_shards(const tokenize_args *a, const shk_tokenizer *t, const strings *files) {
    shk_shards_options o = { (uint64_t)a->shard_tokens, (uint64_t)a->held_out, (int)a->model.threads };
    shk_shards_counts n;
    shk_error err;
    if (!files->n) return misuse(&cmd_tokenize, "--shards wants text files");
    catch_interrupts(false);
    if (shk_shards_write(t, files->items, files->n, a->shards, &o, &n, on_progress, NULL, &err))
        return interrupted ? EXIT_INTERRUPTED : fail("%s", err.message);
    putf("%llu documents of %llu tokens, %llu of %llu held out\n", (unsigned long long)n.documents, (unsigned long long)n.tokens,
         (unsigned long long)n.held_out_documents, (unsigned long long)n.held_out_tokens);
    return EXIT_SUCCESS;
}

static int tokenize_run(const void *p, const strings *operands) {
    const tokenize_args *a = p;
    shk_tokenizer *t = NULL;
    char *path = model_path(&a->model), *text = NULL, *given = NULL;
    int32_t *ids = NULL;
    size_t n = 0, n_ids = 0;
    shk_error err;
    int status = EXIT_FAILURE;
    unsigned flags = (a->special ? SHK_TOKENIZE_SPECIAL : 0) | (a->no_bos ? 0 : SHK_TOKENIZE_BOS);
    if (!path) goto done;
    if (shk_tokenizer_load(&t, path, &err)) goto failed;
    if (a->shards) {
        status = make_shards(a, t, operands);
        goto done;
    }
    if (!(given = input(operands, &n))) goto done;
    if (a->decode) {
        if (!parse_ids(given, "--decode", &ids, &n_ids)) goto done;
        if (shk_detokenize(t, ids, n_ids, a->special, &text, &n, &err)) goto failed;
    } else if (shk_tokenize(t, given, n, flags, &ids, &n_ids, &err)) {
        goto failed;
    }
    status = print(a, text ? text : given, n, ids, n_ids);
    goto done;
failed:
    fail("%s", err.message);
done:
    shk_tokenizer_free(t);
    free(path);
    free(given);
    free(text);
    free(ids);
    return status;
}

const command cmd_tokenize = {
    .name = "tokenize",
    .summary = "turn text into token ids, or back",
    .operands = "[TEXT|ID|FILE]...",
    .description = "Prints the token ids of the operands (joined by spaces) or of standard input on one line, in the form "
                   "that run --tokens takes; with --decode the text of ids. MODEL may also be a tokenizer.json or a "
                   "tokenizer.model.\n\n"
                   "With --shards it turns text files, in which a line <|endoftext|> ends a document, into token shards for train.",
    .options = tokenize_options,
    .defaults = &(const tokenize_args){ .shard_tokens = 1 << 26, .held_out = 100 },
    .size = sizeof(tokenize_args),
    .max_operands = SIZE_MAX,
    .operand_files = true,
    .run = tokenize_run,
};
