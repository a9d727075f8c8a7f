#include "server/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "json_output.h"
#include "mem.h"

bool answer_init(answer *a, const request *r, size_t n_prompts, const shk_tokenizer *t, const char *model) {
    static const char *const prefixes[] = { [CHAT] = "chatcmpl", [COMPLETIONS] = "cmpl", [EMBEDDINGS] = "embd" };
    uint64_t random[2] = { 0 };
    *a = (answer){ .tokenizer = t, .endpoint = r->endpoint, .model = model, .created = time(NULL), .stream = r->stream,
                   .include_usage = r->include_usage, .base64 = r->base64, .n = n_prompts * (size_t)r->n,
                   .choices_each = (size_t)r->n };
    if (getrandom(random, sizeof random, 0) < 0) random[0] = (uint64_t)a->created;
    snprintf(a->id, sizeof a->id, "%s-%016llx%016llx", prefixes[r->endpoint], (unsigned long long)random[0],
             (unsigned long long)random[1]);
    a->choices = shk_calloc(a->n, sizeof *a->choices);
    return a->choices != NULL;
}

void answer_free(answer *a) {
    for (size_t i = 0; a->choices && i < a->n; i++) {
        choice *c = &a->choices[i];
        shk_buffer_free(&c->text);
        json_decref(c->logprobs);
        json_decref(c->embedding);
        json_decref(c->stats);
    }
    free(a->choices);
}

json_t *error_json(const api_error *e) {
    return json_pack("{s:{s:o,s:s,s:o,s:o}}", "error", "message", json_text(e->message, strlen(e->message)), "type", e->type,
                     "param", *e->param ? json_text(e->param, strlen(e->param)) : json_null(), "code",
                     e->code && *e->code ? json_string(e->code) : json_null());
}

/* ---- pieces ---- */

static json_t *finish_json(finish f) {
    return f == RUNNING ? json_null() : json_string(f == FINISH_STOP ? "stop" : "length");
}

static const char *token_text(const answer *a, int32_t id, size_t *n) {
    const char *text = "";
    *n = a->tokenizer && id < shk_tokenizer_vocab_size(a->tokenizer) ? shk_token_bytes(a->tokenizer, id, 1, &text) : 0;
    return text;
}

static json_t *token_json(const answer *a, int32_t id) {
    size_t n;
    const char *text = token_text(a, id, &n);
    return json_text(text, n);
}

/* -infinity is no JSON. */
static json_t *logprob_json(float l) { return json_real(l > -9999 ? l : -9999); }

static json_t *chat_token(const answer *a, int32_t id, float logprob) {
    size_t n;
    const char *text = token_text(a, id, &n);
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    return json_pack("{s:o,s:o,s:o}", "token", json_text(text, n), "logprob", logprob_json(logprob), "bytes", bytes);
}

/* Adds a token to *list, which is made if there is none. false: no memory. */
static bool add_chat_token(const answer *a, json_t **list, const token_news *t) {
    json_t *o = chat_token(a, t->id, t->logprob), *top = json_array();
    bool ok = true;
    for (size_t i = 0; i < t->n_top; i++) ok &= !json_array_append_new(top, chat_token(a, t->top[i].id, t->top[i].logprob));
    ok &= !json_object_set_new(o, "top_logprobs", top);
    if (!*list) *list = json_array();
    return !json_array_append_new(*list, o) && ok;
}

static bool add_completion_token(const answer *a, json_t **lists, const token_news *t, size_t offset) {
    json_t *top = json_object();
    bool ok = true;
    for (size_t i = 0; i < t->n_top; i++) {
        json_t *key = token_json(a, t->top[i].id);
        ok &= !json_object_set_new(top, json_string_value(key), logprob_json(t->top[i].logprob));
        json_decref(key);
    }
    if (!*lists)
        *lists = json_pack("{s:[],s:[],s:[],s:[]}", "tokens", "token_logprobs", "top_logprobs", "text_offset");
    ok &= !json_array_append_new(json_object_get(*lists, "tokens"), token_json(a, t->id));
    ok &= !json_array_append_new(json_object_get(*lists, "token_logprobs"), logprob_json(t->logprob));
    ok &= !json_array_append_new(json_object_get(*lists, "top_logprobs"), top);
    return !json_array_append_new(json_object_get(*lists, "text_offset"), json_integer((json_int_t)offset)) && ok;
}

static bool add_token(const answer *a, json_t **to, const token_news *t, size_t offset) {
    if (!t) return true;
    return a->endpoint == CHAT ? add_chat_token(a, to, t) : add_completion_token(a, to, t, offset);
}

/* Chat puts its list into an object. Releases `logprobs`. */
static json_t *logprobs_json(const answer *a, json_t *logprobs) {
    if (!logprobs) return json_null();
    return a->endpoint == CHAT ? json_pack("{s:o,s:n}", "content", logprobs, "refusal") : logprobs;
}

static json_t *stats_json(const sequence_stats *s) {
    json_t *active = json_array();
    for (size_t i = 0; i < s->layers; i++) json_array_append_new(active, s->active[i] < 0 ? json_null() : json_real(s->active[i]));
    return json_pack("{s:f,s:o,s:I,s:I}", "tok_s", s->tok_s, "active", active, "state_bytes", (json_int_t)s->state_bytes,
                     "cache_bytes", (json_int_t)s->cache_bytes);
}

static size_t characters(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

static void count(choice *c, const news *n) {
    c->begun = true;
    c->characters += characters(n->text, n->n_text);
    c->n_prompt = n->n_prompt;
    c->n_cached = n->n_cached;
    c->n_generated = n->n_generated;
    if (n->finish) c->finish = n->finish;
}

static json_t *usage_json(const answer *a) {
    size_t prompt = 0, cached = 0, generated = 0;
    for (size_t i = 0; i < a->n; i++) {
        const choice *c = &a->choices[i];
        if (i % a->choices_each == 0) prompt += c->n_prompt, cached += c->n_cached; /* its other choices have read nothing */
        generated += c->n_generated;
    }
    if (a->endpoint == EMBEDDINGS)
        return json_pack("{s:I,s:I}", "prompt_tokens", (json_int_t)prompt, "total_tokens", (json_int_t)prompt);
    return json_pack("{s:I,s:I,s:I,s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens", (json_int_t)generated,
                     "total_tokens", (json_int_t)(prompt + generated), "prompt_tokens_details", "cached_tokens",
                     (json_int_t)cached);
}

static json_t *envelope(const answer *a, const char *object, json_t *choices) {
    return json_pack("{s:s,s:s,s:I,s:s,s:o}", "id", a->id, "object", object, "created", (json_int_t)a->created, "model", a->model,
                     "choices", choices);
}

/* ---- streams ---- */

static json_t *chunk_envelope(const answer *a, json_t *choices, json_t *usage) {
    json_t *o = envelope(a, a->endpoint == CHAT ? "chat.completion.chunk" : "text_completion", choices);
    if (a->include_usage) json_object_set_new(o, "usage", usage);
    else json_decref(usage);
    return o;
}

json_t *answer_chunk(answer *a, const news *n) {
    choice *c = &a->choices[n->sequence];
    json_t *logprobs = NULL, *o;
    bool ok = add_token(a, &logprobs, n->token, c->characters);
    if (a->endpoint == CHAT) {
        json_t *delta = json_object();
        if (!c->begun) json_object_set_new(delta, "role", json_string("assistant"));
        if (!c->begun || n->n_text || n->token) ok &= !json_object_set_new(delta, "content", json_text(n->text, n->n_text));
        o = json_pack("{s:I,s:o,s:o,s:o}", "index", (json_int_t)n->sequence, "delta", delta, "logprobs", logprobs_json(a, logprobs),
                      "finish_reason", finish_json(n->finish));
    } else {
        o = json_pack("{s:o,s:I,s:o,s:o}", "text", json_text(n->text, n->n_text), "index", (json_int_t)n->sequence, "logprobs",
                      logprobs_json(a, logprobs), "finish_reason", finish_json(n->finish));
    }
    count(c, n);
    o = chunk_envelope(a, json_pack("[o]", o), json_null());
    if (n->stats) json_object_set_new(o, "stats", stats_json(n->stats));
    if (!ok) json_decref(o);
    return ok ? o : NULL;
}

json_t *answer_usage_chunk(const answer *a) { return chunk_envelope(a, json_array(), usage_json(a)); }

/* ---- whole ---- */

static json_t *embedding_json(const answer *a, const float *v, size_t width) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (!a->base64) {
        json_t *list = json_array();
        for (size_t i = 0; i < width; i++) json_array_append_new(list, json_real(v[i]));
        return list;
    }
    const unsigned char *b = (const unsigned char *)v; /* little-endian f32 */
    size_t n = width * sizeof *v;
    char *text = shk_calloc(n / 3 + 1, 4), *to = text;
    if (!text) return NULL;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)b[i] << 16 | (i + 1 < n ? (uint32_t)b[i + 1] << 8 : 0) | (i + 2 < n ? b[i + 2] : 0);
        for (int k = 0; k < 4; k++) *to++ = i + (size_t)k > n ? '=' : digits[three >> (18 - 6 * k) & 63];
    }
    json_t *j = json_stringn(text, (size_t)(to - text));
    free(text);
    return j;
}

bool answer_add(answer *a, const news *n) {
    choice *c = &a->choices[n->sequence];
    if (n->n_text > MAX_WHOLE_TEXT - a->n_text) return false;
    if (!add_token(a, &c->logprobs, n->token, c->characters)) return false;
    count(c, n);
    if (n->embedding && !(c->embedding = embedding_json(a, n->embedding, n->width))) return false;
    if (n->stats) {
        json_decref(c->stats);
        c->stats = stats_json(n->stats);
    }
    a->n_text += n->n_text;
    return shk_buffer_append(&c->text, n->text, n->n_text);
}

static json_t *embeddings_whole(const answer *a) {
    json_t *data = json_array();
    for (size_t i = 0; i < a->n; i++)
        if (json_array_append_new(data, json_pack("{s:s,s:I,s:O}", "object", "embedding", "index", (json_int_t)i, "embedding",
                                                  a->choices[i].embedding)))
            return json_decref(data), NULL;
    return json_pack("{s:s,s:o,s:s,s:o}", "object", "list", "data", data, "model", a->model, "usage", usage_json(a));
}

json_t *answer_whole(const answer *a) {
    if (a->endpoint == EMBEDDINGS) return embeddings_whole(a);
    json_t *list = json_array(), *o;
    for (size_t i = 0; i < a->n; i++) {
        const choice *c = &a->choices[i];
        json_t *text = json_text(c->text.data ? c->text.data : "", c->text.n),
               *logprobs = logprobs_json(a, json_incref(c->logprobs));
        if (a->endpoint == CHAT)
            o = json_pack("{s:I,s:{s:s,s:o,s:n},s:o,s:o}", "index", (json_int_t)i, "message", "role", "assistant", "content", text,
                          "refusal", "logprobs", logprobs, "finish_reason", finish_json(c->finish));
        else
            o = json_pack("{s:o,s:I,s:o,s:o}", "text", text, "index", (json_int_t)i, "logprobs", logprobs, "finish_reason",
                          finish_json(c->finish));
        if (c->stats) json_object_set(o, "stats", c->stats);
        if (json_array_append_new(list, o)) return json_decref(list), NULL;
    }
    o = envelope(a, a->endpoint == CHAT ? "chat.completion" : "text_completion", list);
    json_object_set_new(o, "usage", usage_json(a));
    if (a->n == 1 && a->choices[0].stats) json_object_set(o, "stats", a->choices[0].stats);
    return o;
}
