/* Generation: stop strings, whole characters, limits, and the same text for a seed. The model is a golden checkpoint; the
 * tokenizer is written here, over its 320 ids: four special tokens, the 256 bytes, and letters with two-byte text. */
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "sparkhawk.h"
#include "../test.h"

static shk_error err;
static char dir[64];

static void write_tokenizer(const char *path) {
    FILE *f = fopen(path, "w");
    NEED(f, "%s", path);
    fprintf(f, "{\"version\":\"1.0\",\"added_tokens\":[");
    const char *special[] = { "<pad>", "<eos>", "<bos>", "<unk>" };
    for (int i = 0; i < 4; i++) fprintf(f, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "", i, special[i]);
    fprintf(f,
            "],\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"},\"pre_tokenizer\":null,"
            "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,"
            "\"fuse_unk\":true,\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 4; i++) fprintf(f, "\"%s\":%d,", special[i], i);
    for (int i = 0; i < 256; i++) fprintf(f, "\"<0x%02X>\":%d,", i, i + 4);
    for (int i = 260; i < 320; i++) fprintf(f, "\"\\u%04x\":%d%s", 0x400 + i - 260, i, i < 319 ? "," : "");
    fprintf(f, "}}}\n");
    NEED(fclose(f) == 0, "%s", path);
}

static void make_model(void) {
    snprintf(dir, sizeof dir, "/tmp/shk_generate_XXXXXX");
    NEED(mkdtemp(dir), "%s", dir);
    char from[4096], to[128];
    const char *files[] = { "config.json", "model.safetensors" };
    for (int i = 0; i < 2; i++) {
        NEED(getcwd(from, sizeof from - 100), "cwd");
        snprintf(from + strlen(from), 90, "/tests/golden/griffin/%s", files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        NEED(symlink(from, to) == 0, "%s", to);
    }
    snprintf(to, sizeof to, "%s/tokenizer.json", dir);
    write_tokenizer(to);
}

static void remove_model(void) {
    char path[128];
    const char *files[] = { "config.json", "model.safetensors", "tokenizer.json" };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

typedef struct heard {
    char text[4096];
    size_t n, calls;
    int stop_after;
} heard;

static int hear(void *user, const char *text, size_t n) {
    heard *h = user;
    memcpy(h->text + h->n, text, n);
    h->n += n;
    h->calls++;
    return h->stop_after && (int)h->calls >= h->stop_after;
}

static const int32_t prompt[] = { 2, 265, 270, 280 };

static shk_generated generate(shk_model *m, shk_generation g, heard *h) {
    shk_session *s;
    shk_generated out;
    NEED(shk_session_new(&s, m, 512, &err) == SHK_OK, "%s", err.message);
    g.prompt = prompt;
    g.n_prompt = 4;
    memset(h->text, 0, sizeof h->text);
    h->n = h->calls = 0;
    g.on_text = hear;
    g.user = h;
    NEED(shk_generate(s, &g, &out, &err) == SHK_OK, "%s", err.message);
    CHECK(h->n == out.n_text && memcmp(h->text, out.text, out.n_text) == 0, "what was streamed is not the text");
    CHECK(shk_session_position(s) == 4 + out.n_tokens - (out.n_tokens > 0), "position %d", (int)shk_session_position(s));
    shk_session_free(s);
    return out;
}

static shk_generation sampled(uint64_t seed, size_t n) {
    shk_generation g = { .max_tokens = n, .sampling = shk_sampling_default(), .ignore_end = 1 };
    g.sampling.temperature = 2;
    g.sampling.seed = seed;
    return g;
}

/* Is it UTF-8 but for what the text really has as stray bytes: no piece may end inside a character that the next one continues. */
static int splits_a_character(const char *text, size_t n, size_t at) {
    return at < n && at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80 && (unsigned char)text[at - 1] >= 0xC2;
}

static size_t boundaries[512], n_boundaries, heard_bytes;
static int note(void *user, const char *text, size_t n) {
    (void)user, (void)text;
    heard_bytes += n;
    if (n) boundaries[n_boundaries++] = heard_bytes;
    return 0;
}

static void test_characters(shk_model *m) {
    shk_session *s;
    shk_generation g = sampled(5, 300);
    shk_generated out;
    NEED(shk_session_new(&s, m, 512, &err) == SHK_OK, "%s", err.message);
    g.prompt = prompt, g.n_prompt = 4, g.on_text = note;
    NEED(shk_generate(s, &g, &out, &err) == SHK_OK, "%s", err.message);
    CHECK(out.n_tokens == 300 && n_boundaries > 100, "%zu pieces", n_boundaries);
    for (size_t i = 0; i < n_boundaries; i++)
        CHECK(!splits_a_character(out.text, out.n_text, boundaries[i]), "a piece ends inside a character at %zu", boundaries[i]);
    char *text;
    size_t n;
    NEED(shk_detokenize(shk_model_tokenizer(m), out.tokens, out.n_tokens, 0, &text, &n, &err) == SHK_OK, "%s", err.message);
    CHECK(n == out.n_text && memcmp(text, out.text, n) == 0, "the text is not what its tokens decode to");
    free(text);
    shk_generated_clear(&out);
    shk_session_free(s);
}

static void test_stops(shk_model *m) {
    heard h = { .stop_after = 0 };
    shk_generation g = sampled(7, 200);
    shk_generated whole = generate(m, g, &h);
    CHECK(whole.stop == SHK_STOP_LENGTH && whole.n_tokens == 200, "length");
    int tried = 0;
    for (size_t at = 3; at + 6 < whole.n_text && at < 120; at += 13) { /* a stop string from the text itself, over token borders */
        char stop[8] = { 0 }, other[8] = "\x01zzzz";
        memcpy(stop, whole.text + at, 5);
        if (strlen(stop) < 5) continue;
        tried++;
        const char *stops[] = { other, stop };
        g.stop = stops, g.n_stop = 2;
        shk_generated cut = generate(m, g, &h);
        size_t first = (size_t)((char *)memmem(whole.text, whole.n_text, stop, 5) - whole.text);
        CHECK(cut.stop == SHK_STOP_STRING && cut.n_text == first && memcmp(cut.text, whole.text, first) == 0, "stop string at %zu",
              at);
        shk_generated_clear(&cut);
    }
    CHECK(tried > 5, "only %d stop strings were tried", tried);
    g.n_stop = 0;
    h.stop_after = 9;
    shk_generated stopped = generate(m, g, &h);
    CHECK(stopped.stop == SHK_STOP_CALLER && stopped.n_tokens == 9, "the caller stops it: %zu", stopped.n_tokens);
    h.stop_after = 0;
    shk_generated_clear(&stopped);

    shk_bias force[] = { { 1, 100 } };
    g.sampling.bias = force, g.sampling.n_bias = 1, g.ignore_end = 0;
    shk_generated ended = generate(m, g, &h);
    CHECK(ended.stop == SHK_STOP_END && ended.n_tokens == 1 && ended.n_text == 0, "the end token ends it");
    shk_generated_clear(&ended);
    g.ignore_end = 1;
    ended = generate(m, g, &h);
    CHECK(ended.stop == SHK_STOP_LENGTH && ended.n_tokens == 200, "unless it is ignored");
    shk_generated_clear(&ended);
    shk_generated_clear(&whole);
}

static void test_seed_and_threads(void) {
    shk_generated first = { 0 };
    heard h = { .stop_after = 0 };
    for (int threads = 1; threads <= 3; threads++) {
        shk_model *m;
        shk_model_params p = { .threads = threads };
        NEED(shk_model_load(&m, dir, &p, &err) == SHK_OK, "%s", err.message);
        shk_generated out = generate(m, sampled(11, 120), &h);
        if (threads == 1) first = out;
        else {
            CHECK(out.n_tokens == first.n_tokens && memcmp(out.tokens, first.tokens, out.n_tokens * sizeof *out.tokens) == 0,
                  "%d threads", threads);
            shk_generated_clear(&out);
        }
        shk_model_free(m);
    }
    shk_generated_clear(&first);
}

/* The output matrix is looked at through its coarse copy, but in an `exact` model: the same tokens for the same seeds. */
static void test_best_rows(shk_model *m) {
    static const shk_sampling kinds[] = {
        { .top_p = 1, .repeat_penalty = 1 },
        { .temperature = 2, .top_k = 5, .top_p = 1, .repeat_penalty = 1 },
        { .temperature = 2, .top_k = 64, .top_p = 0.95f, .repeat_penalty = 1 },
        { .temperature = 2, .top_p = 1, .min_p = 0.05f, .repeat_penalty = 1 },
        { .temperature = 2, .top_k = 20, .top_p = 1, .repeat_penalty = 1.5f, .repeat_last_n = 64 },
    };
    enum { KINDS = sizeof kinds / sizeof *kinds };
    shk_model *exact;
    shk_model_params p = { .exact = 1 };
    heard h = { .stop_after = 0 };
    NEED(shk_model_load(&exact, dir, &p, &err) == SHK_OK, "%s", err.message);
    for (int k = 0; k < KINDS; k++)
        for (uint64_t seed = 0; seed < 10; seed++) {
            shk_generation g = { .max_tokens = 60, .sampling = kinds[k], .ignore_end = 1 };
            g.sampling.seed = seed;
            double read[2] = { shk_model_work(m).weight_bytes, shk_model_work(exact).weight_bytes };
            shk_generated a = generate(m, g, &h), b = generate(exact, g, &h);
            read[0] -= shk_model_work(m).weight_bytes, read[1] -= shk_model_work(exact).weight_bytes;
            CHECK(a.n_tokens == 60 && b.n_tokens == 60 && !memcmp(a.tokens, b.tokens, 60 * sizeof *a.tokens), "kind %d, seed %d", k,
                  (int)seed);
            CHECK((read[0] == read[1]) == (k == KINDS - 1), "kind %d reads %g bytes, %g of an exact model", k, -read[0], -read[1]);
            shk_generated_clear(&a);
            shk_generated_clear(&b);
        }
    shk_model_free(exact);
}

/* Whatever the model would say, it says what the schema wants, and ends with it. */
static void test_grammar(shk_model *m) {
    static const char schema[] =
        "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":8},\"list\":{\"type\":\"array\","
                                 "\"items\":{\"enum\":[\"red\",7,null]},\"minItems\":2,\"maxItems\":3}},\"required\":[\"name\",\"l"
                                 "ist\"],"
                                 "\"additionalProperties\":false}";
    shk_grammar *grammar, *digits;
    NEED(!shk_grammar_new(&grammar, shk_model_tokenizer(m), schema, &err), "%s", err.message);
    NEED(!shk_grammar_new(&digits, shk_model_tokenizer(m), "{\"type\":\"integer\",\"minimum\":10,\"maximum\":99}", &err), "%s",
         err.message);
    for (uint64_t seed = 0; seed < 20; seed++) {
        heard h = { .stop_after = 0 };
        shk_generation g = sampled(seed, 450);
        g.grammar = grammar;
        g.ignore_end = seed & 1;
        if (seed & 2) g.sampling.top_k = 3;
        if (seed == 0) g.sampling.temperature = 0;
        shk_generated out = generate(m, g, &h);
        json_t *value = json_loadb(out.text, out.n_text, 0, NULL);
        size_t n = json_array_size(json_object_get(value, "list"));
        CHECK(out.stop == SHK_STOP_END, "seed %d ends by %d after %zu tokens: %s", (int)seed, out.stop, out.n_tokens, out.text);
        CHECK(json_object_size(value) == 2 && json_is_string(json_object_get(value, "name")) && n >= 2 && n <= 3, "seed %d: %s",
              (int)seed,
              out.text);
        json_decref(value);
        shk_generated_clear(&out);
        g.grammar = digits;
        out = generate(m, g, &h);
        CHECK(out.stop == SHK_STOP_END && out.n_text == 2 && out.n_tokens == 2 && strspn(out.text, "0123456789") == 2, "%s",
              out.text);
        shk_generated_clear(&out);
    }
    shk_grammar_free(grammar);
    shk_grammar_free(digits);
}

static void test_limits(shk_model *m) {
    shk_session *s;
    shk_generated out;
    shk_generation g = { .prompt = prompt, .n_prompt = 4, .max_tokens = 100, .sampling = shk_sampling_default(), .ignore_end = 1 };
    NEED(shk_session_new(&s, m, 10, &err) == SHK_OK, "%s", err.message);
    NEED(shk_generate(s, &g, &out, &err) == SHK_OK, "%s", err.message);
    CHECK(out.stop == SHK_STOP_LENGTH && out.n_tokens == 7 && shk_session_position(s) == 10, "a full context ends it: %zu",
          out.n_tokens);
    shk_generated_clear(&out);
    CHECK(shk_generate(s, &g, &out, &err) == SHK_E_LIMIT && strstr(err.message, "10"), "%s", err.message);
    shk_session_reset(s);
    g.n_prompt = 0;
    CHECK(shk_generate(s, &g, &out, &err) == SHK_E_ARGUMENT, "an empty prompt");
    g.n_prompt = 4;
    const char *empty[] = { "" };
    g.stop = empty, g.n_stop = 1;
    CHECK(shk_generate(s, &g, &out, &err) == SHK_E_ARGUMENT, "an empty stop string");
    int32_t bad[] = { 2, 320 };
    g.prompt = bad, g.n_prompt = 2, g.n_stop = 0;
    CHECK(shk_generate(s, &g, &out, &err) == SHK_E_ARGUMENT && strstr(err.message, "320"), "%s", err.message);
    bad[1] = -1;
    CHECK(shk_generate(s, &g, &out, &err) == SHK_E_ARGUMENT && strstr(err.message, "-1"), "%s", err.message);
    CHECK(shk_session_position(s) == 0, "a refused prompt moved the session");
    g.prompt = prompt, g.n_prompt = 4, g.max_tokens = 0;
    NEED(shk_generate(s, &g, &out, &err) == SHK_OK, "%s", err.message);
    CHECK(out.n_tokens == 0 && out.n_text == 0 && out.text, "no tokens wanted");
    shk_generated_clear(&out);
    shk_session_free(s);
}

int main(void) {
    shk_model *m;
    make_model();
    NEED(shk_model_load(&m, dir, NULL, &err) == SHK_OK, "%s", err.message);
    NEED(shk_model_tokenizer(m), "the tokenizer was not loaded");
    test_characters(m);
    test_stops(m);
    test_best_rows(m);
    test_grammar(m);
    test_limits(m);
    shk_model_free(m);
    test_seed_and_threads();
    remove_model();
    return test_done();
}
