/* The published Gemma 3 270M (Q4_K_M) against llama.cpp: the fixture beside this file, which says how it was made and what its
 * bounds mean, is written by tools/llama_fixture.py. Skipped where tools/fetch_model.py has not put the model. */
#include <jansson.h>
#include <math.h>
#include <stdbool.h>

#include "../device.h"
#include "gemma3_file.h"
#include "sparkhawk.h"

/* The fixture has its leads to six decimals. */
static const double ROUNDED = 0.5e-6;

static shk_model *model;
static shk_device device;
static const shk_tokenizer *tokenizer;
static size_t vocab;
static double near_tie, llama_noise;
static size_t compared, steps, leads;
static double lead_error; /* sum of squares */

static double number(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    NEED(json_is_number(v), "the fixture lacks %s", key);
    return json_number_value(v);
}

/* Values i of an array as ids; the caller frees them. */
static int32_t *ids_of(const json_t *array, size_t *n) {
    *n = json_array_size(array);
    int32_t *ids = malloc(*n * sizeof *ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

static void *read_text(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    NEED(f && !fseek(f, 0, SEEK_END), "%s cannot be read", path);
    *n = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*n + 1);
    NEED(fread(text, 1, *n, f) == *n, "%s cannot be read", path);
    fclose(f);
    return text;
}

static shk_session *new_session(void) {
    shk_error err;
    shk_session *s = NULL;
    NEED(!shk_session_new(&s, model, 2048, &err), "%s", err.message);
    return s;
}

/* The logits after each of n tokens: [n, vocab], to be freed. */
static float *all_logits(shk_session *s, const int32_t *tokens, size_t n) {
    shk_error err;
    float *logits = malloc(n * vocab * sizeof *logits);
    NEED(!shk_advance(model, &(shk_span){ s, tokens, n, logits, 1 }, 1, &err), "%s", err.message);
    return logits;
}

/* By how much the logit of `id` exceeds every other one. */
static double lead(const float *logits, size_t id) {
    float other = -INFINITY;
    for (size_t i = 0; i < vocab; i++)
        if (i != id && logits[i] > other) other = logits[i];
    return (double)logits[id] - other;
}

static double log_likelihood(const float *logits, int32_t id) {
    double peak = -INFINITY, sum = 0;
    for (size_t i = 0; i < vocab; i++) peak = fmax(peak, logits[i]);
    for (size_t i = 0; i < vocab; i++) sum += exp(logits[i] - peak);
    return logits[id] - peak - log(sum);
}

static void check_tokenizer(const char *text, size_t n_text, const int32_t *want, size_t n_want) {
    shk_error err;
    int32_t *ids = NULL;
    size_t n = 0;
    NEED(!shk_tokenize(tokenizer, text, n_text, SHK_TOKENIZE_BOS, &ids, &n, &err), "%s", err.message);
    CHECK(n == n_want && !memcmp(ids, want, n * sizeof *ids), "ids of: %.60s", text);
    free(ids);
}

/* llama.cpp's continuation, fed to us: each of its tokens leads by what it should, within the noise of f32. */
static void check_leads(const json_t *gaps, const int32_t *prompt, size_t n_prompt, const int32_t *tokens, size_t n,
                        const char *name, bool exact) {
    shk_session *s = new_session();
    int32_t *text = malloc((n_prompt + n) * sizeof *text);
    memcpy(text, prompt, n_prompt * sizeof *text);
    memcpy(text + n_prompt, tokens, n * sizeof *text);
    float *logits = all_logits(s, text, n_prompt + n - 1);
    for (size_t i = 0; i < n; i++) {
        double want = json_number_value(json_array_get(gaps, i));
        double got = lead(logits + (n_prompt - 1 + i) * vocab, (size_t)tokens[i]);
        lead_error += (got - want) * (got - want), leads++;
        if (exact) CHECK(fabs(got - want) <= near_tie + ROUNDED, "step %zu leads by %.5f, should by %.5f: %s", i, got, want, name);
    }
    free(logits);
    free(text);
    shk_session_free(s);
}

/* The same continuation is what we generate, up to the first token that was no clear choice. Where llama.cpp's rounding has made
 * it, that was a near-tie for llama.cpp too: its own lead is within three standard deviations of its noise. */
static void check_greedy(const json_t *gaps, const json_t *llama_gaps, const int32_t *prompt, size_t n_prompt,
                         const int32_t *tokens, size_t n, const char *name) {
    size_t clear = 0;
    while (clear < n && json_number_value(json_array_get(gaps, clear)) > near_tie + ROUNDED) clear++;
    for (size_t i = 0; i < n; i++) {
        double exact = json_number_value(json_array_get(gaps, i)), llama = json_number_value(json_array_get(llama_gaps, i));
        CHECK(exact > near_tie + ROUNDED || llama <= 3 * llama_noise, "step %zu leads by %.3f in llama.cpp: %s", i, llama, name);
    }
    compared += clear;
    steps += n;
    if (!clear) return;
    shk_error err;
    shk_session *s = new_session();
    shk_generated out;
    shk_generation g = { .prompt = prompt, .n_prompt = n_prompt, .max_tokens = clear, .ignore_end = 1 };
    g.sampling = shk_sampling_default();
    NEED(!shk_generate(s, &g, &out, &err), "%s", err.message);
    CHECK(out.n_tokens == clear && !memcmp(out.tokens, tokens, clear * sizeof *tokens), "%s: %s", name, out.text);
    shk_generated_clear(&out);
    shk_session_free(s);
}

static void check_case(const json_t *c, bool exact) {
    size_t n_prompt, n;
    const char *text = json_string_value(json_object_get(c, "text"));
    const json_t *gaps = json_object_get(c, "exact_gaps"), *llama_gaps = json_object_get(c, "gaps");
    int32_t *prompt = ids_of(json_object_get(c, "prompt"), &n_prompt), *tokens = ids_of(json_object_get(c, "tokens"), &n);
    NEED(text && n_prompt && n && json_array_size(gaps) == n && json_array_size(llama_gaps) == n, "the fixture is not whole");
    check_tokenizer(text, strlen(text), prompt, n_prompt);
    check_leads(gaps, prompt, n_prompt, tokens, n, text, exact);
    if (exact) check_greedy(gaps, llama_gaps, prompt, n_prompt, tokens, n, text);
    free(prompt);
    free(tokens);
}

static void check_likelihood(const json_t *l, bool exact) {
    enum { PART = 64 };
    shk_error err;
    size_t n_text, n = 0;
    int32_t *ids = NULL;
    char *text = read_text("tests/golden/likelihood.txt", &n_text);
    NEED(!shk_tokenize(tokenizer, text, n_text, SHK_TOKENIZE_BOS, &ids, &n, &err), "%s", err.message);
    CHECK(n == number(l, "tokens"), "%zu tokens", n);
    shk_session *s = new_session();
    double sum = 0;
    for (size_t start = 0; start + 1 < n; start += PART) {
        size_t part = n - 1 - start < PART ? n - 1 - start : PART;
        float *logits = all_logits(s, ids + start, part);
        for (size_t i = 0; i < part; i++) sum += log_likelihood(logits + i * vocab, ids[start + i + 1]);
        free(logits);
    }
    double mean = sum / (double)(n - 1), llama = number(l, "mean"), should = number(l, "exact_mean");
    CHECK(fabs(mean - llama) <= 0.01 * fabs(llama), "mean log-likelihood %.6f, llama.cpp's %.6f", mean, llama);
    if (exact) CHECK(fabs(mean - should) <= near_tie, "mean log-likelihood %.6f, exactly %.6f", mean, should);
    printf("%s activations: mean log-likelihood %.6f, exactly %.6f\n", exact ? "f32" : "8-bit", mean, should);
    shk_session_free(s);
    free(ids);
    free(text);
}

static bool load_model(bool exact) {
    char path[4096];
    if (!gemma3_file(path, sizeof path)) {
        SKIP("%s is not there: tools/fetch_model.py fetches it", path);
        return false;
    }
    shk_error err;
    shk_model_params params = { .exact = exact, .device = device, .kv_type = exact ? "f32" : NULL };
    NEED(!shk_model_load(&model, path, &params, &err), "%s", err.message);
    tokenizer = shk_model_tokenizer(model);
    vocab = (size_t)shk_model_vocab_size(model);
    return true;
}

/* With f32 activations everything is what exact arithmetic gives. Rounded to 8 bits the leads scatter, and no more than llama.cpp's
 * do, which rounds coarser for half of the types. */
static bool check_model(const json_t *fixture, bool exact) {
    if (!load_model(exact)) return false;
    size_t i;
    json_t *c, *cases = json_object_get(fixture, "cases");
    NEED(json_array_size(cases) > 0, "the fixture has no cases");
    lead_error = 0, leads = 0;
    json_array_foreach(cases, i, c) if (!i || !test_short()) check_case(c, exact);
    double rms = sqrt(lead_error / (double)leads);
    CHECK((rms > near_tie) == !exact && rms <= llama_noise, "leads are %.4f off, llama.cpp's %.4f", rms, llama_noise);
    printf("%s, %s activations: leads are %.5f off (rms), llama.cpp's %.5f\n", device ? "cuda" : "cpu",
           exact ? "f32" : "8-bit", rms, llama_noise);
    if (!test_short()) check_likelihood(json_object_get(fixture, "likelihood"), exact);
    shk_model_free(model);
    return true;
}

int main(void) {
    json_error_t where;
    json_t *fixture = json_load_file("tests/golden/gemma3_270m.json", 0, &where);
    NEED(fixture, "%s", where.text);
    near_tie = number(fixture, "near_tie");
    llama_noise = number(json_object_get(fixture, "gap_noise_llama"), "rms");
    if (check_model(fixture, true) && check_model(fixture, false))
        printf("%zu of %zu greedy steps come before a near-tie of llama.cpp's; the leads of all were compared\n", compared, steps);
    device = SHK_DEVICE_CUDA;
    if (test_has(device)) {
        near_tie *= 64; /* activations to 2^-18, where f32 has them to 2^-24 */
        check_model(fixture, true);
    }
    json_decref(fixture);
    return test_done();
}
