#include "text/trie.h"

#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

enum {
    TYPES = 1 << SHK_PIECE_NORMAL | 1 << SHK_PIECE_USER | 1 << SHK_PIECE_BYTE,
    MAX_NODES = 1 << 26
};

void shk_trie_free(shk_trie *x) {
    if (!x) return;
    free(x->nodes);
    free(x->ids);
    free(x);
}

bool shk_trie_wants(const shk_tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->n || !(TYPES >> t->type[id] & 1)) return false;
    return !shk_tokenizer_is_end(t, id) && id != t->bos && id != t->pad && id != t->unk && id != t->turn_start;
}

/* Bytes that two keys start with in common. */
static uint32_t common(const shk_key *a, const shk_key *b) {
    uint32_t i = 0;
    while (i < a->n && i < b->n && a->p[i] == b->p[i]) i++;
    return i;
}

/* Keys in order, so each one's nodes but for those that it shares with the key before come behind those of the latter. */
static void fill(shk_trie *x, const shk_prefixes *keys, const shk_tokenizer *t) {
    uint32_t path[SHK_PIECE_MAX + 1] = { 0 }, depth = 0, n = 1, n_ids = 0;
    for (size_t k = 0; k < keys->n; k++) {
        const shk_key *key = &keys->keys[k];
        uint32_t shared = k ? common(key - 1, key) : 0, opening = 0;
        for (; depth > shared; depth--) x->nodes[path[depth]].skip = n;
        for (; depth < key->n; n++) {
            x->nodes[n] = (shk_trie_node){ .first = n_ids, .byte = key->p[depth], .depth = (uint16_t)(depth + 1) };
            path[++depth] = n;
        }
        if (key->n > x->longest) x->longest = key->n;
        if (!shk_trie_wants(t, key->id)) continue;
        x->ids[n_ids++] = key->id;
        for (uint32_t i = 0; i < key->n; i++) opening += key->p[i] == '{' || key->p[i] == '[';
        if (opening > x->opening) x->opening = opening;
    }
    for (; depth > 0; depth--) x->nodes[path[depth]].skip = n;
    x->n = x->nodes[0].skip = x->nodes[n].skip = n;
    x->nodes[n].first = n_ids;
    for (int32_t id = 0; id < t->n && x->n_ends < sizeof x->ends / sizeof *x->ends; id++)
        if (shk_tokenizer_is_end(t, id)) x->ends[x->n_ends++] = id;
}

static shk_status build(shk_trie **out, const shk_tokenizer *t, shk_error *err) {
    shk_prefixes keys = { 0 };
    shk_trie *x = shk_calloc(1, sizeof *x);
    shk_status status = SHK_OK;
    bool made = x && shk_prefixes_build(&keys, t, TYPES);
    size_t n = 1;
    for (size_t k = 0; k < keys.n; k++) n += keys.keys[k].n - (k ? common(&keys.keys[k - 1], &keys.keys[k]) : 0);
    if (n > MAX_NODES) {
        status = shk_fail(err, SHK_E_LIMIT, "the vocabulary's pieces have %zu different beginnings, more than %d", n, MAX_NODES);
        goto done;
    }
    if (made) x->nodes = shk_calloc(n + 1, sizeof *x->nodes), x->ids = shk_calloc(keys.n, sizeof *x->ids);
    if (!made || !x->nodes || !x->ids) {
        status = shk_fail(err, SHK_E_MEMORY, "out of memory for the tree of a vocabulary");
        goto done;
    }
    fill(x, &keys, t);
    *out = x, x = NULL;
done:
    free(keys.keys);
    shk_trie_free(x);
    return status;
}

shk_status shk_tokenizer_trie(const shk_tokenizer *t, const shk_trie **out, shk_error *err) {
    _Atomic(shk_trie *) *slot = (_Atomic(shk_trie *) *)(uintptr_t)&t->pieces; /* nothing that a caller sees changes by it */
    shk_trie *made = NULL, *there = atomic_load(slot);
    shk_status status = there ? SHK_OK : build(&made, t, err);
    if (made && !atomic_compare_exchange_strong(slot, &there, made)) shk_trie_free(made); /* another thread was faster */
    else if (made) there = made;
    *out = there;
    return status;
}
