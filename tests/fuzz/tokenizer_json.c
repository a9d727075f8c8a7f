/* A tokenizer.json, then a text with what it gave. */
#include "fuzz.h"
#include "tokenizing.h"

static bool accepts(const uint8_t *data, size_t n) {
    shk_tokenizer *t;
    shk_error err;
    if (shk_tokenizer_from_json(&t, data, n, "fuzz", &err)) return false;
    tokenize_samples(t);
    shk_tokenizer_free(t);
    return true;
}
