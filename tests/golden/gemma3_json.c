/* Structured output over Gemma 3's vocabulary of 262,144 pieces: documents as the usual writers write them are taken as they
 * tokenize, and random walks over the masks give JSON that fits. */
#include "../unit/grammar_walks.h"

#include "gemma3_file.h"

static const char schema[] =
    "{\"$defs\":{\"step\":{\"type\":\"object\",\"properties\":{\"explanation\":{\"type\":\"string\"},\"output\":{\"type\":\"string"
    "\"},"
    "\"n\":{\"type\":\"integer\"},\"sure\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1},\"kind\":{\"enum\":[\"add\",\"substit"
    "ute\"]}},"
    "\"required\":[\"explanation\",\"output\",\"n\",\"sure\",\"kind\"],\"additionalProperties\":false}},\"type\":\"object\","
    "\"properties\":{\"steps\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/step\"}},\"answer\":{\"type\":\"string\",\"maxLen"
    "gth\":99},"
    "\"date\":{\"type\":\"string\",\"format\":\"date-time\"},\"id\":{\"type\":\"string\",\"pattern\":\"^[a-z]{2,8}-[0-9]+$\"},"
    "\"none\":{\"type\":\"null\"},\"list\":{\"type\":\"array\"}},\"required\":[\"steps\",\"answer\",\"date\",\"id\"],\"additionalP"
    "roperties\":false}";

static const char document[] =
    "{\"steps\":[{\"explanation\":\"We add \\\"3\\\" to both sides, \\u201ccarefully\\u201d; \\u65e5\\u672c\\u8a9e too.\\nThen "
    "\\\\ go on.\","
    "\"output\":\"x = 42\",\"n\":-1037,\"sure\":0.25,\"kind\":\"add\"},{\"explanation\":\"\",\"output\":\"\\ud83d\\ude00\\t\",\"n"
    "\":0,\"sure\":1,"
    "\"kind\":\"substitute\"}],\"answer\":\"na\\u00efve caf\\u00e9\",\"date\":\"2024-02-29T12:30:00Z\",\"id\":\"abc-123\",\"none"
    "\":null,"
    "\"list\":[[],{},[[1.5e10,true]],{\"a\":{\"b\":[false]}}]}";

static void take(const shk_grammar *g, const shk_tokenizer *t, const char *text) {
    shk_matcher *m;
    shk_error err;
    int32_t *ids;
    size_t n, i = 0;
    NEED(!shk_matcher_new(&m, g, &err) && !shk_tokenize(t, text, strlen(text), 0, &ids, &n, &err), "%s", err.message);
    while (i < n && !shk_matcher_accept(m, ids[i], &err)) i++;
    CHECK(i == n && shk_matcher_state(m) == SHK_MATCH_DONE, "token %zu of %zu, %s: %s", i, n, i < n ? err.message : "no end", text);
    free(ids);
    shk_matcher_free(m);
}

static void test_documents(const shk_tokenizer *t) {
    static const size_t written[] = { JSON_COMPACT, 0, JSON_INDENT(2), JSON_INDENT(4), JSON_INDENT(1) };
    json_t *value = json_loads(document, 0, NULL);
    shk_grammar *any, *own;
    shk_error err;
    NEED(value && !shk_grammar_new(&any, t, NULL, &err) && !shk_grammar_new(&own, t, schema, &err), "a grammar");
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        char *text = json_dumps(value, written[i]);
        NEED(text, "no memory");
        take(any, t, text);
        take(own, t, text);
        free(text);
    }
    shk_grammar_free(any);
    shk_grammar_free(own);
    json_decref(value);
}

int main(void) {
    shk_tokenizer *t = NULL;
    shk_error err = { 0 };
    char path[4096];
    if (!gemma3_file(path, sizeof path)) {
        SKIP("%s is not there: tools/fetch_model.py fetches it", path);
        return test_done();
    }
    NEED(!shk_tokenizer_load(&t, path, &err), "%s", err.message);
    test_documents(t);
    check_walks(t, test_short() ? 3 : 40);
    shk_tokenizer_free(t);
    return test_done();
}
