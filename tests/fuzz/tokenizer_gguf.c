/* The vocabulary of a GGUF file, then a text with what it gave. */
#include "fuzz.h"
#include "tokenizing.h"

#include "text/tokenizer.h"

static bool accepts(const uint8_t *data, size_t n) {
    shk_gguf g;
    shk_tokenizer *t = NULL;
    shk_error err;
    if (shk_gguf_parse(&g, "fuzz", data, n, &err)) return false;
    shk_status status = shk_tokenizer_from_gguf(&t, &g, &err);
    shk_gguf_free(&g);
    if (t) tokenize_samples(t);
    shk_tokenizer_free(t);
    return status == SHK_OK;
}
