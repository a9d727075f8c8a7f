#include "grammar/grammar.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

enum { BUCKETS = 512, MAX_BYTES = 64 << 20 };

struct shk_masks {
    pthread_mutex_t lock;
    size_t n_words, bytes;
    shk_mask *buckets[BUCKETS];
};

shk_masks *shk_masks_new(size_t n_words) {
    shk_masks *x = shk_calloc(1, sizeof *x);
    if (!x) return NULL;
    pthread_mutex_init(&x->lock, NULL);
    x->n_words = n_words;
    return x;
}

void shk_masks_free(shk_masks *x) {
    if (!x) return;
    for (size_t i = 0; i < BUCKETS; i++)
        for (shk_mask *m = x->buckets[i], *next; m; m = next) {
            next = m->next;
            free(m);
        }
    pthread_mutex_destroy(&x->lock);
    free(x);
}

static uint64_t hash(const uint32_t *key, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = (h ^ key[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return h;
}

const shk_mask *shk_masks_find(shk_masks *x, const uint32_t *key, size_t n_key) {
    uint64_t h = hash(key, n_key);
    pthread_mutex_lock(&x->lock);
    const shk_mask *m = x->buckets[h % BUCKETS];
    while (m && !(m->hash == h && m->n_key == n_key && !memcmp(m->key, key, n_key * sizeof *key))) m = m->next;
    pthread_mutex_unlock(&x->lock);
    return m;
}

void shk_masks_add(shk_masks *x, const uint32_t *key, size_t n_key, const uint32_t *found, size_t n_found, const uint32_t *bits) {
    size_t bytes = sizeof(shk_mask) + (n_key + n_found + x->n_words) * sizeof(uint32_t);
    uint64_t h = hash(key, n_key);
    shk_mask *m = shk_calloc(1, bytes);
    if (!m) return;
    *m = (shk_mask){ .hash = h, .n_key = n_key, .n_found = n_found, .key = (uint32_t *)(m + 1) };
    m->found = m->key + n_key;
    m->bits = m->found + n_found;
    memcpy(m->key, key, n_key * sizeof *key);
    if (n_found) memcpy(m->found, found, n_found * sizeof *found);
    memcpy(m->bits, bits, x->n_words * sizeof *bits);
    pthread_mutex_lock(&x->lock);
    bool fits = bytes <= MAX_BYTES - x->bytes;
    if (fits) {
        x->bytes += bytes;
        m->next = x->buckets[h % BUCKETS];
        x->buckets[h % BUCKETS] = m;
    }
    pthread_mutex_unlock(&x->lock);
    if (!fits) free(m);
}

shk_status shk_grammar_new(shk_grammar **out, const shk_tokenizer *t, const char *schema, shk_error *err) {
    shk_grammar *g = shk_calloc(1, sizeof *g);
    *out = NULL;
    if (!g) return shk_fail(err, SHK_E_MEMORY, "out of memory for a grammar");
    g->tokenizer = t;
    g->n_words = ((size_t)shk_tokenizer_vocab_size(t) + 31) / 32;
    shk_status status = shk_schema_compile(&g->automaton, schema, err);
    if (!status && !(g->masks = shk_masks_new(g->n_words))) status = shk_fail(err, SHK_E_MEMORY, "out of memory for a grammar");
    if (!status) status = shk_tokenizer_trie(t, &g->trie, err);
    if (status) shk_grammar_free(g);
    else *out = g;
    return status;
}

void shk_grammar_free(shk_grammar *g) {
    if (!g) return;
    shk_automaton_free(&g->automaton);
    shk_masks_free(g->masks);
    free(g);
}
