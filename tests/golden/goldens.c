/* Every checkpoint in tests/golden against what its reference implementation computes from it: logits, greedy continuation, and
 * the active counts of the sparse kinds. Also the laws that hold for every architecture: prefill = steps, chunked = whole, a
 * batch = its members, fork and restore = never stopped, any number of threads. */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "file/safetensors.h"
#include "sparkhawk.h"
#include "../device.h"

/* What an f32 computation may differ by: an independent f64 one of recurrentgemma is 3e-6 from its reference. */
static const double LOGIT_BOUND = 5e-5;
/* The GPU has activations to 2^-18 where f32 has them to 2^-24: 64 times the 1e-5 that the CPU differs by at most, on gemma3n. */
static const double GPU_BOUND = 64 * 1e-5;

static const char *folder = "tests/golden";

typedef struct golden {
    const char *name;
    char path[512];
    shk_tensors t;
    const int32_t *tokens, *greedy;
    const float *logits;
    size_t T, G, V;
    shk_device device;
    shk_model *m;
} golden;

static shk_error err;
#define OK(call) NEED((call) == SHK_OK, "%s: %s", g->name, err.message)

static shk_session *session(golden *g) {
    shk_session *s;
    OK(shk_session_new(&s, g->m, 128, &err));
    return s;
}

static void advance(golden *g, shk_session *s, const int32_t *tokens, size_t n, float *logits, int all) {
    shk_span span = { s, tokens, n, logits, all };
    OK(shk_advance(g->m, &span, 1, &err));
}

static double worst(const float *a, const float *b, size_t n) {
    double w = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]);
        if (!(e <= w)) w = e; /* a NaN sticks */
    }
    return w;
}

static int32_t argmax(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

static void test_logits(golden *g, float *whole) {
    shk_session *s = session(g);
    advance(g, s, g->tokens, g->T, whole, 1);
    double w = worst(whole, g->logits, g->T * g->V);
    CHECK(w <= (g->device ? GPU_BOUND : LOGIT_BOUND), "%s: logits differ by %.3g", g->name, w);
    printf("%-16s %s: logits within %.2g\n", g->name, g->device ? "cuda" : "cpu ", w);
    const float *last = whole + (g->T - 1) * g->V;
    float *next = malloc(g->V * sizeof *next);
    for (size_t i = 0; i < g->G; i++) {
        int32_t id = argmax(last, g->V);
        CHECK(id == g->greedy[i], "%s: greedy token %zu is %d, the reference has %d", g->name, i, id, g->greedy[i]);
        advance(g, s, &id, 1, next, 0);
        last = next;
    }
    free(next);
    shk_session_free(s);
}

/* To the bit: steps, uneven chunks, and a batch of two at different positions. */
static void test_laws(golden *g, const float *whole) {
    float *a = malloc(g->T * g->V * sizeof *a), *b = malloc(g->V * sizeof *b);
    shk_session *s = session(g), *s2 = session(g), *fork, *restored = session(g);
    for (size_t t = 0; t < g->T; t++) advance(g, s, g->tokens + t, 1, a + t * g->V, 0);
    CHECK(memcmp(a, whole, g->T * g->V * sizeof *a) == 0, "%s: steps differ from prefill by %g", g->name,
          worst(a, whole, g->T * g->V));
    shk_session_reset(s);
    CHECK(shk_session_position(s) == 0, "%s: reset", g->name);
    for (size_t t = 0, n = 1; t < g->T; t += n, n = n % 17 + 3) {
        size_t k = t + n > g->T ? g->T - t : n;
        advance(g, s, g->tokens + t, k, a + t * g->V, 1);
    }
    CHECK(memcmp(a, whole, g->T * g->V * sizeof *a) == 0, "%s: chunks differ from the whole by %g", g->name,
          worst(a, whole, g->T * g->V));

    shk_session_reset(s);
    size_t half = g->T / 2 + 1, at = 0;
    advance(g, s, g->tokens, half, NULL, 0);
    while (at + half < g->T) {
        shk_span both[2] = { { s, g->tokens + half + at, 1, a, 0 }, { s2, g->tokens + at, 1, b, 0 } };
        OK(shk_advance(g->m, both, 2, &err));
        CHECK(memcmp(a, whole + (half + at) * g->V, g->V * sizeof *a) == 0, "%s: batch member 1 differs at %zu", g->name, at);
        CHECK(memcmp(b, whole + at * g->V, g->V * sizeof *b) == 0, "%s: batch member 2 differs at %zu", g->name, at);
        at++;
    }

    char path[64];
    snprintf(path, sizeof path, "/tmp/shk_golden_%d.state", (int)getpid());
    OK(shk_session_save(s2, path, &err));
    OK(shk_session_fork(&fork, s2, &err));
    advance(g, s2, g->tokens + at, 1, b, 0); /* the original moves on; the copies must not notice */
    OK(shk_session_restore(restored, path, &err));
    unlink(path);
    shk_session *copies[2] = { fork, restored };
    for (int i = 0; i < 2; i++) {
        CHECK(shk_session_position(copies[i]) == at, "%s: position of a copy", g->name);
        advance(g, copies[i], g->tokens + at, g->T - at, a + at * g->V, 1);
        CHECK(memcmp(a + at * g->V, whole + at * g->V, (g->T - at) * g->V * sizeof *a) == 0, "%s: %s differs", g->name,
              i ? "restored" : "fork");
        shk_session_free(copies[i]);
    }
    shk_session_free(s);
    shk_session_free(s2);
    free(a);
    free(b);
}

/* Counts per layer and position (and head). A value at the threshold may fall either way: one may differ by rounding. */
static void test_active(golden *g) {
    shk_session *s = session(g);
    char *text;
    shk_model_record(g->m, 1);
    advance(g, s, g->tokens, g->T, NULL, 0);
    OK(shk_model_recorded(g->m, &text, &err));
    shk_model_record(g->m, 0);
    json_t *counts = json_loads(text, 0, NULL);
    size_t compared = 0;
    for (size_t i = 0; i < g->t.n; i++) {
        const shk_tensor *t = &g->t.items[i];
        bool ffn = strncmp(t->name, "ffn_active.", 11) == 0, attn = strncmp(t->name, "attn_active.", 12) == 0;
        if (!ffn && !attn) continue;
        compared++;
        json_t *list = json_object_get(json_object_get(counts, ffn ? "ffn" : "attn"), strchr(t->name, '.') + 1);
        CHECK(json_array_size(list) == t->shape[0], "%s: %s has %zu positions", g->name, t->name, json_array_size(list));
        size_t wrong = 0, group = t->n_dims == 2 ? (size_t)t->shape[1] : 1;
        for (size_t j = 0; j < t->n_elem; j++) {
            json_t *row = json_array_get(list, j / group);
            int32_t want, have = (int32_t)json_integer_value(attn ? json_array_get(row, j % group) : row);
            memcpy(&want, (const char *)t->data + j * 4, 4);
            wrong += (size_t)abs(want - have);
        }
        CHECK(wrong <= 1, "%s: %s: counts differ by %zu in all", g->name, t->name, wrong);
    }
    size_t recorded = json_object_size(json_object_get(counts, "ffn")) + json_object_size(json_object_get(counts, "attn"));
    bool native = strstr(g->name, "gemma") == NULL; /* transformers has no counts to compare with */
    CHECK(!native || compared == recorded, "%s: %zu sparse slots recorded, %zu compared", g->name, recorded, compared);
    json_decref(counts);
    free(text);
    shk_session_free(s);
}

static void load(golden *g, const char *kv_type, int threads, int dense) {
    shk_model_params p = { .threads = threads, .dense = dense, .exact = 1, .kv_type = kv_type, .device = g->device };
    OK(shk_model_load(&g->m, g->path, &p, &err));
}

static void prefill(golden *g, float *logits) {
    shk_session *s = session(g);
    advance(g, s, g->tokens, g->T, logits, 1);
    shk_session_free(s);
}

/* With keys and values of a type. `exact` are the logits that f32 gives. */
static void test_laws_of(golden *g, const char *kv_type, const float *exact) {
    size_t n = g->T * g->V;
    float *whole = malloc(n * sizeof *whole), *other = malloc(n * sizeof *other);
    load(g, kv_type, 2, 0);
    prefill(g, whole);
    test_laws(g, whole);
    shk_model_free(g->m);
    double rounding = worst(whole, exact, n);
    bool same = memcmp(whole, exact, n * sizeof *whole) == 0, attends = strcmp(g->name, "hawk") != 0;
    CHECK(same == (!strcmp(kv_type, "f32") || !attends), "%s: %s for keys and values makes %s", g->name, kv_type,
          same ? "no difference" : "a difference");
    for (int i = 0; i < 3; i++) { /* 1 thread, 3 threads, and sparse layers computed densely */
        load(g, kv_type, i == 0 ? 1 : 3, i == 2);
        prefill(g, other);
        double w = worst(other, whole, n);
        /* on a GPU the zeros of inactive rows come between the terms of a sum, in another grouping: keys may then be rounded the
         * other way */
        bool sums = i == 2 && g->device, same_bits = !memcmp(other, whole, n * sizeof *whole);
        CHECK(sums ? w <= GPU_BOUND + rounding : same_bits, "%s: variant %d differs by %g", g->name, i, w);
        shk_model_free(g->m);
    }
    free(whole);
    free(other);
}

/* A session begun on one device goes on on the other. */
static void test_crossing(golden *g) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/shk_crossing_%d.state", (int)getpid());
    char file[600];
    snprintf(file, sizeof file, "%s/golden.safetensors", g->path);
    NEED(shk_safetensors_open(&g->t, file, &err) == SHK_OK, "%s", err.message);
    g->tokens = shk_tensors_find(&g->t, "tokens")->data, g->logits = shk_tensors_find(&g->t, "logits")->data;
    float *next = malloc(g->V * sizeof *next);
    for (int from = SHK_DEVICE_CPU; from <= SHK_DEVICE_CUDA; from++) {
        size_t half = g->T / 2;
        g->device = (shk_device)from;
        load(g, "f32", 2, 0);
        shk_session *s = session(g);
        advance(g, s, g->tokens, half, NULL, 0);
        OK(shk_session_save(s, path, &err));
        shk_session_free(s);
        shk_model_free(g->m);
        g->device = (shk_device)!from;
        load(g, "f32", 2, 0);
        s = session(g);
        OK(shk_session_restore(s, path, &err));
        for (size_t t = half; t < g->T; t++) {
            advance(g, s, g->tokens + t, 1, next, 0);
            double w = worst(next, g->logits + t * g->V, g->V);
            CHECK(w <= GPU_BOUND, "%s: position %zu, after changing to %s, differs by %g", g->name, t,
                  from ? "the CPU" : "the GPU", w);
        }
        shk_session_free(s);
        shk_model_free(g->m);
    }
    unlink(path);
    free(next);
    shk_tensors_free(&g->t);
}

static void test(golden *g) {
    char file[600];
    snprintf(file, sizeof file, "%s/golden.safetensors", g->path);
    OK(shk_safetensors_open(&g->t, file, &err));
    const shk_tensor *tokens = shk_tensors_find(&g->t, "tokens"), *logits = shk_tensors_find(&g->t, "logits"),
                     *greedy = shk_tensors_find(&g->t, "greedy");
    NEED(tokens && logits && greedy, "%s: tokens, logits, greedy", file);
    g->T = tokens->n_elem, g->G = greedy->n_elem, g->V = (size_t)logits->shape[1];
    g->tokens = tokens->data, g->greedy = greedy->data, g->logits = logits->data;

    float *whole = malloc(g->T * g->V * sizeof *whole);
    load(g, "f32", 2, 0); /* what the references keep keys and values in */
    test_logits(g, whole);
    test_active(g);
    shk_model_free(g->m);
    test_laws_of(g, "f32", whole);
    if (!g->device || !test_short()) test_laws_of(g, "bf16", whole);
    free(whole);
    shk_tensors_free(&g->t);
}

int main(int argc, char **argv) {
    bool gpu = test_has(SHK_DEVICE_CUDA);
    DIR *d = opendir(folder);
    NEED(d, "%s: run from the top of the tree", folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        golden g = { .name = e->d_name };
        char config[600];
        snprintf(g.path, sizeof g.path, "%s/%s", folder, e->d_name);
        snprintf(config, sizeof config, "%s/config.json", g.path);
        if (e->d_name[0] == '.' || access(config, R_OK) != 0 || (argc > 1 && strcmp(argv[1], e->d_name) != 0)) continue;
        for (g.device = SHK_DEVICE_CPU; g.device <= (gpu ? SHK_DEVICE_CUDA : SHK_DEVICE_CPU); g.device++) test(&g);
        if (gpu) test_crossing(&g);
        n++;
    }
    closedir(d);
    CHECK(n == (argc > 1 ? 1 : 11), "%d checkpoints found", n);
    return test_done();
}
