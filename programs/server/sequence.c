#include "server/sequence.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"

double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t task_sequences(const task *t) { return t->n_prompts * (size_t)t->request.n; }

size_t task_tokens(const task *t) {
    size_t n = 0;
    for (size_t i = 0; i < t->n_prompts; i++) n += t->prompts[i].n;
    return n;
}

void task_free(task *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_prompts; i++) free(t->prompts[i].ids);
    free(t->prompts);
    request_free(&t->request);
    shk_grammar_free(t->grammar);
    free(t);
}

/* ---- a sequence's memory ---- */

sequence *sequence_new(task *t, size_t number, shk_model *m) {
    const token_list *prompt = &t->prompts[number / (size_t)t->request.n];
    sequence *q = shk_calloc(1, sizeof *q);
    if (!q) return NULL;
    size_t vocab = (size_t)shk_model_vocab_size(m);
    *q = (sequence){ .task = t, .number = number, .embeds = t->request.endpoint == EMBEDDINGS, .n_ids = prompt->n,
                     .room = prompt->n, .n_prompt = prompt->n, .sampling = t->request.sampling, .sampled = -1 };
    q->sampling.seed = t->seed + number;
    q->text.stop = (const char *const *)t->request.stop;
    q->text.n_stop = t->request.n_stop;
    q->ids = shk_memdup(prompt->ids, prompt->n * sizeof *q->ids);
    bool ok = q->ids;
    if (q->embeds) ok &= (q->sum = shk_calloc((size_t)shk_model_width(m), sizeof *q->sum)) != NULL;
    else
        ok &=
            (q->logits = shk_calloc(vocab, sizeof *q->logits)) && !shk_sampler_new(&q->sampler, &q->sampling, (int32_t)vocab, NULL);
    if (t->request.stats) ok &= (q->active = shk_calloc((size_t)shk_model_layers(m), sizeof *q->active)) != NULL;
    if (t->grammar) ok &= shk_matcher_new(&q->matcher, t->grammar, NULL) == SHK_OK;
    if (!ok) return sequence_free(q), NULL;
    for (size_t i = 0; q->sampler && i < q->n_ids; i++) shk_sampler_accept(q->sampler, q->ids[i]);
    return q;
}

void sequence_free(sequence *q) {
    if (!q) return;
    shk_session_free(q->session);
    shk_sampler_free(q->sampler);
    shk_matcher_free(q->matcher);
    shk_stream_free(&q->text);
    free(q->ids);
    free(q->logits);
    free(q->active);
    free(q->sum);
    free(q);
}

size_t sequence_position(const sequence *q) { return (size_t)shk_session_position(q->session); }

static bool remember(sequence *q, int32_t id) {
    if (q->n_ids == q->room) {
        size_t room = q->room + q->room / 2 + 64;
        int32_t *grown = shk_realloc(q->ids, room, sizeof *grown);
        if (!grown) return false;
        q->ids = grown;
        q->room = room;
    }
    q->ids[q->n_ids++] = id;
    shk_sampler_accept(q->sampler, id);
    return true;
}

/* ---- log-probabilities ---- */

static void measure(const sequence *q, int32_t id, token_news *t) {
    size_t vocab = (size_t)shk_model_vocab_size(shk_session_model(q->session)), most = (size_t)q->task->request.top_logprobs;
    double top = -INFINITY, sum = 0;
    *t = (token_news){ .id = id };
    for (size_t v = 0; v < vocab; v++)
        if (q->logits[v] > top) top = q->logits[v];
    for (size_t v = 0; v < vocab; v++) {
        float l = q->logits[v];
        sum += exp(l - top);
        if (t->n_top < most) t->n_top++;
        else if (!most || l <= t->top[most - 1].logprob) continue; /* ties go to the lower id */
        size_t at = t->n_top - 1;
        for (; at > 0 && l > t->top[at - 1].logprob; at--) t->top[at] = t->top[at - 1];
        t->top[at] = (alternative){ (int32_t)v, l };
    }
    double norm = top + log(sum);
    for (size_t i = 0; i < t->n_top; i++) t->top[i].logprob = (float)(t->top[i].logprob - norm);
    t->logprob = (float)(q->logits[id] - norm);
}

/* ---- telling ---- */

static void tell(const sequence *q, news n) {
    size_t generated = q->n_ids - q->n_prompt;
    double spent = generated > 1 ? seconds() - q->first : 0;
    sequence_stats stats = { .active = q->active, .tok_s = spent > 0 ? (double)(generated - 1) / spent : 0 };
    if (q->active && q->session) {
        stats.layers = (size_t)shk_model_layers(shk_session_model(q->session));
        stats.state_bytes = shk_session_bytes(q->session);
        stats.cache_bytes = shk_session_dense_bytes(q->session);
        n.stats = &stats;
    }
    n.sequence = q->number;
    n.n_prompt = q->n_prompt;
    n.n_cached = q->n_cached;
    n.n_generated = generated;
    q->task->listener.tell(q->task->listener.user, &n);
}

static void fail_sequence(sequence *q, int status, const char *message) {
    api_error e = { .status = status, .type = "server_error", .code = "" };
    snprintf(e.message, sizeof e.message, "%s", message);
    sequence_finish(q, FINISH_FAILED, &e);
}

/* Chooses a token that the matcher allows, unless the pass has chosen. */
static shk_status choose(sequence *q, int32_t *id, shk_error *err) {
    shk_status st = SHK_OK;
    *id = q->sampled;
    if (*id >= 0) return SHK_OK;
    if (q->matcher) st = shk_matcher_apply(q->matcher, q->logits, shk_model_vocab_size(shk_session_model(q->session)), err);
    if (!st) st = shk_sampler_sample(q->sampler, q->logits, id, err);
    if (!st && q->matcher) st = shk_matcher_accept(q->matcher, *id, err);
    return st;
}

/* Why nothing may follow; RUNNING: something may. */
static finish at_end(const sequence *q) {
    uint64_t context = shk_session_context(q->session);
    size_t generated = q->n_ids - q->n_prompt;
    if (q->text.stopped || (q->matcher && shk_matcher_state(q->matcher) == SHK_MATCH_DONE)) return FINISH_STOP;
    return generated >= (size_t)q->task->request.max_tokens || (context && q->n_ids >= context) ? FINISH_LENGTH : RUNNING;
}

void sequence_next(sequence *q) {
    const shk_tokenizer *t = shk_model_tokenizer(shk_session_model(q->session));
    const char *piece = "";
    shk_error err;
    token_news token;
    int32_t id;
    bool logprobs = q->task->request.logprobs;
    if (choose(q, &id, &err)) return fail_sequence(q, 500, err.message);
    if (q->n_ids == q->n_prompt) q->first = seconds();
    if (!remember(q, id)) return fail_sequence(q, 503, "out of memory");
    if (t && shk_tokenizer_is_end(t, id)) return sequence_finish(q, FINISH_STOP, NULL);
    size_t n = t && id < shk_tokenizer_vocab_size(t) ? shk_token_bytes(t, id, 0, &piece) : 0;
    if (!shk_stream_put(&q->text, piece, n)) return fail_sequence(q, 503, "out of memory");
    if (logprobs) measure(q, id, &token);
    const char *text = shk_stream_take(&q->text, false, &n);
    if (n || logprobs) tell(q, (news){ .text = text, .n_text = n, .token = logprobs ? &token : NULL });
    finish end = at_end(q);
    if (end) sequence_finish(q, end, NULL);
}

void sequence_embed(sequence *q, const float *hidden, size_t n) {
    size_t width = (size_t)shk_model_width(shk_session_model(q->session));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < width; j++) q->sum[j] += hidden[i * width + j];
}

/* The mean over the tokens, made as long as 1: the sum has the same direction. false: no memory. */
static bool tell_embedding(sequence *q) {
    size_t width = (size_t)shk_model_width(shk_session_model(q->session));
    double squares = 0;
    float *unit = shk_calloc(width, sizeof *unit);
    if (!unit) return false;
    for (size_t i = 0; i < width; i++) squares += q->sum[i] * q->sum[i];
    for (size_t i = 0; i < width && squares > 0; i++) unit[i] = (float)(q->sum[i] / sqrt(squares));
    tell(q, (news){ .text = "", .embedding = unit, .width = width, .finish = q->finish = FINISH_STOP });
    free(unit);
    return true;
}

void sequence_finish(sequence *q, finish how, const api_error *error) {
    static const api_error no_memory = { 503, "server_error", "", "", "out of memory" };
    size_t n = 0;
    if (q->finish) return;
    if (q->embeds && how == FINISH_STOP) {
        if (tell_embedding(q)) return;
        how = FINISH_FAILED;
        error = &no_memory;
    }
    q->finish = how;
    const char *text = shk_stream_take(&q->text, true, &n);
    tell(q, (news){ .text = text, .n_text = n, .finish = how, .error = error });
}
