#include "model/config.h"

#include "fuzz.h"

/* A config.json that is accepted can be written in both forms. */
static bool accepts(const uint8_t *data, size_t n) {
    json_t *root = json_loadb((const char *)data, n, JSON_REJECT_DUPLICATES, NULL);
    shk_config c;
    bool ok = root && shk_config_from_json(&c, root, "input", NULL) == SHK_OK;
    if (ok) {
        json_decref(shk_config_to_json(&c, "bfloat16"));
        shk_gguf_meta *m = shk_gguf_meta_new();
        if (m) shk_config_to_gguf(&c, m, true);
        shk_gguf_meta_free(m);
        shk_config_free(&c);
    }
    json_decref(root);
    return ok;
}
