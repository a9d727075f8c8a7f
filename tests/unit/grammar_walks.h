/* Random texts of a grammar: walks over its masks. Whatever way they take, they come to an end, and what they have made is JSON
 * that fits the schema. */
#ifndef SHK_GRAMMAR_WALKS_H
#define SHK_GRAMMAR_WALKS_H

#include "json_check.h"
#include "sparkhawk.h"

static const char *const walk_schemas[] = {
    "{\"type\":\"object\"}",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"minLength\":2,\"maxLength\":9},\"id\":{\"type\":\"intege"
    "r\"},"
    "\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"ab\",\"abc\",null,12]},\"minItems\":1,\"maxItems\":4}},"
    "\"required\":[\"name\",\"tags\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"number\",\"minimum\":-2.5,\"maximum\":17.25},"
    "\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"],\"additionalProperties\":false}",
    "{\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"c\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"}},"
    "\"k\":{\"const\":\"x\\\"\\n\\u00e9\"}},\"required\":[\"c\",\"k\"],\"additionalProperties\":false}},\"$ref\":\"#/$defs/tree\"}",
    "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\",\"minimum\":7,\"maximum\":1234},{\"type\":\"boolean\"}],"
    "\"items\":{\"type\":\"string\",\"pattern\":\"^[a-c]{1,3}(-[0-9]+)?$\"},\"minItems\":3,\"maxItems\":6}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":\"null\"}},\"required\":[\"a\"],"
    "\"additionalProperties\":{\"type\":\"string\",\"maxLength\":5}}",
    "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"s\":{\"type\":\"string\"}},\"required\":[\"k\",\"s"
    "\"],"
    "\"additionalProperties\":false},{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[\"a\",\"b\"]},\"n\":{\"type\":\"number"
    "\"}},"
    "\"required\":[\"k\",\"n\"],\"additionalProperties\":false}]}",
    "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]},"
    "{\"type\":\"object\",\"properties\":{\"b\":{\"type\":\"string\",\"format\":\"date-time\"},\"a\":{\"maxLength\":3}}}]}",
    "{\"type\":\"string\",\"minLength\":5,\"maxLength\":6}",
    "{\"type\":\"object\",\"properties\":{\"e\":{\"type\":\"string\",\"format\":\"email\"},\"u\":{\"type\":\"string\",\"format\":"
    "\"uuid\"},"
    "\"d\":{\"type\":\"string\",\"format\":\"date\"},\"p\":{\"pattern\":\"(f|ba+r)\",\"type\":\"string\"}},\"additionalProperties"
    "\":false}",
    "{\"type\":[\"integer\",\"array\",\"null\"],\"items\":{\"$ref\":\"#\"},\"maxItems\":3,\"minimum\":-5}",
};
enum { WALK_SCHEMAS = sizeof walk_schemas / sizeof *walk_schemas };

static inline bool bit_at(const uint32_t *bits, int32_t id) { return bits[id >> 5] >> (id & 31) & 1; }

static inline int32_t any_token(const uint32_t *bits, int32_t vocab, unsigned long long *seed) {
    int32_t n = 0, words = (vocab + 31) / 32;
    for (int32_t i = 0; i < words; i++) n += __builtin_popcount(bits[i]);
    n = (int32_t)(test_random(seed) % (unsigned)n);
    for (int32_t i = 0, k; i < words; i++, n -= k) {
        k = __builtin_popcount(bits[i]);
        for (int32_t id = 32 * i; n < k; id++)
            if (bit_at(bits, id) && n-- == 0) return id;
    }
    return -1;
}

/* What brings the end nearer: it itself, else what closes a string, an array or an object, else any single byte. Now and then the
 * latter anyway: in a string that must go on, brackets are as good as none. */
static inline int32_t closing(const shk_tokenizer *t, const uint32_t *bits, int32_t vocab, unsigned long long *seed) {
    int32_t best = -1;
    int score = -1, equals = 0, bracket = test_random(seed) % 4 ? 2 : 1;
    for (int32_t id = 0; id < vocab; id++) {
        if (!bit_at(bits, id)) continue;
        const char *p;
        size_t n = shk_token_bytes(t, id, 0, &p);
        int s = shk_tokenizer_is_end(t, id) ? 4 : n == 1 && *p == '"' ? 3 : n == 1 && (*p == ']' || *p == '}') ? bracket : n == 1;
        equals = s == score ? equals + 1 : s > score ? 1 : equals;
        if (s > score || (s == score && test_random(seed) % (unsigned)equals == 0)) best = id;
        if (s > score) score = s;
    }
    return best;
}

/* One walk: `steps` tokens at random, then to the end. The text is malloc'd and terminated. */
static inline char *walk_text(const shk_grammar *g, const shk_tokenizer *t, unsigned long long seed, int steps, size_t *n) {
    enum { LIMIT = 100000, TOO_LONG = 4000 };
    int32_t vocab = shk_tokenizer_vocab_size(t);
    uint32_t *bits = calloc((size_t)(vocab + 31) / 32, sizeof *bits);
    char *text = calloc(LIMIT + 1, 1);
    shk_matcher *m;
    shk_error err = { 0 };
    NEED(bits && text && !shk_matcher_new(&m, g, &err), "%s", err.message);
    *n = 0;
    for (int i = 0;; i++) {
        NEED(!shk_matcher_mask(m, bits, vocab, &err), "%s: after %s", err.message, text);
        int32_t id = i < steps ? any_token(bits, vocab, &seed) : closing(t, bits, vocab, &seed);
        NEED(!shk_matcher_accept(m, id, &err), "%s: after %s", err.message, text);
        if (shk_tokenizer_is_end(t, id)) break;
        const char *p;
        size_t k = shk_token_bytes(t, id, 0, &p);
        NEED(i < TOO_LONG && *n + k < LIMIT, "no end: %.200s", text);
        memcpy(text + *n, p, k);
        *n += k;
    }
    CHECK(shk_matcher_state(m) == SHK_MATCH_DONE, "state %d behind the end", shk_matcher_state(m));
    shk_matcher_free(m);
    free(bits);
    return text;
}

static inline void check_walk(const shk_grammar *g, const shk_tokenizer *t, const json_t *schema, unsigned long long seed,
                              int steps) {
    json_error_t e;
    size_t n;
    char *text = walk_text(g, t, seed, steps, &n);
    json_t *value = json_loadb(text, n, JSON_DECODE_ANY, &e);
    CHECK(value, "seed %llu: %s at %d: %s", seed, e.text, e.position, text);
    if (value) CHECK(fits_schema(schema, schema, value), "seed %llu: does not fit: %s", seed, text);
    json_decref(value);
    free(text);
}

/* `walks` of each schema, of up to 60 random tokens. */
static inline void check_walks(const shk_tokenizer *t, int walks) {
    for (size_t k = 0; k < WALK_SCHEMAS; k++) {
        json_t *schema = json_loads(walk_schemas[k], 0, NULL);
        shk_grammar *g;
        shk_error err;
        NEED(schema && !shk_grammar_new(&g, t, walk_schemas[k], &err), "%s: %s", walk_schemas[k], schema ? err.message : "no JSON");
        for (int i = 0; i < walks; i++) check_walk(g, t, schema, 1 + 7919ull * (unsigned)i, i % 61);
        shk_grammar_free(g);
        json_decref(schema);
    }
}

#endif
