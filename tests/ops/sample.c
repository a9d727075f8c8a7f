/* The choice of tokens on the GPU beside shk_sampler_sample: the same ids for the same seeds, for logits of every shape. */
#include <math.h>

#include "../device.h"
#include "model/model.h"

static const shk_ops *ops;
static void *dev;
static shk_error err;
static unsigned long long seed = 7;

/* 50 biases, some of them of one token; which, fill_biases says */
enum { BIASES = 50, STEPS = 6 };
static shk_bias biases[BIASES];

static const shk_sampling kinds[] = {
    { .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 1, .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 0.3f, .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 1000, .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 1e-6f, .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 1, .top_p = 1, .min_p = 0.05f, .repeat_penalty = 1 },
    { .temperature = 1, .top_p = 1, .min_p = 1, .repeat_penalty = 1 },
    { .temperature = 1, .top_k = 1, .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 1, .top_k = 64, .top_p = 0.95f, .repeat_penalty = 1 },
    { .temperature = 1, .top_k = 64, .top_p = 1, .min_p = 0.1f, .repeat_penalty = 1 },
    { .temperature = 5, .top_k = 999, .top_p = 0.7f, .min_p = 0.01f, .repeat_penalty = 1 },
    { .temperature = 1000, .top_k = 1024, .top_p = 1, .repeat_penalty = 1 },
    { .temperature = 2, .top_k = 20000, .top_p = 0.9f, .repeat_penalty = 1 },
    { .temperature = 1, .top_k = 300000, .top_p = 0.9f, .repeat_penalty = 1 },
    { .temperature = 1, .top_p = 0.5f, .repeat_penalty = 1 },
    { .temperature = 1, .top_p = 0, .repeat_penalty = 1 },
    { .temperature = 3, .top_p = 0.9f, .repeat_penalty = 1 },
    { .temperature = 1000, .top_p = 0.99f, .repeat_penalty = 1 },
    { .temperature = 3, .top_p = 0.95f, .min_p = 0.2f, .repeat_penalty = 1 },
    { .temperature = 3, .top_p = 0.3f, .min_p = 0.001f, .repeat_penalty = 1 },
    { .temperature = 0.01f, .top_p = 0.9f, .repeat_penalty = 1 },
    { .top_p = 1, .repeat_penalty = 1, .bias = biases, .n_bias = BIASES },
    { .temperature = 1, .top_p = 1, .repeat_penalty = 1, .bias = biases, .n_bias = BIASES },
    { .temperature = 1, .top_k = 10, .top_p = 0.9f, .repeat_penalty = 1.3f, .repeat_last_n = 64, .bias = biases, .n_bias = 20 },
    { .top_p = 1, .repeat_penalty = 2, .repeat_last_n = 30 },
    { .temperature = 1, .top_p = 0.8f, .repeat_penalty = 0.7f, .repeat_last_n = 40, .presence_penalty = 1.5f,
      .frequency_penalty = -0.3f },
    { .temperature = 0.5f, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 5, .frequency_penalty = 0.7f },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* What logits look like. Of EQUAL and STEPPED thousands are equal, which the device may leave to the host. */
typedef enum shape { BELL, FLAT, PEAK, FALLING, RISING, HOLES, OUTLIER, EQUAL, STEPPED, INFINITE, NO_NUMBER, EMPTY, SHAPES } shape;
static const char *const names[] = { "bell",    "flat",  "peak",    "falling",  "rising",      "holes",
                                     "outlier", "equal", "stepped", "infinite", "no number", "empty" };

static void fill_row(float *x, size_t n, shape s) {
    for (size_t i = 0; i < n; i++) {
        double u = test_uniform(&seed), bell = u + test_uniform(&seed) + test_uniform(&seed) + test_uniform(&seed) - 2;
        x[i] = (float)(s == FLAT ? u : s == FALLING ? -1e-4 * (double)i : s == RISING ? 1e-4 * (double)i - 9 : 6 * bell);
        if (s == PEAK) x[i] *= 0.5f;
        if (s == HOLES && test_random(&seed) % 4) x[i] = -INFINITY;
        if (s == EQUAL) x[i] = -3;
        if (s == STEPPED) x[i] = roundf(x[i]);
        if (s == EMPTY) x[i] = -INFINITY;
    }
    size_t at = (size_t)(test_uniform(&seed) * (double)n);
    if (s == PEAK) x[at] = 14;
    if (s == HOLES) x[at] = -1; /* one at least */
    if (s == OUTLIER) x[at] = -1e30f;
    if (s == INFINITE) x[at] = INFINITY;
    if (s == NO_NUMBER) x[at] = NAN;
}

/* Around the tokens that a small vocabulary has too. */
static void fill_biases(size_t n) {
    for (size_t i = 0; i < BIASES; i++) {
        float add = (float)(test_uniform(&seed) * 8 - 4);
        biases[i] = (shk_bias){ (int32_t)(test_random(&seed) % (n < 40 ? n : 40)), i % 9 || n < 40 ? add : -INFINITY };
        if (n > 1000 && i % 3 == 0) biases[i].id = (int32_t)(test_random(&seed) % n);
    }
}

typedef struct pair { /* of samplers that have seen the same: on the device and on the host */
    shk_sampler *there, *here;
} pair;

/* One row: what the device has chosen, or has left to the host with its biases in it. true: it has chosen. */
static bool compare(pair p, const shk_choice *c, const float *logits, const float *adjusted, size_t n, const char *what, int kind) {
    int32_t want = -1, id = c->id;
    bool finite = true;
    shk_error other = { 0 };
    for (size_t i = 0; i < n; i++) finite &= isfinite(logits[i]) != 0;
    shk_status expected = shk_sampler_sample(p.here, logits, &want, &err), st = SHK_OK;
    if (id < 0) st = shk_sampler_choose(p.there, adjusted, &id, &other);
    else if (c->drawn) shk_sampler_drew(p.there);
    CHECK(!!c->finite == finite, "%s of %zu, kind %d: finite %d", what, n, kind, c->finite);
    CHECK(st == expected && (st || id == want), "%s of %zu, kind %d: %d (%g), status %d, want %d (%g), status %d; drawn %d", what,
          n, kind, id, id >= 0 ? (double)logits[id] : 0, st, want, want >= 0 ? (double)logits[want] : 0, expected, c->drawn);
    if (!st) shk_sampler_accept(p.here, want), shk_sampler_accept(p.there, want);
    double a = shk_sampler_draw(p.here).u, b = shk_sampler_draw(p.there).u;
    CHECK(a == b, "%s of %zu, kind %d: %s drawn", what, n, kind, c->drawn ? "wrongly" : "not");
    return c->id >= 0;
}

static void test_shape(shape s, size_t n) {
    uint32_t outputs[KINDS] = { 0 };
    shk_draw draws[KINDS];
    shk_choice choice[KINDS];
    pair p[KINDS];
    size_t bytes = KINDS * n * sizeof(float), left = 0;
    float *logits = malloc(bytes), *adjusted = malloc(bytes), *x = ops->alloc(dev, bytes);
    shk_choice *chosen = ops->alloc(dev, sizeof choice);
    NEED(logits && adjusted && x && chosen, "%zu values", n);
    fill_biases(n);
    for (int k = 0; k < KINDS; k++) {
        shk_sampling how = kinds[k];
        how.seed = n + (size_t)k * 1000;
        NEED(!shk_sampler_new(&p[k].there, &how, (int32_t)n, &err) && !shk_sampler_new(&p[k].here, &how, (int32_t)n, &err), "%s",
             err.message);
        for (int i = 0; i < 20; i++) {
            int32_t id = (int32_t)(test_random(&seed) % (n < 30 ? n : 30));
            shk_sampler_accept(p[k].there, id), shk_sampler_accept(p[k].here, id);
        }
    }
    for (int step = 0; step < STEPS; step++) {
        for (int k = 0; k < KINDS; k++) {
            fill_row(logits + (size_t)k * n, n, s);
            draws[k] = shk_sampler_draw(p[k].there);
        }
        /* all of them; those of one kind, so that each set of kernels runs; from a row on */
        size_t from = step == 2 ? 5 : 0, rows = step == 1 ? 1 : step == 3 ? 7 : KINDS - from, skip = step == 3 ? 1 : 0;
        if (step == 4) skip = 14, rows = 7;
        shk_pass pass = { .T = 1, .outputs = outputs, .n_outputs = from + rows, .draws = draws + skip };
        size_t first = from + skip;
        ops->upload(dev, x, logits + first * n, rows * n * sizeof *x);
        CHECK(!ops->begin(dev, &pass, 0, false), "replayed");
        ops->sample(dev, chosen, x, &pass, from, rows, n);
        NEED(!ops->end(dev, true, &err), "%s", err.message);
        ops->download(dev, choice, chosen, rows * sizeof *choice);
        ops->download(dev, adjusted, x, rows * n * sizeof *x);
        for (size_t i = 0; i < rows; i++) {
            size_t k = first + i;
            bool sure = compare(p[k], &choice[i], logits + k * n, adjusted + i * n, n, names[s], (int)k);
            bool large = kinds[k].top_k > SHK_DRAW_TOP_K && (size_t)kinds[k].top_k < n;
            left += !sure && !large;
        }
    }
    bool may = s >= OUTLIER; /* thousands in a bin, or nothing to choose */
    CHECK(!left || may, "%s of %zu: %zu rows are left to the host", names[s], n, left);
    if (left) printf("%-9s of %zu: %zu rows left to the host\n", names[s], n, left);
    for (int k = 0; k < KINDS; k++) shk_sampler_free(p[k].there), shk_sampler_free(p[k].here);
    ops->release(dev, x, bytes), ops->release(dev, chosen, sizeof choice);
    free(logits), free(adjusted);
}

/* As many draws as say whether tokens come as often as they should: here that the host's are matched one by one. */
static void test_draws(size_t n) {
    enum { ROWS = 128 };
    const int rounds = test_short() ? 1 : 8;
    uint32_t outputs[ROWS] = { 0 };
    float *logits = malloc(n * sizeof *logits), *x = ops->alloc(dev, ROWS * n * sizeof *x);
    shk_choice choice[ROWS], *chosen = ops->alloc(dev, sizeof choice);
    size_t other = 0, left = 0;
    NEED(x && chosen, "%zu values", n);
    for (int round = 0; round < rounds; round++) {
        shk_sampler *p[ROWS];
        shk_draw draws[ROWS];
        fill_row(logits, n, round % 2 ? BELL : FLAT);
        for (size_t i = 0; i < ROWS; i++) {
            shk_sampling how = kinds[1 + (i + (size_t)round) % 20];
            how.seed = i + (size_t)round * ROWS;
            NEED(!shk_sampler_new(&p[i], &how, (int32_t)n, &err), "%s", err.message);
            draws[i] = shk_sampler_draw(p[i]);
            ops->upload(dev, x + i * n, logits, n * sizeof *x);
        }
        shk_pass pass = { .T = 1, .outputs = outputs, .n_outputs = ROWS, .draws = draws };
        ops->begin(dev, &pass, 0, false);
        ops->sample(dev, chosen, x, &pass, 0, ROWS, n);
        NEED(!ops->end(dev, true, &err), "%s", err.message);
        ops->download(dev, choice, chosen, sizeof choice);
        for (size_t i = 0; i < ROWS; i++) {
            int32_t want;
            NEED(!shk_sampler_sample(p[i], logits, &want, &err), "%s", err.message);
            left += choice[i].id < 0;
            other += choice[i].id >= 0 && choice[i].id != want;
            shk_sampler_free(p[i]);
        }
    }
    CHECK(!other && left < ROWS, "%zu of %d draws from %zu are others, %zu left to the host", other, rounds * ROWS, n, left);
    ops->release(dev, x, ROWS * n * sizeof *x), ops->release(dev, chosen, sizeof choice);
    free(logits);
}

int main(void) {
    static const size_t sizes[] = { 1, 2, 64, 1000, 5003, 256000 };
    if (!(ops = test_gpu(&dev))) return test_done();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes - (test_short() ? 2 : 0); i++)
        for (shape s = 0; s < SHAPES; s++) test_shape(s, sizes[i]);
    test_draws(300);
    if (!test_short()) test_draws(32000);
    ops->close(dev);
    return test_done();
}
