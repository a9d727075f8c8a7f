/* A JSON schema, then a walk over its masks: no schema, however it is made, may lead to a place from which there is no way on. */
#include "fuzz.h"

#include "../unit/json_pieces.h"
#include "sparkhawk.h"

static bool walk(const shk_grammar *g) {
    uint32_t bits[(J_COUNT + 31) / 32];
    unsigned long long seed = 1;
    shk_matcher *m;
    if (shk_matcher_new(&m, g, NULL)) return false; /* there may be too many ways */
    for (int i = 0; i < 24; i++) {
        shk_status status = shk_matcher_mask(m, bits, J_COUNT, NULL);
        if (status == SHK_E_LIMIT) break;
        if (status) abort();
        int32_t next = (int32_t)(test_random(&seed) % J_COUNT);
        while (!(bits[next >> 5] >> (next & 31) & 1)) next = (next + 1) % J_COUNT;
        status = shk_matcher_accept(m, next, NULL);
        if (status == SHK_E_LIMIT) break;
        if (status) abort();
    }
    shk_matcher_free(m);
    return true;
}

static bool accepts(const uint8_t *data, size_t n) {
    static shk_tokenizer *t;
    shk_grammar *g;
    if (!t) t = json_tokenizer();
    char *schema = malloc(n + 1);
    if (!t || !schema) abort();
    memcpy(schema, data, n);
    schema[n] = 0;
    bool ok = shk_grammar_new(&g, t, schema, NULL) == SHK_OK;
    free(schema);
    if (ok) walk(g);
    if (ok) shk_grammar_free(g);
    return ok;
}
