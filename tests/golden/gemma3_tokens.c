/* Gemma 3's vocabulary against the `tokenizers` library: the ids of 37 awkward texts are in gemma3_tokens.json. That library reads
 * every text as notation: <bos> is the token and U+2581 is a space. */
#include <jansson.h>
#include <stdbool.h>

#include "../test.h"
#include "gemma3_file.h"
#include "sparkhawk.h"

static void check(const shk_tokenizer *t, const json_t *test) {
    const json_t *text = json_object_get(test, "text"), *want = json_object_get(test, "ids");
    const char *s = json_string_value(text);
    size_t n = json_string_length(text), n_ids, n_back;
    int32_t *ids;
    char *back;
    NEED(!shk_tokenize(t, s, n, SHK_TOKENIZE_SPECIAL, &ids, &n_ids, NULL), "%s", s);
    bool same = n_ids == json_array_size(want);
    for (size_t i = 0; i < n_ids && same; i++) same = ids[i] == json_integer_value(json_array_get(want, i));
    CHECK(same, "%zu ids, not those expected: %s", n_ids, s);
    free(ids);
    NEED(!shk_tokenize(t, s, n, 0, &ids, &n_ids, NULL) && !shk_detokenize(t, ids, n_ids, 0, &back, &n_back, NULL), "%s", s);
    CHECK(n == n_back && memcmp(s, back, n) == 0, "came back as %s: %s", back, s);
    free(ids);
    free(back);
}

int main(void) {
    char path[4096];
    if (!gemma3_file(path, sizeof path)) {
        SKIP("%s is not there: tools/fetch_model.py fetches it", path);
        return test_done();
    }
    shk_tokenizer *t = NULL;
    shk_error err = { 0 };
    NEED(!shk_tokenizer_load(&t, path, &err), "%s", err.message);
    json_t *tests = json_load_file("tests/golden/gemma3_tokens.json", JSON_ALLOW_NUL, NULL), *test;
    NEED(json_array_size(tests) == 37, "tests/golden/gemma3_tokens.json");
    size_t i;
    json_array_foreach(tests, i, test) check(t, test);
    json_decref(tests);
    shk_tokenizer_free(t);
    return test_done();
}
