/* Sessions beyond advancing: going back, hidden states, the share of active neurons. All to the bit. */
#include "../unit/scratch.h"
#include "sequence.h"

#include <jansson.h>
#include <math.h>

#include "model/model.h"

enum { N = 700 };

static shk_model *load(const char *name, bool exact) {
    char path[128];
    shk_model *m;
    shk_model_params p = { .threads = 2, .exact = exact, .device = device };
    snprintf(path, sizeof path, "tests/golden/%s", name);
    OK(shk_model_load(&m, path, &p, &err));
    return m;
}

/* From `at` tokens of `read` back to `to`, then on with other tokens: as if those had been the only ones. */
static void check_back(shk_model *m, const char *name, size_t read, size_t to) {
    size_t V = (size_t)shk_model_vocab_size(m);
    int32_t tokens[N], others[20];
    float *a = malloc(V * sizeof *a), *b = malloc(V * sizeof *b);
    shk_session *s = session(m, N + 100), *fresh = session(m, N + 100), *fork;
    random_tokens(tokens, N, 3);
    random_tokens(others, 20, 4);
    advance(s, tokens, read, NULL);
    OK(shk_session_truncate(s, to, &err));
    OK(shk_session_fork(&fork, s, &err));
    advance(s, others, 20, a);
    advance(fresh, tokens, to, NULL);
    advance(fresh, others, 20, b);
    CHECK(memcmp(a, b, V * sizeof *a) == 0, "%s: from %zu back to %zu differs", name, read, to);
    CHECK(shk_session_earliest(fork) <= to, "%s: a fork knows less", name);
    advance(fork, others, 20, a);
    CHECK(memcmp(a, b, V * sizeof *a) == 0, "%s: from %zu back to %zu, its fork differs", name, read, to);
    shk_session_free(fork);
    shk_session_free(fresh);
    shk_session_free(s);
    free(a);
    free(b);
}

static void test_back(const char *name) {
    shk_model *m = load(name, false);
    shk_session *s = session(m, N + 100), *again = session(m, N + 100);
    int32_t tokens[N];
    size_t widest = 0;
    bool recurrent = false;
    random_tokens(tokens, N, 3);
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        recurrent |= m->config.layers[l].mixer == SHK_MIXER_RECURRENT;
        if (m->config.layers[l].window > widest) widest = m->config.layers[l].window;
    }
    CHECK(shk_session_earliest(s) == 0, "%s: a new session", name);
    static const size_t reads[] = { 5, 100, 300, N };
    for (size_t i = 0; i < 4; i += brief() ? 2 : 1) {
        size_t read = reads[i];
        shk_session_reset(s);
        advance(s, tokens, read, NULL);
        size_t earliest = (size_t)shk_session_earliest(s);
        if (recurrent) CHECK(earliest == read, "%s: a recurrent state knows its past", name);
        else
            CHECK(widest ? earliest + 100 <= read || !earliest : !earliest, "%s: %zu can go back to %zu only", name, read,
                  earliest);
        CHECK(shk_session_truncate(s, read + 1, NULL) == SHK_E_ARGUMENT, "%s: forward", name);
        if (earliest) CHECK(shk_session_truncate(s, earliest - 1, NULL) == SHK_E_ARGUMENT, "%s: before the earliest", name);
        CHECK(shk_session_position(s) == read, "%s: a refusal moves nothing", name);
        if (earliest > 0 && !recurrent) {
            OK(shk_session_truncate(s, earliest, &err));
            CHECK(shk_session_earliest(s) == earliest, "%s: what is lost stays lost", name);
            const char *path = scratch("state");
            OK(shk_session_save(s, path, &err));
            OK(shk_session_restore(again, path, &err));
            CHECK(shk_session_earliest(again) == earliest, "%s: a file knows no more", name);
        }
        check_back(m, name, read, earliest);
        check_back(m, name, read, (earliest + read) / 2);
    }
    shk_session_free(again);
    shk_session_free(s);
    shk_model_free(m);
}

/* Hidden states do not depend on how tokens are divided or on logits asked for beside them; and logits are their products. */
static void test_hidden(const char *name) {
    enum { TOKENS = 150 };
    shk_model *m = load(name, true);
    size_t V = (size_t)shk_model_vocab_size(m), d = (size_t)shk_model_width(m);
    int32_t tokens[TOKENS];
    float *a = malloc(TOKENS * d * sizeof *a), *b = malloc(TOKENS * d * sizeof *b), *logits = malloc(V * sizeof *logits);
    shk_session *s = session(m, N + 100);
    random_tokens(tokens, TOKENS, 5);
    OK(shk_advance(m, &(shk_span){ .session = s, .tokens = tokens, .n = TOKENS, .hidden = a }, 1, &err));
    shk_session_reset(s);
    for (size_t i = 0; i < TOKENS; i += 7) {
        size_t n = TOKENS - i < 7 ? TOKENS - i : 7;
        OK(shk_advance(m, &(shk_span){ .session = s, .tokens = tokens + i, .n = n, .hidden = b + i * d, .logits = logits }, 1,
                       &err));
    }
    CHECK(memcmp(a, b, TOKENS * d * sizeof *a) == 0, "%s: hidden states differ", name);
    const float *last = a + (TOKENS - 1) * d, *W = m->weights.output.data;
    float *row = malloc(d * sizeof *row);
    size_t wrong = 0;
    for (size_t v = 0; v < V && device == SHK_DEVICE_CPU; v++) {
        double sum = 0, size = 0, cap = m->config.final_softcap;
        shk_dequant_row(m->weights.output.type, row, (const char *)W + v * m->weights.output.stride, d);
        for (size_t i = 0; i < d; i++) sum += (double)row[i] * last[i], size += fabs((double)row[i] * last[i]);
        double bound = (double)d * 0x1p-23 * size + 1e-6; /* of a sum of d terms in f32; the tanh below has a slope of at most 1 */
        if (cap > 0) sum = cap * tanh(sum / cap);
        wrong += !(fabs(logits[v] - sum) <= bound + 1e-5 * fabs(sum));
    }
    CHECK(!wrong, "%s: %zu of %zu logits are not what the hidden state gives", name, wrong, V);
    shk_session_free(s);
    shk_model_free(m);
    free(a);
    free(b);
    free(row);
    free(logits);
}

/* The shares are the counts that recording gives, for the last token, in a batch too. */
static void test_active(const char *name) {
    enum { TOKENS = 40 };
    shk_model *m = load(name, false);
    size_t layers = (size_t)shk_model_layers(m), wrong = 0, sparse = 0;
    int32_t tokens[TOKENS];
    float *active = malloc(layers * sizeof *active), *batched = malloc(layers * sizeof *batched);
    char *json, key[24];
    shk_session *s = session(m, N + 100), *other = session(m, N + 100);
    random_tokens(tokens, TOKENS, 6);
    shk_model_record(m, 1);
    OK(shk_advance(m, &(shk_span){ .session = s, .tokens = tokens, .n = TOKENS, .active = active }, 1, &err));
    OK(shk_model_recorded(m, &json, &err));
    shk_model_record(m, 0);
    json_t *recorded = json_loads(json, 0, NULL), *ffn = json_object_get(recorded, "ffn");
    for (size_t l = 0; l < layers; l++) {
        snprintf(key, sizeof key, "%zu", l);
        json_t *list = json_object_get(ffn, key);
        json_int_t n = json_integer_value(json_array_get(list, TOKENS - 1));
        sparse += list != NULL;
        wrong += active[l] != (list ? (float)n / (float)m->config.layers[l].ffn : -1);
    }
    size_t V = (size_t)shk_model_vocab_size(m);
    float *with = malloc(V * sizeof *with), *without = malloc(V * sizeof *without);
    for (int i = 0; i < 2; i++) {
        shk_session_reset(s);
        shk_span span = { .session = s, .tokens = tokens, .n = TOKENS, .logits = i ? with : without, .active = i ? batched : NULL };
        OK(shk_advance(m, &span, 1, &err));
    }
    CHECK(memcmp(with, without, V * sizeof *with) == 0, "%s: logits depend on whether shares are wanted", name);
    free(with), free(without);
    shk_session_reset(s);
    shk_span spans[] = { { .session = other, .tokens = tokens + 3, .n = 20 },
                         { .session = s, .tokens = tokens, .n = TOKENS, .active = batched } };
    OK(shk_advance(m, spans, 2, &err));
    CHECK(!wrong, "%s: %zu shares are not what was counted", name, wrong);
    CHECK((sparse > 0) == (strstr(name, "ffn") || !strcmp(name, "spark") || !strcmp(name, "sparkhawk") || !strcmp(name, "gemma3n")),
          "%s has %zu sparse layers", name, sparse);
    CHECK(memcmp(active, batched, layers * sizeof *active) == 0, "%s: shares depend on the batch", name);
    json_decref(recorded);
    free(json);
    shk_session_free(other);
    shk_session_free(s);
    shk_model_free(m);
    free(active);
    free(batched);
}

static void test_sizes(void) {
    shk_model *a = load("gemma", false), *b = load("hawk", false), *c;
    shk_model_params p = { .threads = 1, .kv_type = "f32" };
    OK(shk_model_load(&c, "tests/golden/gemma", &p, &err));
    CHECK(shk_model_fingerprint(a) != shk_model_fingerprint(b) && shk_model_fingerprint(a) != shk_model_fingerprint(c),
          "models and types of keys have their own fingerprints");
    shk_session *s = session(a, N + 100), *r = session(b, N + 100);
    int32_t tokens[N];
    random_tokens(tokens, N, 3);
    advance(s, tokens, N, NULL);
    advance(r, tokens, N, NULL);
    CHECK(shk_session_bytes(s) == shk_session_dense_bytes(s), "gemma keeps every position of every layer");
    CHECK(shk_session_bytes(r) < shk_session_dense_bytes(r), "hawk does not");
    shk_session_free(s);
    shk_session_free(r);
    shk_model_free(a);
    shk_model_free(b);
    shk_model_free(c);
}

/* Griffin with one byte of a tensor changed; its own fingerprint if `tensor` is NULL. */
static uint64_t changed(const shk_tensors *t, const shk_tensor *tensor, size_t at) {
    const shk_map *file = &t->maps[0];
    size_t i = tensor ? (size_t)((const uint8_t *)tensor->data - file->data) + at : 0;
    shk_model *m;
    uint8_t *copy = malloc(file->size);
    NEED(copy, "memory");
    memcpy(copy, file->data, file->size);
    copy[i] ^= (uint8_t)(tensor != NULL);
    scratch_file("griffin/model.safetensors", copy, file->size);
    free(copy);
    OK(shk_model_load(&m, scratch("griffin"), &(shk_model_params){ .threads = 1 }, &err));
    uint64_t print = shk_model_fingerprint(m);
    shk_model_free(m);
    return print;
}

static void test_fingerprint(void) {
    shk_model *m = load("griffin", false);
    const shk_tensors *t = shk_model_tensors(m);
    shk_map config;
    NEED(mkdir(scratch("griffin"), 0700) == 0, "mkdir");
    OK(shk_map_open(&config, "tests/golden/griffin/config.json", &err));
    scratch_file("griffin/config.json", config.data, config.size);
    shk_map_close(&config);
    uint64_t own = changed(t, NULL, 0);
    CHECK(own == shk_model_fingerprint(m), "a copy has another fingerprint");
    for (size_t i = 0; i < t->n; i += 7) {
        const shk_tensor *x = &t->items[i];
        size_t places[] = { 0, (x->n_bytes - 1) * 2 / 7, x->n_bytes - 1 };
        for (size_t p = 0; p < 3; p++)
            CHECK(changed(t, x, places[p]) != own, "%s: a change at %zu of %zu is not seen", x->name, places[p], x->n_bytes);
    }
    shk_model_free(m);
}

int main(void) {
    static const char *const all[] = { "gemma",     "gemma2",   "gemma3", "gemma3n", "recurrentgemma", "spark",
                                       "spark-ffn", "topk-ffn", "hawk",   "griffin", "sparkhawk" };
    shk_device last = test_has(SHK_DEVICE_CUDA) ? SHK_DEVICE_CUDA : SHK_DEVICE_CPU;
    for (; device <= last; device++)
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            if (left_out(all[i])) continue;
            test_back(all[i]);
            test_hidden(all[i]);
            test_active(all[i]);
        }
    device = SHK_DEVICE_CPU;
    test_sizes();
    test_fingerprint();
    return test_done();
}
