/* What is at which address. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "json_output.h"
#include "mem.h"
#include "server/page.h"
#include "server/server.h"

/* ---- small answers ---- */

static enum MHD_Result show_page(exchange *x) {
    const page_file *f = page_find(x->path);
    if (!f) {
        refuse(&x->error, "", "the page has no such file");
        x->error.status = 404;
        return respond_error(x);
    }
    const char *known = MHD_lookup_connection_value(x->http, MHD_HEADER_KIND, "If-None-Match");
    bool fresh = known && !strcmp(known, f->etag);
    struct MHD_Response *r = MHD_create_response_from_buffer(fresh ? 0 : f->n, (void *)(uintptr_t)f->data, MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", f->type);
    MHD_add_response_header(r, "ETag", f->etag);
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    MHD_add_response_header(r, "Content-Security-Policy", PAGE_POLICY);
    MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    return respond_with(x, fresh ? MHD_HTTP_NOT_MODIFIED : MHD_HTTP_OK, r);
}

static enum MHD_Result show_health(exchange *x) {
    bool draining = atomic_load(&x->server->draining);
    return respond_json(x, draining ? 503 : 200, json_pack("{s:s}", "status", draining ? "draining" : "ok"));
}

static enum MHD_Result show_metrics(exchange *x) {
    size_t n;
    char *text = metrics_text(x->server, &n);
    return respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", text, n);
}

/* With what the model is, beside OpenAI's fields. */
static json_t *model_json(const server *s) {
    return json_pack("{s:s,s:s,s:I,s:s,s:o}", "id", s->o.name, "object", "model", "created", (json_int_t)s->started, "owned_by",
                     "sparkhawk", "sparkhawk", json_loads(s->description, 0, NULL));
}

static enum MHD_Result show_models(exchange *x) {
    return respond_json(x, 200, json_pack("{s:s,s:[o]}", "object", "list", "data", model_json(x->server)));
}

static bool check_model(exchange *x, const char *name) {
    if (!*name || !strcmp(name, x->server->o.name)) return true;
    refuse(&x->error, "model", "there is no model '%.100s' here; this one is '%s'", name, x->server->o.name);
    x->error.status = 404;
    x->error.code = "model_not_found";
    return false;
}

static enum MHD_Result show_model(exchange *x) {
    if (!check_model(x, x->path + strlen("/v1/models/"))) return respond_error(x);
    return respond_json(x, 200, model_json(x->server));
}

/* ---- bodies ---- */

static bool parse(exchange *x, request *r) {
    server *s = x->server;
    pthread_mutex_lock(&s->parsing);
    bool sound = request_parse(r, x->route->endpoint, x->body.data ? x->body.data : "", x->body.n, &s->o.defaults, &x->error);
    pthread_mutex_unlock(&s->parsing);
    if (sound) shk_buffer_free(&x->body);
    if (sound && !check_model(x, r->model)) {
        request_free(r);
        return false;
    }
    return sound;
}

static bool from_library(exchange *x, const char *param, const shk_error *err) {
    refuse(&x->error, param, "%s", err->message);
    if (err->status == SHK_E_MEMORY) x->error.status = 503, x->error.type = "server_error";
    return false;
}

/* The ids of an input, which are the caller's: those that it has, or its text's. */
static bool tokens_of(exchange *x, prompt_input *in, const char *param, unsigned flags, token_list *out) {
    const shk_tokenizer *t = x->server->tokenizer;
    shk_error err;
    if (!in->text) {
        for (size_t i = 0; i < in->n; i++)
            if (in->ids[i] >= shk_model_vocab_size(x->server->model))
                return refuse(&x->error, param, "token %d is not in the vocabulary of %d", in->ids[i],
                              shk_model_vocab_size(x->server->model));
        *out = (token_list){ in->ids, in->n };
        in->ids = NULL;
        return true;
    }
    if (!t) return refuse(&x->error, param, "the model has no tokenizer: give token ids");
    return !shk_tokenize(t, in->text, in->n, flags, &out->ids, &out->n, &err) || from_library(x, param, &err);
}

static enum MHD_Result tokenize(exchange *x) {
    request r;
    token_list list = { 0 };
    json_t *ids = NULL;
    if (!parse(x, &r)) return respond_error(x);
    unsigned flags = SHK_TOKENIZE_BOS | (r.special ? SHK_TOKENIZE_SPECIAL : 0);
    bool ok =
        r.n_inputs == 1 ? tokens_of(x, &r.inputs[0], "text", flags, &list) : refuse(&x->error, "text", "'text' must be a string");
    if (ok) ids = json_ids(list.ids, list.n);
    free(list.ids);
    request_free(&r);
    return ok ? respond_json(x, 200, json_pack("{s:o,s:I}", "tokens", ids, "count", (json_int_t)list.n)) : respond_error(x);
}

static enum MHD_Result detokenize(exchange *x) {
    request r;
    char *text = NULL;
    size_t n = 0;
    shk_error err;
    json_t *j = NULL;
    if (!parse(x, &r)) return respond_error(x);
    bool ok = (r.n_inputs == 1 && !r.inputs[0].text) || refuse(&x->error, "tokens", "'tokens' must be a list of token ids");
    if (ok && !x->server->tokenizer) ok = refuse(&x->error, "tokens", "the model has no tokenizer");
    if (ok && shk_detokenize(x->server->tokenizer, r.inputs[0].ids, r.inputs[0].n, r.special, &text, &n, &err))
        ok = from_library(x, "tokens", &err);
    if (ok) j = json_pack("{s:o}", "text", json_text(text, n));
    free(text);
    request_free(&r);
    return ok ? respond_json(x, 200, j) : respond_error(x);
}

/* ---- generation ---- */

static bool check_prompt(exchange *x, const token_list *p, const char *param, bool generates) {
    uint64_t context = x->server->context;
    if (!p->n) return refuse(&x->error, param, "'%s' has no tokens", param);
    if (!context || p->n + generates <= context) return true;
    refuse(&x->error, param, "the prompt has %zu tokens, and the context of %llu has no room for them and an answer", p->n,
           (unsigned long long)context);
    x->error.code = "context_length_exceeded";
    return false;
}

static bool make_prompts(exchange *x, task *t) {
    request *r = &t->request;
    const char *param = r->endpoint == CHAT ? "messages" : r->endpoint == EMBEDDINGS ? "input" : "prompt";
    size_t n = r->endpoint == CHAT ? 1 : r->n_inputs;
    shk_error err;
    if (!(t->prompts = shk_calloc(n, sizeof *t->prompts))) return no_memory(&x->error);
    for (size_t i = 0; i < n; i++) {
        token_list *p = &t->prompts[t->n_prompts++];
        if (r->endpoint != CHAT) {
            if (!tokens_of(x, &r->inputs[i], param, SHK_TOKENIZE_BOS, p)) return false;
        } else if (!x->server->tokenizer) {
            return refuse(&x->error, param, "the model has no tokenizer, so it cannot chat");
        } else if (!strcmp(r->messages[r->n_messages - 1].role, "system")) {
            char last[64];
            snprintf(last, sizeof last, "messages[%zu].role", r->n_messages - 1);
            return refuse(&x->error, last, "no user message follows the system message, and the template puts it before one");
        } else if (shk_chat_tokens(x->server->tokenizer, r->messages, r->n_messages, 1, SHK_TOKENIZE_BOS, &p->ids, &p->n, &err)) {
            return from_library(x, param, &err);
        }
        if (!check_prompt(x, p, param, r->endpoint != EMBEDDINGS)) return false;
    }
    return true;
}

/* What the sampler would refuse is refused before the request waits for it. */
static bool check_sampling(exchange *x, const request *r) {
    int32_t vocab = shk_model_vocab_size(x->server->model);
    for (size_t i = 0; i < r->sampling.n_bias; i++)
        if (r->bias[i].id >= vocab)
            return refuse(&x->error, "logit_bias", "token %d of 'logit_bias' is not in the vocabulary of %d", r->bias[i].id, vocab);
    return true;
}

static bool make_grammar(exchange *x, task *t) {
    const request *r = &t->request;
    shk_error err;
    if (!r->structured) return true;
    if (!x->server->tokenizer) return refuse(&x->error, "response_format", "the model has no tokenizer");
    return !shk_grammar_new(&t->grammar, x->server->tokenizer, r->schema, &err) ||
           from_library(x, r->schema ? "response_format.json_schema.schema" : "response_format", &err);
}

static task *make_task(exchange *x) {
    task *t = shk_calloc(1, sizeof *t);
    if (!t) return no_memory(&x->error), NULL;
    bool ok = parse(x, &t->request);
    ok = ok && check_sampling(x, &t->request) && make_grammar(x, t) && make_prompts(x, t);
    if (!ok) return task_free(t), NULL;
    request_forget_body(&t->request);
    t->seed = (uint64_t)t->request.seed;
    if (!t->request.seeded && getrandom(&t->seed, sizeof t->seed, 0) < 0) t->seed = (uint64_t)(seconds() * 1e9);
    if (x->server->o.request_s > 0) t->deadline = seconds() + x->server->o.request_s;
    return t;
}

static void refuse_task(exchange *x, submitted why, task *t) {
    reply_release(x->reply); /* the task's */
    reply_release(x->reply);
    x->reply = NULL;
    task_free(t);
    refuse(&x->error, NULL, why == QUEUE_FULL ? "too many requests are waiting; try again later" : "the server is ending");
    x->error.status = why == QUEUE_FULL ? 429 : 503;
    x->error.type = why == QUEUE_FULL ? "rate_limit_error" : "server_error";
    x->error.code = why == QUEUE_FULL ? "queue_full" : "draining";
    if (!x->retry_s) x->retry_s = 5;
}

static enum MHD_Result start_stream(exchange *x) {
    struct MHD_Response *r = reply_stream(x->reply);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no"); /* nginx would collect */
    return respond_with(x, 200, r);
}

/* Comes once when the request is there, and again when its answer is, unless that is streamed. */
static enum MHD_Result generate(exchange *x) {
    if (!x->reply) {
        task *t = make_task(x);
        if (!t) return respond_error(x);
        bool stream = t->request.stream;
        x->reply = reply_new(x->http, x->server->scheduler, t, x->server->tokenizer, x->server->o.name);
        if (!x->reply) return task_free(t), MHD_NO;
        submitted said = scheduler_submit(x->server->scheduler, t, &x->retry_s);
        if (said != SUBMITTED) return refuse_task(x, said, t), respond_error(x);
        if (stream) return start_stream(x);
    }
    if (!reply_wait(x->reply)) return MHD_YES;
    size_t n;
    int status;
    char *text = reply_body(x->reply, &n, &status);
    return respond(x, status, "application/json", text, n);
}

const route routes[] = {
    { "POST", "/v1/chat/completions", false, CHAT, generate },
    { "POST", "/v1/completions", false, COMPLETIONS, generate },
    { "POST", "/v1/embeddings", false, EMBEDDINGS, generate },
    { "POST", "/v1/tokenize", false, TOKENIZE, tokenize },
    { "POST", "/v1/detokenize", false, DETOKENIZE, detokenize },
    { "GET", "/v1/models", false, 0, show_models },
    { "GET", "/v1/models/*", false, 0, show_model },
    { "GET", "/metrics", false, 0, show_metrics },
    { "GET", "/health", true, 0, show_health },
    { "GET", "/", true, 0, show_page },
    { "GET", "/page/*", true, 0, show_page },
    { 0 },
};

/* ---- numbers ---- */

typedef struct metric {
    const char *name, *type, *help;
    double value;
} metric;

char *metrics_text(server *s, size_t *n) {
    scheduler_counts c = scheduler_count(s->scheduler);
    cache_counts k = cache_count(s->cache);
    const metric list[] = {
        { "requests_total", "counter", "Requests taken.", (double)c.requests },
        { "requests_refused_total", "counter", "Requests refused because the queue was full.", (double)c.refused },
        { "requests_cancelled_total", "counter", "Requests whose client left.", (double)c.cancelled },
        { "requests_failed_total", "counter", "Requests that failed.", (double)c.failed },
        { "requests_waiting", "gauge", "Requests in the queue.", (double)c.waiting },
        { "sequences_running", "gauge", "Sequences that have a session.", (double)c.running },
        { "prompt_tokens_total", "counter", "Tokens of prompts.", (double)c.prompt_tokens },
        { "prompt_tokens_cached_total", "counter", "Of which the state was kept from before.", (double)c.cached_tokens },
        { "generated_tokens_total", "counter", "Tokens generated.", (double)c.generated_tokens },
        { "passes_total", "counter", "Passes over the weights.", (double)c.passes },
        { "pass_rows_total", "counter", "Tokens computed in them.", (double)c.pass_rows },
        { "first_token_seconds_sum", "counter", "Time from a request to its first token, summed.", c.first_token_s },
        { "first_token_seconds_count", "counter", "First tokens.", (double)c.first_tokens },
        { "request_seconds_sum", "counter", "Time from a request to its end, summed.", c.request_s },
        { "cache_entries", "gauge", "States that are kept.", (double)k.entries },
        { "cache_bytes", "gauge", "Memory that they take.", (double)k.bytes },
        { "cache_files", "gauge", "States that are kept in files.", (double)k.files },
        { "cache_file_bytes", "gauge", "Bytes of those files.", (double)k.file_bytes },
        { "connections", "gauge", "Open connections.", (double)http_connections(s) },
    };
    shk_buffer text = { 0 };
    bool ok = true;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        ok &= shk_buffer_printf(&text, "# HELP sparkhawk_%s %s\n# TYPE sparkhawk_%s %s\nsparkhawk_%s %.17g\n", list[i].name,
                                list[i].help, list[i].name, list[i].type, list[i].name, list[i].value);
    if (!ok) shk_buffer_free(&text);
    *n = text.n;
    return text.data;
}
