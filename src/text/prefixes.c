#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

/* By bytes, a start before what goes on from it; of equal pieces the first id. */
static int by_bytes(const void *a, const void *b) {
    const shk_key *x = a, *y = b;
    int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    if (order == 0 && x->n != y->n) order = x->n < y->n ? -1 : 1;
    return order ? order : x->id < y->id ? -1 : x->id > y->id;
}

bool shk_prefixes_build(shk_prefixes *x, const shk_tokenizer *t, unsigned types) {
    size_t n = 0;
    for (int32_t id = 0; id < t->n; id++) n += types >> t->type[id] & 1;
    x->keys = shk_calloc(n, sizeof *x->keys);
    if (!x->keys) return false;
    for (int32_t id = 0; id < t->n; id++) {
        size_t length;
        const char *p = shk_piece(t, id, &length);
        if ((types >> t->type[id] & 1) && length > 0) x->keys[x->n++] = (shk_key){ (const uint8_t *)p, (uint32_t)length, id };
    }
    qsort(x->keys, x->n, sizeof *x->keys, by_bytes);
    for (size_t i = 0; i < x->n; i++) x->first[x->keys[i].p[0] + 1]++;
    for (int b = 0; b < 256; b++) x->first[b + 1] += x->first[b];
    return true;
}

shk_walk shk_prefixes_start(const shk_prefixes *x, uint8_t first) { return (shk_walk){ x->first[first], x->first[first + 1], 1 }; }

/* The first of keys [lo, hi), which are longer than `depth`, whose byte there is at least `byte`. */
static uint32_t lower_bound(const shk_prefixes *x, uint32_t lo, uint32_t hi, uint32_t depth, unsigned byte) {
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if (x->keys[middle].p[depth] < byte) lo = middle + 1;
        else hi = middle;
    }
    return lo;
}

bool shk_prefixes_step(const shk_prefixes *x, shk_walk *w, uint8_t next) {
    while (w->lo < w->hi && x->keys[w->lo].n == w->depth) w->lo++; /* these end here */
    w->lo = lower_bound(x, w->lo, w->hi, w->depth, next);
    w->hi = lower_bound(x, w->lo, w->hi, w->depth, next + 1u);
    w->depth++;
    return w->lo < w->hi;
}
