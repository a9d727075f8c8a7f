/* Prompt in, text out: prefill, then sample and step, with stop strings and text streamed in whole characters. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "stream.h"

typedef struct run {
    const shk_generation *g;
    const shk_tokenizer *tokenizer;
    shk_sampler *sampler;
    shk_matcher *matcher; /* NULL: any text will do */
    float *logits;        /* [vocab] for the matcher; NULL without one */
    int32_t next;         /* what was chosen, not yet part of the text */
    shk_stream text;
    int32_t *tokens;
    size_t n_tokens, room;
    shk_stop stop;
    bool stopped;
} run;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void emit(run *r, bool last) {
    size_t n;
    const char *text = shk_stream_take(&r->text, last, &n);
    if (r->g->on_text && (n || !last) && r->g->on_text(r->g->user, text, n) && !r->stopped) {
        r->stop = SHK_STOP_CALLER;
        r->stopped = true;
    }
}

static shk_status take(run *r, int32_t id, shk_error *err) {
    if (r->n_tokens == r->room) {
        size_t room = r->room ? r->room * 2 : 256;
        int32_t *grown = shk_realloc(r->tokens, room, sizeof *grown);
        if (!grown) return shk_fail(err, SHK_E_MEMORY, "no memory for %zu tokens", room);
        r->tokens = grown;
        r->room = room;
    }
    r->tokens[r->n_tokens++] = id;
    shk_sampler_accept(r->sampler, id);
    shk_status status = r->matcher ? shk_matcher_accept(r->matcher, id, err) : SHK_OK;
    if (status) return status;
    bool end = r->tokenizer && shk_tokenizer_is_end(r->tokenizer, id);
    if (end && !r->g->ignore_end) {
        r->stop = SHK_STOP_END;
        r->stopped = true;
        return SHK_OK;
    }
    const char *piece = "";
    size_t n = r->tokenizer && id < shk_tokenizer_vocab_size(r->tokenizer) ? shk_token_bytes(r->tokenizer, id, 0, &piece) : 0;
    if (!shk_stream_put(&r->text, piece, n)) return shk_fail(err, SHK_E_MEMORY, "no memory for the text");
    if (r->text.stopped) {
        r->stop = SHK_STOP_STRING;
        r->stopped = true;
    }
    emit(r, false);
    if (!r->stopped && r->matcher && shk_matcher_state(r->matcher) == SHK_MATCH_DONE) {
        r->stop = SHK_STOP_END;
        r->stopped = true;
    }
    return SHK_OK;
}

/* The whole prompt must be sound before its first token moves the session. */
static shk_status check_prompt(const shk_generation *g, const shk_session *s, int32_t vocab, shk_error *err) {
    uint64_t context = shk_session_context(s), at = shk_session_position(s);
    if (!g->n_prompt) return shk_fail(err, SHK_E_ARGUMENT, "the prompt has no tokens");
    for (size_t i = 0; i < g->n_prompt; i++)
        if (g->prompt[i] < 0 || g->prompt[i] >= vocab)
            return shk_fail(err, SHK_E_ARGUMENT, "token %d at %zu of the prompt is not in the vocabulary of %d", g->prompt[i], i,
                            vocab);
    if (context && (at > context || g->n_prompt > context - at))
        return shk_fail(err, SHK_E_LIMIT, "a prompt of %zu tokens after %llu does not fit into a context of %llu", g->n_prompt,
                        (unsigned long long)at, (unsigned long long)context);
    return SHK_OK;
}

/* Goes on by n tokens. `last`: the next one is chosen, or where a grammar restricts the choice its logits are fetched. */
static shk_status advance(run *r, shk_session *s, const int32_t *tokens, size_t n, bool last, shk_error *err) {
    shk_span span = { .session = s, .tokens = tokens, .n = n };
    if (last && r->matcher) span.logits = r->logits;
    else if (last) span.sampler = r->sampler, span.sampled = &r->next;
    return shk_advance(shk_session_model(s), &span, 1, err);
}

/* In pieces, so that the caller can end it between them. */
static shk_status prefill(run *r, shk_session *s, shk_error *err) {
    enum { PIECE = 512 };
    for (size_t i = 0; i < r->g->n_prompt && !r->stopped; i += PIECE) {
        size_t n = r->g->n_prompt - i < PIECE ? r->g->n_prompt - i : PIECE;
        bool last = i + n == r->g->n_prompt;
        shk_status st = advance(r, s, r->g->prompt + i, n, last, err);
        if (st) return st;
        if (!last) emit(r, false);
    }
    return SHK_OK;
}

static shk_status decode(run *r, shk_session *s, int32_t vocab, shk_error *err) {
    while (!r->stopped && r->n_tokens < r->g->max_tokens) {
        shk_status st = r->matcher ? shk_matcher_apply(r->matcher, r->logits, vocab, err) : SHK_OK;
        if (!st && r->matcher) st = shk_sampler_sample(r->sampler, r->logits, &r->next, err);
        int32_t id = r->next;
        if (!st) st = take(r, id, err);
        if (!st && !r->stopped && r->n_tokens < r->g->max_tokens) {
            if (shk_session_context(s) && shk_session_position(s) == shk_session_context(s)) break; /* full: a length stop */
            st = advance(r, s, &id, 1, true, err);
        }
        if (st) return st;
    }
    return SHK_OK;
}

shk_status shk_generate(shk_session *s, const shk_generation *g, shk_generated *out, shk_error *err) {
    shk_model *m = shk_session_model(s);
    run r = { .g = g, .tokenizer = shk_model_tokenizer(m), .text = { .stop = g->stop, .n_stop = g->n_stop },
              .stop = SHK_STOP_LENGTH };
    *out = (shk_generated){ 0 };
    shk_status st = check_prompt(g, s, shk_model_vocab_size(m), err);
    if (st) return st;
    for (size_t i = 0; i < g->n_stop; i++)
        if (!*g->stop[i]) return shk_fail(err, SHK_E_ARGUMENT, "stop string %zu is empty", i);
    if (g->grammar) r.logits = shk_calloc((size_t)shk_model_vocab_size(m), sizeof *r.logits);
    if ((g->grammar && !r.logits) || !shk_stream_put(&r.text, "", 0)) st = shk_fail(err, SHK_E_MEMORY, "no memory for logits");
    if (!st) st = shk_sampler_new(&r.sampler, &g->sampling, shk_model_vocab_size(m), err);
    if (!st && g->grammar) st = shk_matcher_new(&r.matcher, g->grammar, err);
    for (size_t i = 0; !st && i < g->n_prompt; i++) shk_sampler_accept(r.sampler, g->prompt[i]);
    double start = now();
    if (!st) st = prefill(&r, s, err);
    out->prefill_s = now() - start;
    start = now();
    if (!st) st = decode(&r, s, shk_model_vocab_size(m), err);
    if (!st) emit(&r, true);
    out->decode_s = now() - start;
    out->stop = r.stop;
    free(r.logits);
    shk_sampler_free(r.sampler);
    shk_matcher_free(r.matcher);
    if (st) {
        free(r.tokens);
        shk_stream_free(&r.text);
        return st;
    }
    out->tokens = r.tokens;
    out->n_tokens = r.n_tokens;
    out->text = r.text.text.data;
    out->n_text = r.text.text.n;
    return SHK_OK;
}

void shk_generated_clear(shk_generated *out) {
    free(out->tokens);
    free(out->text);
    *out = (shk_generated){ 0 };
}
