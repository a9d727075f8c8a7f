/* Laws that need more than a golden prompt: windows that wrap many times, passes of many sequences, constant memory over a
 * million tokens, no allocation in a step, and that what sparsity skips is really not read. */
#include "../unit/scratch.h"
#include "sequence.h"

#include <math.h>

#include "model/model.h"

static const char *kv_type; /* of the models that are loaded; NULL: the default */

static shk_model *load_as(const char *name, int threads, bool exact) {
    char path[128];
    shk_model *m;
    shk_model_params p = { .threads = threads, .exact = exact, .kv_type = kv_type, .device = device };
    snprintf(path, sizeof path, "%s%s", *name == '/' ? "" : "tests/golden/", name);
    OK(shk_model_load(&m, path, &p, &err));
    return m;
}

static shk_model *load(const char *name, int threads) { return load_as(name, threads, false); }
/* Matrices where they lie in the file, for tests that look at them. */
static shk_model *load_plain(const char *name) { return load_as(name, 2, true); }

/* 700 tokens through windows of 16: one by one, all at once, and in uneven pieces must end in the same logits. */
static void test_long(const char *name) {
    const size_t N = brief() ? 100 : 700;
    shk_model *m = load(name, 2);
    size_t V = (size_t)shk_model_vocab_size(m);
    int32_t *tokens = random_tokens(malloc(N * sizeof *tokens), N, 7);
    float *a = malloc(V * sizeof *a), *b = malloc(V * sizeof *b);
    shk_session *s = session(m, N);
    advance(s, tokens, N, a);
    shk_session_reset(s);
    for (size_t i = 0; i < N; i++) advance(s, tokens + i, 1, i + 1 == N ? b : NULL);
    CHECK(memcmp(a, b, V * sizeof *a) == 0, "%s: %zu steps differ from one prefill", name, N);
    shk_session_reset(s);
    for (size_t i = 0, n = 2 * N / 7; i < N; i += n, n = n * 7 % 211 + 1) {
        if (n > N - i) n = N - i;
        advance(s, tokens + i, n, b);
    }
    CHECK(memcmp(a, b, V * sizeof *a) == 0, "%s: pieces differ from one prefill", name);
    shk_session_free(s);
    shk_model_free(m);
    free(tokens);
    free(a);
    free(b);
}

/* 200 sequences of different lengths, more than a pass holds, in one call and one by one. */
static void test_many(const char *name) {
    enum { MOST = 200 };
    const size_t N = brief() ? 24 : MOST;
    shk_model *m = load(name, 2);
    size_t V = (size_t)shk_model_vocab_size(m);
    int32_t *tokens = random_tokens(malloc(4 * N * sizeof *tokens), 4 * N, 9);
    float *a = malloc(N * V * sizeof *a), *b = malloc(V * sizeof *b);
    shk_span spans[MOST];
    for (size_t i = 0; i < N; i++) spans[i] = (shk_span){ session(m, 64), tokens + 3 * i, 1 + i % 50, a + i * V, 0 };
    OK(shk_advance(m, spans, N, &err));
    size_t wrong = 0;
    for (size_t i = 0; i < N; i++) {
        shk_session *s = session(m, 64);
        advance(s, spans[i].tokens, spans[i].n, b);
        wrong += memcmp(b, a + i * V, V * sizeof *b) != 0;
        shk_session_free(s);
        shk_session_free(spans[i].session);
    }
    CHECK(wrong == 0, "%s: %zu of %zu sequences differ in a batch", name, wrong, N);
    shk_model_free(m);
    free(tokens);
    free(a);
    free(b);
}

static size_t resident(void) {
    size_t pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "r");
    NEED(f && fscanf(f, "%zu %zu", &ignored, &pages) == 2, "/proc/self/statm");
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* The state and the resident memory of a recurrent model stay where they are over a million tokens. */
static void test_constant_memory(const char *name) {
    enum { PIECE = 8000 };
    const size_t total = test_short() ? 5 * PIECE : 1000000;
    shk_model *m = load(name, 1);
    int32_t *tokens = random_tokens(malloc(PIECE * sizeof *tokens), PIECE, 11);
    shk_session *s = session(m, 0);
    CHECK(shk_session_context(s) == 0, "%s: the context of a recurrent model is unbounded", name);
    advance(s, tokens, PIECE, NULL);
    size_t before = resident(), state = (size_t)shk_session_bytes(s);
    for (size_t i = PIECE; i < total; i += PIECE) advance(s, tokens, PIECE, NULL);
    size_t after = resident();
    CHECK(shk_session_position(s) == total, "%s: position", name);
    CHECK(shk_session_bytes(s) == state, "%s: the state grew from %zu to %zu bytes", name, state, (size_t)shk_session_bytes(s));
    /* a byte a token would show as 992,000; libc and a sanitizer have some pages of their own */
    CHECK(test_short() || after <= before + (1 << 18), "%s: resident memory grew from %zu to %zu bytes", name, before, after);
    printf("%-16s %zu tokens: state %zu bytes, resident %zu before, %zu after\n", name, total, state, before, after);
    shk_session_free(s);
    shk_model_free(m);
    free(tokens);
}

static void test_no_allocation(const char *name) {
    shk_model *m = load(name, 2);
    shk_session *s = session(m, 256);
    int32_t *tokens = random_tokens(malloc(200 * sizeof *tokens), 200, 13);
    float *logits = malloc((size_t)shk_model_vocab_size(m) * sizeof *logits);
    const shk_sampling how = { .temperature = 1, .top_k = 20, .top_p = 0.9f, .repeat_penalty = 1.1f, .repeat_last_n = 64 };
    shk_sampler *greedy, *drawing;
    int32_t id;
    OK(shk_sampler_new(&greedy, &(shk_sampling){ .top_p = 1, .repeat_penalty = 1 }, shk_model_vocab_size(m), &err));
    OK(shk_sampler_new(&drawing, &how, shk_model_vocab_size(m), &err));
    shk_span span = { .session = s, .tokens = tokens, .n = 1, .sampler = greedy, .sampled = &id };
    OK(shk_advance(m, &span, 1, &err));
    uint64_t before = shk_alloc_count();
    advance(s, tokens, 150, logits);
    for (int i = 0; i < 50; i++) advance(s, tokens + i, 1, logits);
    for (int i = 0; i < 4; i++) {
        span.sampler = i % 2 ? drawing : greedy;
        OK(shk_advance(m, &span, 1, &err));
        shk_sampler_accept(drawing, id);
    }
    CHECK(shk_alloc_count() == before, "%s: %llu allocations in a step", name, (unsigned long long)(shk_alloc_count() - before));
    shk_sampler_free(greedy);
    shk_sampler_free(drawing);
    shk_session_free(s);
    shk_model_free(m);
    free(tokens);
    free(logits);
}

/* The samplers of a span choose what they would choose from all logits, whatever their neighbours are, step after step. */
static void test_samplers(const char *name) {
    enum { MOST = 66 };
    static const shk_bias some[] = { { 7, 3 }, { 200, -INFINITY }, { 7, -0.125f }, { 9, 1.5f }, { 300, 100 }, { 300, -99 } };
    static const shk_sampling kinds[] = {
        { .top_p = 1, .repeat_penalty = 1 },
        { .temperature = 1, .top_k = 1, .top_p = 1, .repeat_penalty = 1 },
        { .temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .min_p = 0.02f, .repeat_penalty = 1 },
        { .temperature = 3, .top_k = 320, .top_p = 1, .repeat_penalty = 1 },
        { .temperature = 1.5f, .top_p = 1, .min_p = 0.3f, .repeat_penalty = 1 },
        { .temperature = 1, .top_p = 0.9f, .repeat_penalty = 1 },
        { .temperature = 1, .top_p = 1, .repeat_penalty = 1 },
        { .top_p = 1, .repeat_penalty = 1.5f, .repeat_last_n = 3 },
        { .temperature = 2, .top_k = 50, .top_p = 0.5f, .repeat_penalty = 1, .bias = some, .n_bias = 6 },
        { .temperature = 1, .top_p = 0.99f, .min_p = 0.001f, .repeat_penalty = 0.9f, .repeat_last_n = 8, .presence_penalty = 0.5f,
          .frequency_penalty = -0.25f, .bias = some, .n_bias = 3 },
        { .temperature = 1000, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64, .frequency_penalty = 2 },
    };
    enum { KINDS = sizeof kinds / sizeof *kinds };
    const size_t N = brief() ? 2 * KINDS : MOST, steps = brief() ? 2 : 6;
    shk_model *m = load(name, 2);
    size_t V = (size_t)shk_model_vocab_size(m), turned = 0, other = 0;
    int32_t *tokens = random_tokens(malloc(4 * N * sizeof *tokens), 4 * N, 15), sampled[MOST], id;
    float *whole = malloc(N * V * sizeof *whole), *beside = malloc(N * V * sizeof *beside);
    shk_sampler *chosen[MOST], *twin[MOST];
    shk_span spans[MOST];
    for (int round = 0; round < 2; round++) { /* alike side by side, which share a look at the matrix, and mixed */
        for (size_t i = 0; i < N; i++) {
            shk_sampling how = kinds[round ? i % KINDS : i * KINDS / N];
            how.seed = i;
            OK(shk_sampler_new(&chosen[i], &how, (int32_t)V, &err));
            OK(shk_sampler_new(&twin[i], &how, (int32_t)V, &err));
            spans[i] = (shk_span){ session(m, 64), tokens + 3 * i, 1 + i % 50 };
        }
        for (size_t step = 0; step < steps; step++) {
            for (size_t i = 0; i < N; i++) spans[i].sampler = NULL, spans[i].logits = whole + i * V;
            OK(shk_advance(m, spans, N, &err));
            for (size_t i = 0; i < N; i++) { /* the same again, with what samples; some want the logits too */
                shk_session_reset(spans[i].session);
                spans[i].sampler = chosen[i], spans[i].sampled = &sampled[i];
                spans[i].logits = (i + step) % 7 ? NULL : beside + i * V;
                sampled[i] = -1;
            }
            OK(shk_advance(m, spans, N, &err));
            for (size_t i = 0; i < N; i++) {
                OK(shk_sampler_sample(twin[i], whole + i * V, &id, &err));
                turned += id != sampled[i];
                other += spans[i].logits && memcmp(spans[i].logits, whole + i * V, V * sizeof *whole);
                shk_sampler_accept(chosen[i], id);
                shk_sampler_accept(twin[i], id);
                shk_session_reset(spans[i].session);
            }
        }
        for (size_t i = 0; i < N; i++) {
            shk_session_free(spans[i].session);
            shk_sampler_free(chosen[i]);
            shk_sampler_free(twin[i]);
        }
    }
    CHECK(!turned && !other, "%s: %zu choices and %zu rows of logits are others", name, turned, other);
    shk_model_free(m);
    free(tokens);
    free(whole);
    free(beside);
}

/* What a span says of its sampler that cannot be, and a sampler that has nothing to choose. */
static void test_refused_samplers(const char *name) {
    shk_model *m = load(name, 2);
    int32_t V = shk_model_vocab_size(m), id = -1;
    float *logits = malloc(2 * (size_t)V * sizeof *logits);
    shk_bias *none = malloc((size_t)V * sizeof *none);
    shk_sampler *p, *small, *empty;
    shk_sampling how = { .top_p = 1, .repeat_penalty = 1 };
    for (int32_t i = 0; i < V; i++) none[i] = (shk_bias){ i, -INFINITY };
    OK(shk_sampler_new(&p, &how, V, &err));
    OK(shk_sampler_new(&small, &how, V - 1, &err));
    how.bias = none, how.n_bias = (size_t)V;
    OK(shk_sampler_new(&empty, &how, V, &err));
    static const int32_t tokens[] = { 5, 6 };
    shk_session *s = session(m, 8), *t = session(m, 8);
    const shk_span bad[] = { { .session = s, .tokens = tokens, .n = 2, .sampler = p },
                             { .session = s, .tokens = tokens, .n = 2, .sampler = small, .sampled = &id },
                             { s, tokens, 2, logits, 1, p, &id } };
    for (size_t i = 0; i < 3; i++) {
        CHECK(shk_advance(m, &bad[i], 1, &err) == SHK_E_ARGUMENT && strstr(err.message, "sampler"), "%zu: %s", i, err.message);
        CHECK(shk_session_position(s) == 0, "it has moved");
    }
    const shk_span twice[] = { { s, tokens, 2, NULL, 0, p, &id }, { t, tokens, 2, NULL, 0, p, &id } };
    CHECK(shk_advance(m, twice, 2, &err) == SHK_E_ARGUMENT && strstr(err.message, "sampler"), "%s", err.message);
    const shk_span forbidden = { s, tokens, 2, NULL, 0, empty, &id };
    CHECK(shk_advance(m, &forbidden, 1, &err) == SHK_E_ARGUMENT && strstr(err.message, "forbidden"), "%s", err.message);
    int32_t alone, two[2] = { 7, 7 };
    shk_session_reset(s), shk_session_reset(t);
    OK(shk_advance(m, &(shk_span){ .session = t, .tokens = tokens, .n = 2, .sampler = p, .sampled = &alone }, 1, &err));
    shk_session_reset(t);
    const shk_span beside[] = { { .session = s, .tokens = tokens, .n = 2, .sampler = empty, .sampled = &two[0] },
                                { .session = t, .tokens = tokens, .n = 2, .sampler = p, .sampled = &two[1] } };
    CHECK(shk_advance(m, beside, 2, &err) == SHK_E_ARGUMENT && strstr(err.message, "forbidden"), "%s", err.message);
    CHECK(two[0] == -1 && two[1] == alone, "%s: beside a sampler without a choice: %d, %d", name, two[0], two[1]);
    shk_session_free(s);
    shk_session_free(t);
    shk_sampler_free(p);
    shk_sampler_free(small);
    shk_sampler_free(empty);
    shk_model_free(m);
    free(logits);
    free(none);
}

/* ---- what is skipped is not read ---- */

enum { MAX_LAYERS = 8, MAX_FFN = 512 };
static const shk_ops *real_ops;
static bool active_ever[MAX_LAYERS][MAX_FFN];
static uint32_t sparse_calls, sparse_layers;

/* A device that notes which neurons pass the threshold in each layer. */
static void noting_sparsify(void *dev, shk_active *out, const float *s, size_t T, size_t n, const shk_sparsity *how) {
    real_ops->sparsify(dev, out, s, T, n, how);
    bool *seen = active_ever[sparse_calls++ % sparse_layers];
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < out->n[t]; i++) seen[out->ids[t * out->max + i]] = true;
}

/* A copy of a matrix whose rows hold NaN where `poison` says so (for the sense: active or not). */
static void *poison_rows(shk_mat *m, const bool *active, bool sense) {
    float *data = malloc(m->rows * m->cols * sizeof *data);
    for (size_t r = 0; r < m->rows; r++) {
        shk_dequant_row(m->type, data + r * m->cols, (const char *)m->data + r * m->stride, m->cols);
        for (size_t c = 0; active[r] == sense && c < m->cols; c++) data[r * m->cols + c] = NAN;
    }
    *m = (shk_mat){ data, SHK_F32, m->rows, m->cols, m->cols * sizeof *data };
    return data;
}

static void test_skipped_rows(const char *name, bool prefill) {
    enum { N = 24 };
    shk_model *m = load_plain(name);
    size_t V = (size_t)shk_model_vocab_size(m), inactive = 0, neurons = 0;
    int32_t *tokens = random_tokens(malloc(N * sizeof *tokens), N, 17);
    float *a = malloc(V * sizeof *a), *b = malloc(V * sizeof *b);
    shk_ops ops = *m->ops;
    real_ops = m->ops;
    ops.sparsify = noting_sparsify;
    memset(active_ever, 0, sizeof active_ever);
    sparse_calls = sparse_layers = 0;
    for (uint32_t l = 0; l < m->config.n_layers; l++) sparse_layers += m->config.layers[l].mlp != SHK_MLP_GATED;
    m->ops = &ops;
    for (int poisoned = 0; poisoned < 3; poisoned++) { /* clean; inactive rows poisoned; active rows poisoned */
        void *copies[2 * MAX_LAYERS];
        size_t n_copies = 0;
        uint32_t sparse = 0;
        shk_layer saved[MAX_LAYERS];
        memcpy(saved, m->weights.layers, m->config.n_layers * sizeof *saved);
        for (uint32_t l = 0; poisoned && l < m->config.n_layers; l++) {
            shk_layer *w = &m->weights.layers[l];
            if (m->config.layers[l].mlp == SHK_MLP_GATED) continue;
            const bool *seen = active_ever[sparse++];
            copies[n_copies++] = poison_rows(&w->up, seen, poisoned == 2);
            copies[n_copies++] = poison_rows(&w->down_t, seen, poisoned == 2);
            for (size_t j = 0; poisoned == 1 && j < w->up.rows; j++) inactive += !seen[j], neurons++;
        }
        shk_session *s = session(m, N);
        shk_status st = SHK_OK;
        float *out = poisoned ? b : a;
        for (size_t i = 0; !st && i < N; i += prefill ? N : 1) {
            shk_span span = { s, tokens + i, prefill ? N : 1, out, 0 };
            st = shk_advance(m, &span, 1, &err);
        }
        if (poisoned == 2) CHECK(st == SHK_E_NUMERIC, "%s: a NaN in an active row went unnoticed", name);
        else CHECK(st == SHK_OK, "%s: %s", name, err.message);
        if (poisoned == 1) CHECK(memcmp(a, b, V * sizeof *a) == 0, "%s: inactive rows were read", name);
        shk_session_free(s);
        memcpy(m->weights.layers, saved, m->config.n_layers * sizeof *saved);
        while (n_copies) free(copies[--n_copies]);
    }
    CHECK(inactive * 10 > neurons, "%s: only %zu of %zu rows were never active: the test says little", name, inactive, neurons);
    m->ops = real_ops;
    shk_model_free(m);
    free(tokens);
    free(a);
    free(b);
}

/* A file that has the down projection of a sparse layer untransposed, in blocks, is computed another way: up rows are skipped, the
 * last matrix is whole. The same logits, but for the order of one sum. */
static void test_untransposed(const char *name) {
    enum { N = 24 };
    shk_model *m = load_plain(name);
    size_t V = (size_t)shk_model_vocab_size(m), changed = 0;
    int32_t *tokens = random_tokens(malloc(N * sizeof *tokens), N, 17);
    float *a = malloc(V * sizeof *a), *b = malloc(V * sizeof *b), *copies[MAX_LAYERS];
    shk_session *s = session(m, N);
    advance(s, tokens, N, a);
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        shk_layer *w = &m->weights.layers[l];
        if (!w->down_t.data) continue;
        size_t f = w->down_t.rows, d = w->down_t.cols;
        float *row = malloc(d * sizeof *row), *down = copies[changed++] = malloc(f * d * sizeof *down);
        for (size_t j = 0; j < f; j++) {
            shk_dequant_row(w->down_t.type, row, (const char *)w->down_t.data + j * w->down_t.stride, d);
            for (size_t i = 0; i < d; i++) down[i * f + j] = row[i];
        }
        free(row);
        w->down = (shk_mat){ down, SHK_F32, d, f, f * sizeof *down };
        w->down_t = (shk_mat){ 0 };
    }
    for (int prefill = 0; prefill < 2; prefill++) {
        double worst = 0;
        shk_session_reset(s);
        for (size_t i = 0; i < N; i += prefill ? N : 1) advance(s, tokens + i, prefill ? N : 1, b);
        for (size_t i = 0; i < V; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        CHECK(changed && worst < 5e-5, "%s: logits differ by %g with %zu layers untransposed", name, worst, changed);
    }
    while (changed) free(copies[--changed]);
    shk_session_free(s);
    shk_model_free(m);
    free(tokens);
    free(a);
    free(b);
}

/* Spark attention: a key's second part and its value are not read where the predictor leaves a position out. */
static void test_skipped_positions(void) {
    enum { N = 40, LAYER = 2 };
    shk_model *m = load("sparkhawk", 1);
    size_t V = (size_t)shk_model_vocab_size(m), D = m->config.head_dim, rest = D - m->config.attn_rank;
    int32_t *tokens = random_tokens(malloc((N + 1) * sizeof *tokens), N + 1, 19);
    float *clean = malloc(V * sizeof *clean), *out = malloc(V * sizeof *out);
    shk_session *s = session(m, N + 1), *fork;
    advance(s, tokens, N, NULL);
    OK(shk_session_fork(&fork, s, &err));
    advance(fork, tokens + N, 1, clean);
    shk_session_free(fork);

    /* the session's own memory, found as the session finds it */
    shk_state_layer at[3];
    NEED(m->kv_type == SHK_BF16, "what the session holds");
    shk_state_layout(&m->config, m->kv_type, N + 1, at);
    size_t skipped = 0, read = 0, both[N];
    for (size_t j = 0; j <= N; j++) { /* each position alone; then all that were not read, at once */
        OK(shk_session_fork(&fork, s, &err));
        char *state = shk_session_state(fork);
        for (size_t p = 0; p < (j < N ? 1 : skipped); p++)
            for (size_t h = 0; h < m->config.kv_heads; h++) {
                size_t pos = j < N ? j : both[p];
                uint16_t *k2 = (uint16_t *)(void *)(state + at[LAYER].k2) + (h * at[LAYER].ring + pos) * rest;
                uint16_t *v = (uint16_t *)(void *)(state + at[LAYER].v) + (h * at[LAYER].ring + pos) * D;
                for (size_t i = 0; i < rest; i++) k2[i] = shk_f32_to_bf16(NAN);
                for (size_t i = 0; i < D; i++) v[i] = shk_f32_to_bf16(NAN);
            }
        shk_span span = { fork, tokens + N, 1, out, 0 };
        shk_status st = shk_advance(m, &span, 1, &err);
        bool same = st == SHK_OK && memcmp(out, clean, V * sizeof *out) == 0;
        if (j < N && same) both[skipped++] = j;
        else if (j < N) read++;
        CHECK(j < N ? same || st == SHK_E_NUMERIC : same, "position %zu of %d: %s", j, N, st ? err.message : "the logits changed");
        shk_session_free(fork);
    }
    CHECK(skipped > 0 && read > 0 && read < N / 2 + m->config.heads * 8, "%zu positions read, %zu skipped", read, skipped);
    printf("sparkhawk        %zu of %d positions read by any head, %zu skipped\n", read, N, skipped);
    shk_session_free(s);
    shk_model_free(m);
    free(tokens);
    free(clean);
    free(out);
}

/* Packed matrices and rounded activations keep the laws, and are what a model has unless it is `exact`. */
static void test_quantized(const char *name) {
    enum { N = 40 };
    static const char *const types[] = { "q8_0", "q4_0" };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char from[64], file[64];
        snprintf(from, sizeof from, "tests/golden/%s", name);
        snprintf(file, sizeof file, "%s-%s.gguf", name, types[i]);
        const char *path = scratch(file);
        OK(shk_convert(from, path, &(shk_convert_options){ .type = types[i] }, &err));
        test_long(path);
        test_many(path);
        test_no_allocation(path);

        if (device != SHK_DEVICE_CPU) continue; /* nothing is rounded to 8 bits */
        shk_model *rounded = load(path, 2), *exact = load_plain(path);
        size_t V = (size_t)shk_model_vocab_size(exact);
        int32_t *tokens = random_tokens(malloc(N * sizeof *tokens), N, 23);
        float *a = malloc(V * sizeof *a), *b = malloc(V * sizeof *b);
        shk_session *s = session(rounded, N), *t = session(exact, N);
        advance(s, tokens, N, a);
        advance(t, tokens, N, b);
        CHECK(memcmp(a, b, V * sizeof *a), "%s: nothing is rounded", path);
        shk_session_free(s);
        shk_session_free(t);
        shk_model_free(rounded);
        shk_model_free(exact);
        free(tokens);
        free(a);
        free(b);
    }
}

/* Every kind of mixer, with heads that are whole blocks of every type, over several of attention's chunks: a window that is wider
 * than a chunk and a ring that wraps. */
static void test_wide(void) {
    static const char *const types[] = { "f32", "bf16", "q8_0" };
    static const char config[] =
        "{ \"model_type\": \"sparkhawk\", \"vocab_size\": 320, \"hidden_size\": 64, \"intermediate_size\": 96,"
        " \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 64, \"sliding_window\": 150,"
        " \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-6, \"query_pre_attn_scalar\": 64, \"attn_logit_softcapping\": 20.0,"
        " \"tie_word_embeddings\": true, \"lru_width\": 64, \"lru_blocks\": 4, \"conv1d_width\": 4, \"spark_attn_rank\": 32,"
        " \"spark_attn_k\": 40,"
        " \"num_hidden_layers\": 4, \"mixers\": [\"local\", \"recurrent\", \"spark\", \"global\"],"
        " \"mlps\": [\"gated\", \"gated\", \"gated\", \"gated\"] }";
    const char *path = scratch("config.json"), *model = scratch("wide.gguf");
    FILE *f = fopen(path, "w");
    NEED(f && fputs(config, f) >= 0 && !fclose(f), "%s", path);
    OK(shk_init(path, model, "f32", 5, &err));
    for (size_t i = 0; i < 3; i++) {
        kv_type = types[i];
        test_long(model);
        test_many(model);
        test_no_allocation(model);
    }
    kv_type = NULL;
}

int main(void) {
    static const char *const all[] = { "gemma",     "gemma2",   "gemma3", "gemma3n", "recurrentgemma", "spark",
                                       "spark-ffn", "topk-ffn", "hawk",   "griffin", "sparkhawk" };
    shk_device last = test_has(SHK_DEVICE_CUDA) ? SHK_DEVICE_CUDA : SHK_DEVICE_CPU;
    for (; device <= last; device++)
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            if (left_out(all[i])) continue;
            test_long(all[i]);
            test_many(all[i]);
            test_no_allocation(all[i]);
            test_samplers(all[i]);
            test_refused_samplers(all[i]);
            test_quantized(all[i]);
        }
    device = SHK_DEVICE_CPU;
    static const char *const sparse[] = { "spark", "spark-ffn", "topk-ffn", "sparkhawk", "gemma3n" };
    for (size_t i = 0; i < sizeof sparse / sizeof *sparse; i++) {
        test_skipped_rows(sparse[i], false);
        test_skipped_rows(sparse[i], true);
        test_untransposed(sparse[i]);
    }
    test_wide();
    test_skipped_positions();
    test_constant_memory("griffin");
    test_constant_memory("recurrentgemma");
    return test_done();
}
