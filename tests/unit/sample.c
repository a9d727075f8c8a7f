/* The sampler: each filter against its definition, frequencies against probabilities, and what it refuses. */
#include <math.h>
#include <stdbool.h>

#include "sparkhawk.h"
#include "../test.h"

enum { V = 1000 };
static shk_error err;

static shk_sampler *sampler(shk_sampling s) {
    shk_sampler *p;
    NEED(shk_sampler_new(&p, &s, V, &err) == SHK_OK, "%s", err.message);
    return p;
}

static int32_t draw(shk_sampler *p, const float *logits) {
    int32_t id = -1;
    NEED(shk_sampler_sample(p, logits, &id, &err) == SHK_OK, "%s", err.message);
    return id;
}

static void random_logits(float *x, unsigned long long seed, double spread) {
    for (int i = 0; i < V; i++) x[i] = (float)((test_uniform(&seed) - 0.5) * spread);
}

static void test_greedy(void) {
    float x[V] = { 0 };
    shk_sampler *p = sampler(shk_sampling_default());
    x[700] = x[300] = 2;
    CHECK(draw(p, x) == 300, "a tie goes to the lower id");
    x[999] = INFINITY;
    CHECK(draw(p, x) == 999, "an infinite logit wins");
    shk_sampler_free(p);

    shk_sampling s = shk_sampling_default();
    s.temperature = 1;
    p = sampler(s);
    CHECK(draw(p, x) == 999, "at any temperature");
    shk_sampler_free(p);
    s.temperature = 0;
    shk_bias bias[] = { { 300, -INFINITY }, { 5, 1.5f } };
    s.bias = bias;
    s.n_bias = 2;
    p = sampler(s);
    memset(x, 0, sizeof x);
    x[300] = 9;
    CHECK(draw(p, x) == 5, "300 is forbidden, 5 preferred");
    shk_sampler_free(p);
}

static void test_penalty(void) {
    float x[V] = { 0 };
    shk_sampling s = shk_sampling_default();
    s.repeat_penalty = 2;
    s.repeat_last_n = 3;
    shk_sampler *p = sampler(s);
    x[1] = 3, x[2] = 2;
    shk_sampler_accept(p, 1);
    shk_sampler_accept(p, 1); /* penalised once all the same: 3 / 2 < 2 */
    CHECK(draw(p, x) == 2, "a repeated token gives way");
    x[1] = 4.1f;
    CHECK(draw(p, x) == 1, "but is not penalised twice");
    x[1] = 3;
    for (int i = 0; i < 3; i++) shk_sampler_accept(p, 50); /* 1 is forgotten */
    CHECK(draw(p, x) == 1, "only the last tokens count");
    for (int i = 0; i < V; i++) x[i] = -5;
    x[50] = -1, x[60] = -1.5f;
    CHECK(draw(p, x) == 60, "a negative logit is multiplied");
    shk_sampler_free(p);
}

static void test_presence(void) {
    float x[V] = { 0 };
    shk_sampling s = shk_sampling_default();
    s.presence_penalty = 1;
    s.repeat_last_n = 3;
    shk_sampler *p = sampler(s);
    x[1] = 3, x[2] = 2.5f;
    CHECK(draw(p, x) == 1, "nothing has appeared yet");
    shk_sampler_accept(p, 1);
    CHECK(draw(p, x) == 2, "3 - 1 < 2.5");
    x[1] = 3.6f;
    shk_sampler_accept(p, 1);
    CHECK(draw(p, x) == 1, "presence counts once");
    shk_sampler_free(p);

    s.presence_penalty = 0;
    s.frequency_penalty = 0.5f;
    p = sampler(s);
    shk_sampler_accept(p, 1);
    shk_sampler_accept(p, 1);
    CHECK(draw(p, x) == 1, "3.6 - 2 * 0.5 > 2.5");
    shk_sampler_accept(p, 1);
    CHECK(draw(p, x) == 2, "3.6 - 3 * 0.5 < 2.5");
    shk_sampler_accept(p, 9);
    CHECK(draw(p, x) == 1, "the first of four is forgotten");
    shk_sampler_free(p);

    s.frequency_penalty = -2;
    p = sampler(s);
    shk_sampler_accept(p, 7);
    CHECK(draw(p, x) == 1, "0 + 2 < 3.6");
    shk_sampler_accept(p, 7);
    CHECK(draw(p, x) == 7, "a negative one rewards");
    shk_sampler_free(p);
}

/* With every draw among many, the set that appears is the set that the definition gives. */
static void test_filters(void) {
    float x[V];
    random_logits(x, 3, 12);
    int order[V];
    double weight[V];
    for (int i = 0; i < V; i++) order[i] = i;
    for (int i = 0; i < V; i++) /* insertion sort, best first */
        for (int j = i; j > 0 && x[order[j]] > x[order[j - 1]]; j--) {
            int t = order[j];
            order[j] = order[j - 1];
            order[j - 1] = t;
        }
    for (int i = 0; i < V; i++) weight[i] = exp(x[order[i]] - x[order[0]]);
    const struct {
        int top_k;
        float top_p, min_p;
    } cases[] = { { 1, 1, 0 }, { 7, 1, 0 },    { 0, 0.5f, 0 },     { 0, 0.05f, 0 },
                  { 0, 0, 0 }, { 0, 1, 0.3f }, { 20, 0.9f, 0.1f }, { 0, 1, 1 } };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        shk_sampling s = shk_sampling_default();
        s.temperature = 1, s.top_k = cases[c].top_k, s.top_p = cases[c].top_p, s.min_p = cases[c].min_p, s.seed = 99;
        size_t n = s.top_k ? (size_t)s.top_k : V, nucleus = 0;
        double sum = 0, among = 0;
        for (size_t i = 0; i < n; i++) among += weight[i];
        while (nucleus < n && (nucleus == 0 || sum < (double)s.top_p * among)) sum += weight[nucleus++];
        n = nucleus;
        while (n > 1 && weight[n - 1] < s.min_p) n--;
        int seen[V] = { 0 };
        shk_sampler *p = sampler(s);
        for (int i = 0; i < 20000; i++) seen[draw(p, x)]++;
        shk_sampler_free(p);
        double kept = 0, chi2 = 0;
        int outside = 0;
        for (size_t i = 0; i < n; i++) kept += weight[i];
        for (size_t i = 0; i < V; i++) {
            double expect = i < n ? 20000 * weight[i] / kept : 0;
            if (i >= n) outside += seen[order[i]];
            else if (expect > 0) chi2 += (seen[order[i]] - expect) * (seen[order[i]] - expect) / expect;
        }
        CHECK(outside == 0, "case %zu: %d draws from outside of the %zu allowed", c, outside, n);
        /* chi-square with n-1 degrees: mean n-1, variance 2(n-1); small expected counts add to the variance, 1/e each */
        double small = 0;
        for (size_t i = 0; i < n; i++) small += kept / (20000 * weight[i]);
        CHECK(chi2 < (double)n + 6 * sqrt(2.0 * (double)n + small), "case %zu: frequencies are off: chi2 %g for %zu", c, chi2, n);
    }
}

/* Whatever the order in which good and bad ones come, top-k leaves the k best, and of equal ones those of the lowest ids. */
static void test_top_k(void) {
    enum { K = 5 };
    float x[V], step[] = { 0, 0.001f, -0.001f };
    unsigned long long seed = 11;
    for (size_t c = 0; c < 5; c++) {
        bool expected[V] = { 0 };
        for (int i = 0; i < V; i++) x[i] = c < 3 ? (float)i * step[c] : c == 3 ? (float)(test_random(&seed) % 8) : -INFINITY;
        if (c == 4) x[3] = x[V - 1] = 1;
        for (int k = 0, best = 0; k < K && best >= 0; k++) {
            best = -1;
            for (int i = 0; i < V; i++)
                if (!expected[i] && x[i] > -INFINITY && (best < 0 || x[i] > x[best])) best = i;
            if (best >= 0) expected[best] = true;
        }
        shk_sampling s = shk_sampling_default();
        s.temperature = 100, s.top_k = K;
        shk_sampler *p = sampler(s);
        bool seen[V] = { 0 };
        for (int i = 0; i < 1000; i++) seen[draw(p, x)] = true;
        CHECK(memcmp(seen, expected, sizeof seen) == 0, "case %zu: others than the %d best", c, K);
        shk_sampler_free(p);
    }
}

static void test_temperature_and_seed(void) {
    float x[V];
    random_logits(x, 5, 8);
    shk_sampling s = shk_sampling_default();
    s.temperature = 0.7f, s.seed = 42;
    shk_sampler *a = sampler(s), *b = sampler(s);
    s.seed = 43;
    shk_sampler *other = sampler(s);
    int same = 0, differ = 0;
    for (int i = 0; i < 200; i++) {
        int32_t id = draw(a, x);
        same += id == draw(b, x);
        differ += id != draw(other, x);
    }
    CHECK(same == 200, "one seed gives one sequence (%d of 200)", same);
    CHECK(differ > 100, "another seed gives another (%d of 200 differ)", differ);
    shk_sampler_free(a);
    shk_sampler_free(b);
    shk_sampler_free(other);
    float two[V];
    for (int i = 0; i < V; i++) two[i] = -INFINITY;
    two[1] = 0, two[2] = 1;
    s.temperature = 0.5f; /* odds e^2 */
    shk_sampler *p = sampler(s);
    int ones = 0, N = 40000;
    for (int i = 0; i < N; i++) ones += draw(p, two) == 1;
    double want = N / (1 + exp(2)), sd = sqrt(want * (1 - want / N));
    CHECK(fabs(ones - want) < 5 * sd, "%d draws of the rarer token, %.0f expected", ones, want);
    shk_sampler_free(p);
}

static void test_refused(void) {
    float x[V] = { 0 };
    int32_t id;
    shk_sampler *p = sampler(shk_sampling_default());
    for (int i = 0; i < V; i++) {
        char number[24];
        snprintf(number, sizeof number, "token %d ", i);
        x[i] = NAN;
        CHECK(shk_sampler_sample(p, x, &id, &err) == SHK_E_NUMERIC && strstr(err.message, number), "%s", err.message);
        x[i] = 0;
    }
    for (int i = 0; i < V; i++) x[i] = -INFINITY;
    CHECK(shk_sampler_sample(p, x, &id, &err) == SHK_E_ARGUMENT, "no token left");
    shk_sampler_free(p);
    shk_bias bad[] = { { V, 0 }, { -1, 0 }, { 0, NAN }, { 0, INFINITY } };
    for (size_t i = 0; i < 4; i++) {
        shk_sampling s = shk_sampling_default();
        s.bias = &bad[i], s.n_bias = 1;
        CHECK(shk_sampler_new(&p, &s, V, &err) == SHK_E_ARGUMENT && !p, "bias %zu", i);
    }
    const float bad_numbers[] = { -1, NAN, INFINITY };
    for (size_t i = 0; i < 3; i++)
        for (int field = 0; field < 4; field++) {
            shk_sampling s = shk_sampling_default();
            *(field == 0 ? &s.temperature : field == 1 ? &s.top_p : field == 2 ? &s.min_p : &s.repeat_penalty) = bad_numbers[i];
            CHECK(shk_sampler_new(&p, &s, V, &err) == SHK_E_ARGUMENT && !p, "field %d number %zu", field, i);
        }
}

int main(void) {
    test_greedy();
    test_penalty();
    test_presence();
    test_filters();
    test_top_k();
    test_temperature_and_seed();
    test_refused();
    return test_done();
}
