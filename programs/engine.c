#include "engine.h"

#include <math.h>
#include <sys/random.h>

/* ID=VALUE */
static bool parse_bias(const char *s, shk_bias *out) {
    const char *equals = strchr(s, '=');
    char id[24];
    int64_t v;
    double add = -INFINITY;
    if (!equals) return false;
    snprintf(id, sizeof id, "%.*s", (int)(equals - s < 23 ? equals - s : 23), s);
    if (!parse_int(id, &v) || v < 0 || v > INT32_MAX) return false;
    if (strcmp(equals + 1, "-inf") && (!parse_real(equals + 1, &add) || fabs(add) > 1e6)) return false;
    *out = (shk_bias){ .id = (int32_t)v, .add = (float)add };
    return true;
}

static int fill_sampling(engine *e, const command *c, const sampling_args *a) {
    e->max_tokens = (size_t)a->max_tokens;
    e->bias = need(NULL, a->logit_bias.n, sizeof *e->bias);
    for (size_t i = 0; i < a->logit_bias.n; i++)
        if (!parse_bias(a->logit_bias.items[i], &e->bias[i]))
            return misuse(c, "--logit-bias: '%s' is no ID=VALUE with a token id and a number or -inf", a->logit_bias.items[i]);
    uint32_t random = 1;
    if (!a->seed && getrandom(&random, sizeof random, 0) < 0) return fail("no random seed; give one with --seed");
    e->sampling = (shk_sampling){
        .temperature = (float)a->temp, .top_k = (int)a->top_k, .top_p = (float)a->top_p, .min_p = (float)a->min_p,
        .repeat_penalty = (float)a->repeat_penalty, .repeat_last_n = (int)a->repeat_last_n,
        .seed = a->seed ? (uint64_t)a->seed : random, .bias = e->bias, .n_bias = a->logit_bias.n,
    };
    return EXIT_SUCCESS;
}

int engine_open(engine *e, const command *c, const model_args *model, const sampling_args *sampling, const char *state) {
    shk_error err;
    *e = (engine){ 0 };
    int status = fill_sampling(e, c, sampling);
    if (status) return status;
    if (!(e->model = model_open(model))) return EXIT_FAILURE;
    e->tokenizer = shk_model_tokenizer(e->model);
    for (size_t i = 0; i < e->sampling.n_bias; i++)
        if (e->bias[i].id >= shk_model_vocab_size(e->model))
            return fail("--logit-bias: token %d is not in the vocabulary of %d", e->bias[i].id, shk_model_vocab_size(e->model));
    if (shk_session_new(&e->session, e->model, (uint64_t)sampling->context, &err)) return fail("%s", err.message);
    if (state && shk_session_restore(e->session, state, &err)) return fail("%s", err.message);
    return EXIT_SUCCESS;
}

void engine_close(engine *e) {
    shk_session_free(e->session);
    shk_model_free(e->model);
    free(e->bias);
}

static bool at_start(const engine *e) { return shk_session_position(e->session) == 0; }

int32_t *engine_tokenize(const engine *e, const char *text, size_t n, bool special, size_t *n_ids) {
    unsigned flags = (at_start(e) ? SHK_TOKENIZE_BOS : 0) | (special ? SHK_TOKENIZE_SPECIAL : 0);
    int32_t *ids = NULL;
    shk_error err;
    if (shk_tokenize(e->tokenizer, text, n, flags, &ids, n_ids, &err)) return fail("%s", err.message), NULL;
    return ids;
}

int32_t *engine_turn(const engine *e, const char *system, const char *user, size_t *n_ids) {
    /* the template of a conversation up to an answer is the beginning of the same conversation's with the next turn: so what
     * follows it there is what the session has not seen yet */
    shk_message first[] = { { "system", system }, { "user", user } };
    shk_message next[] = { { "user", "" }, { "assistant", "" }, { "user", user } };
    int32_t *ids = NULL, *seen = NULL;
    size_t n_seen = 0;
    bool start = at_start(e);
    shk_error err;
    shk_status status = start ? shk_chat_tokens(e->tokenizer, system ? first : first + 1, system ? 2 : 1, 1, SHK_TOKENIZE_BOS, &ids,
                                                n_ids, &err)
                              : shk_chat_tokens(e->tokenizer, next, 1, 1, 0, &seen, &n_seen, &err);
    if (!status && !start) status = shk_chat_tokens(e->tokenizer, next, 3, 1, 0, &ids, n_ids, &err);
    if (status) fail("%s", err.message), ids = NULL;
    else memmove(ids, ids + n_seen, (*n_ids -= n_seen) * sizeof *ids);
    free(seen);
    return ids;
}

/* The session has not consumed the last token yet. */
static int settle(engine *e, const shk_generation *g, const shk_generated *out, uint64_t start) {
    uint64_t seen = shk_session_position(e->session) - start;
    if (seen < g->n_prompt) return EXIT_SUCCESS; /* interrupted while it read the prompt */
    size_t consumed = (size_t)seen - g->n_prompt, n = out->n_tokens;
    if (out->stop == SHK_STOP_END && n > consumed && e->tokenizer && shk_tokenizer_is_end(e->tokenizer, out->tokens[n - 1])) n--;
    if (n <= consumed) return EXIT_SUCCESS;
    shk_span span = { .session = e->session, .tokens = out->tokens + consumed, .n = n - consumed };
    shk_error err;
    return shk_advance(e->model, &span, 1, &err) ? fail("%s", err.message) : EXIT_SUCCESS;
}

int engine_generate(engine *e, shk_generation *g, shk_generated *out) {
    uint64_t start = shk_session_position(e->session), context = shk_session_context(e->session);
    int32_t vocab = shk_model_vocab_size(e->model);
    shk_error err;
    for (size_t i = 0; i < g->n_prompt; i++)
        if (g->prompt[i] < 0 || g->prompt[i] >= vocab)
            return fail("token %d of the prompt is not in the vocabulary of %d", g->prompt[i], vocab);
    g->max_tokens = e->max_tokens;
    g->sampling = e->sampling;
    if (context) {
        uint64_t room = context > start ? context - start : 0, need_one = e->max_tokens > 0;
        if (g->n_prompt + need_one > room)
            return fail("the prompt has %zu tokens, and the context of %llu has room for %llu more (--context)", g->n_prompt,
                        (unsigned long long)context, (unsigned long long)room);
        if (g->max_tokens > room - g->n_prompt) g->max_tokens = (size_t)room - g->n_prompt;
    }
    if (shk_generate(e->session, g, out, &err)) return fail("%s", err.message);
    int status = settle(e, g, out, start);
    if (status) shk_generated_clear(out);
    return status;
}
