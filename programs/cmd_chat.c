/* sparkhawk chat: a conversation. The session remembers it; only what is new is tokenized and read. */
#include "engine.h"
#include "lines.h"

typedef struct chat_args {
    model_args model;
    sampling_args sampling;
    const char *system, *load;
} chat_args;

#define AT(field) offsetof(chat_args, field)

static const option chat_options[] = {
    MODEL_ROW,
    { "system", 0, OPT_TEXT, AT(system), 0, 0, "TEXT", "instructions that come before the first message" },
    { "load", 'l', OPT_PATH, AT(load), 0, 0, "FILE", "continue a conversation that /save has stored" },
    SAMPLING_ROWS,
    COMPUTE_ROWS,
    { 0 }
};

typedef struct chat {
    const chat_args *args;
    engine engine;
    lines *input;
    int status;
} chat;

static bool save(chat *c, const char *path) {
    shk_error err;
    if (shk_session_save(c->engine.session, path, &err)) c->status = fail("%s", err.message);
    return true;
}

static bool load(chat *c, const char *path) {
    shk_error err;
    if (shk_session_restore(c->engine.session, path, &err)) c->status = fail("%s", err.message);
    return true;
}

static bool clear(chat *c, const char *path) {
    (void)path;
    shk_session_reset(c->engine.session);
    return true;
}

static bool quit(chat *c, const char *path) {
    (void)c, (void)path;
    return false;
}

static bool help(chat *c, const char *path);

static const struct {
    const char *name, *operand, *help;
    bool (*run)(chat *c, const char *operand); /* false: leave */
} slash[] = {
    { "/save", "FILE", "store the conversation", save },
    { "/load", "FILE", "continue a stored one", load },
    { "/clear", NULL, "start anew", clear },
    { "/help", NULL, "show this", help },
    { "/quit", NULL, "leave, as Ctrl-D does", quit },
};

static bool help(chat *c, const char *path) {
    (void)c, (void)path;
    for (size_t i = 0; i < sizeof slash / sizeof *slash; i++)
        putf("%s %-*s%s\n", slash[i].name, (int)(14 - strlen(slash[i].name)), slash[i].operand ? slash[i].operand : "",
             slash[i].help);
    putf("A backslash at the end of a line continues the message on the next one. Ctrl-C stops an answer.\n"
         "A message that starts with a slash is typed with a space before it.\n");
    return true;
}

static bool command_line(chat *c, const char *line) {
    size_t n = strcspn(line, " \t\n");
    const char *operand = line + n + strspn(line + n, " \t\n");
    for (size_t i = 0; i < sizeof slash / sizeof *slash; i++) {
        if (strlen(slash[i].name) != n || memcmp(line, slash[i].name, n)) continue;
        if (!*operand == !slash[i].operand) return slash[i].run(c, operand);
        c->status = fail("%s %s", slash[i].name, slash[i].operand ? "wants a file" : "takes nothing more");
        return true;
    }
    c->status = fail("%.*s is no command; /help lists them", (int)(n < 40 ? n : 40), line);
    return true;
}

static int on_text(void *user, const char *text, size_t n) {
    bool *newline = user;
    if (n) *newline = text[n - 1] == '\n';
    return interrupted || (n && !put_text(text, n));
}

static void answer(chat *c, const char *message) {
    bool newline = false;
    shk_generated out;
    size_t n_ids = 0;
    int32_t *ids = engine_turn(&c->engine, c->args->system, message, &n_ids);
    shk_generation g = { .prompt = ids, .n_prompt = n_ids, .on_text = on_text, .user = &newline };
    interrupted = 0;
    if (!ids || engine_generate(&c->engine, &g, &out)) {
        c->status = EXIT_FAILURE;
        free(ids);
        return;
    }
    c->engine.sampling.seed++; /* the same dice in every turn would not be random */
    if (!newline) putf("\n");
    if (out.stop == SHK_STOP_LENGTH && lines_editing(c->input)) fprintf(stderr, "(stopped after %zu tokens)\n", out.n_tokens);
    shk_generated_clear(&out);
    free(ids);
}

static int chat_run(const void *p, const strings *operands) {
    (void)operands;
    chat c = { .args = p };
    const char *line;
    int status = engine_open(&c.engine, &cmd_chat, &c.args->model, &c.args->sampling, c.args->load);
    if (status) goto done;
    if (!c.engine.tokenizer) {
        status = fail("the model has no tokenizer, so it cannot chat");
        goto done;
    }
    catch_interrupts(false);
    c.input = lines_open();
    if (lines_editing(c.input)) putf("/help lists the commands, Ctrl-D leaves.\n");
    while (put_flush() && (line = lines_next(c.input))) {
        if (*line == '/' && !command_line(&c, line)) break;
        if (*line && *line != '/') answer(&c, line);
    }
    /* for a person a mistake was over with its message; a script wants to know */
    status = lines_editing(c.input) ? EXIT_SUCCESS : interrupted ? EXIT_INTERRUPTED : c.status;
    lines_close(c.input);
done:
    engine_close(&c.engine);
    return status;
}

const command cmd_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .operands = "",
    .description = "Holds a conversation: lines from the terminal, with editing and history, or from a pipe. A backslash at "
                   "the end of a line continues the message on the next one. Lines that start with a slash are commands: "
                   "/save FILE, /load FILE, /clear, /help, /quit. Ctrl-C stops an answer or clears the line, Ctrl-D leaves.",
    .options = chat_options,
    .defaults = &(const chat_args){ .sampling = { .max_tokens = 2048, .temp = 1, .top_k = 64, .top_p = 0.95, .repeat_penalty = 1,
                                                  .repeat_last_n = 64 } },
    .size = sizeof(chat_args),
    .run = chat_run,
};
