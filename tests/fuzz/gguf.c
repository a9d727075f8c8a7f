#include "file/gguf.h"

#include "fuzz.h"

/* Reads every value that the parser let through. */
static bool accepts(const uint8_t *data, size_t n) {
    shk_gguf g;
    if (shk_gguf_parse(&g, "input", data, n, NULL)) return false;
    int64_t integer;
    double real, sum = 0;
    shk_str s;
    for (size_t k = 0; k < g.n_meta; k++) {
        const shk_meta *m = &g.meta[k];
        const uint8_t *at = m->data;
        for (uint64_t i = 0; m->type == SHK_META_ARRAY && i < m->n; i++) {
            if (m->elem == SHK_META_STRING) s = shk_meta_next_str(&at), sum += s.n ? s.data[0] + s.data[s.n - 1] : 0;
            else sum += shk_meta_int_at(m, i, &integer) + shk_meta_real_at(m, i, &real);
        }
        sum += shk_meta_int(m, &integer) + shk_meta_real(m, &real) + (shk_meta_str(m, &s) && s.n ? s.data[s.n - 1] : 0);
    }
    for (size_t i = 0; i < g.tensors.n; i++) {
        const uint8_t *bytes = g.tensors.items[i].data;
        if (g.tensors.items[i].n_bytes) sum += bytes[0] + bytes[g.tensors.items[i].n_bytes - 1];
    }
    volatile double sink = sum;
    (void)sink;
    shk_gguf_free(&g);
    return true;
}
