/* One text: the set of places where the grammar's automaton can be, and the tokens that may come next.
 *
 * A token's bytes are looked up where they can be: down the tree of all pieces, as far as the automaton goes. Inside of a string
 * that is most of the tree, so the outcome is kept under what it depends on: the places, and their stacks down to the call that all
 * of them are in. Where a piece goes on behind that call's end, the walk notes how far it came, and continues there with what lies
 * below in this text; that is a small part of the tree. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar.h"
#include "grammar/walk.h"
#include "mem.h"

enum {
    WORK = 1 << 22,   /* steps of the automaton for one mask or token: a tenth of a second */
    WORTH_KEEPING = 2048 /* nodes of the tree that a walk has visited, to have its outcome kept */
};

struct shk_matcher {
    const shk_grammar *g;
    shk_machine text, spare; /* text holds `set` and its stacks, and what working with them has left */
    shk_set set;
    shk_walker walker;
    uint32_t *bits;          /* [g->n_words] */
    uint32_t *from;          /* [from_room] where in the tree a walk goes on */
    size_t from_room;
    uint32_t *key;           /* [key_room] */
    size_t key_room;
};

static shk_status explain(shk_status status, shk_error *err) {
    if (status == SHK_E_LIMIT) return shk_fail(err, status, "the schema has too many ways to read the text so far");
    return status ? shk_fail(err, status, "out of memory for matching a text") : SHK_OK;
}

/* Makes `s` the matcher's set, and forgets all frames but those of its stacks. */
static shk_status settle(shk_matcher *m, shk_set s) {
    shk_machine_clear(&m->spare, &m->g->automaton, SHK_MAX_DEPTH, WORK);
    shk_set kept = shk_machine_copy(&m->spare, &m->text, s, 0, SHK_MANY);
    if (m->spare.status) return m->spare.status;
    shk_machine old = m->text;
    m->text = m->spare, m->spare = old, m->set = kept;
    return SHK_OK;
}

static shk_matcher *new_matcher(const shk_grammar *g) {
    shk_matcher *m = shk_calloc(1, sizeof *m);
    if (!m) return NULL;
    m->g = g;
    m->bits = shk_calloc(g->n_words, sizeof *m->bits);
    shk_machine_clear(&m->text, &g->automaton, SHK_MAX_DEPTH, WORK);
    if (m->bits && !m->text.status) return m;
    shk_matcher_free(m);
    return NULL;
}

shk_status shk_matcher_new(shk_matcher **out, const shk_grammar *g, shk_error *err) {
    shk_matcher *m = *out = new_matcher(g);
    if (!m) return explain(SHK_E_MEMORY, err);
    m->set = shk_machine_enter(&m->text, g->automaton.start);
    shk_status status = m->text.status;
    if (status) shk_matcher_free(m), *out = NULL;
    return explain(status, err);
}

shk_status shk_matcher_fork(shk_matcher **out, const shk_matcher *m, shk_error *err) {
    shk_matcher *copy = *out = new_matcher(m->g);
    if (!copy) return explain(SHK_E_MEMORY, err);
    shk_machine from = m->text; /* whose notes on what is being copied are not the caller's to change */
    from.map = NULL, from.map_room = 0;
    copy->set = shk_machine_copy(&copy->text, &from, m->set, 0, SHK_MANY);
    free(from.map);
    shk_status status = copy->text.status;
    if (status) shk_matcher_free(copy), *out = NULL;
    return explain(status, err);
}

void shk_matcher_free(shk_matcher *m) {
    if (!m) return;
    shk_machine_free(&m->text);
    shk_machine_free(&m->spare);
    shk_walker_free(&m->walker);
    free(m->bits);
    free(m->from);
    free(m->key);
    free(m);
}

shk_match shk_matcher_state(const shk_matcher *m) {
    return m->set.n ? m->set.ended ? SHK_MATCH_COMPLETE : SHK_MATCH_OPEN : SHK_MATCH_DONE;
}

/* ---- masks ---- */

/* What the walk from set `s` alone depends on: m->key [*n]. */
static bool make_key(shk_matcher *m, shk_set s, size_t *n) {
    const shk_machine *x = &m->walker.m;
    size_t frames = (size_t)x->n_frames * sizeof *x->frames, configs = (size_t)s.n * sizeof *x->configs;
    *n = 1 + (frames + configs) / sizeof *m->key;
    if (*n > m->key_room) {
        uint32_t *larger = shk_realloc(m->key, *n, 2 * sizeof *larger);
        if (!larger) return false;
        m->key = larger, m->key_room = 2 * *n;
    }
    m->key[0] = x->limit;
    memcpy(m->key + 1, x->frames, frames);
    memcpy((char *)(m->key + 1) + frames, x->configs + s.first, configs);
    return true;
}

/* The set, its stacks cut at the base and its counts at what a piece can tell apart, as the walker's. */
static shk_set cut(shk_matcher *m, shk_set s, uint32_t base) {
    const shk_trie *t = m->g->trie;
    shk_machine *x = &m->walker.m;
    uint32_t left = SHK_MAX_DEPTH - m->text.frames[base].depth, deepest = 0;
    shk_machine_clear(x, &m->g->automaton, 0, WORK);
    shk_set out = shk_machine_copy(x, &m->text, s, base, t->longest);
    for (uint32_t i = 0; i < x->n_frames; i++)
        if (x->frames[i].depth > deepest) deepest = x->frames[i].depth;
    uint32_t enough = deepest + t->opening + m->g->automaton.height;
    x->limit = left < enough ? left : enough;
    return out;
}

/* One walk, from m->from [n] with the part of the stacks above the base: adds to m->bits. *found, for as long as the walker is not
 * used again, is where it came to the base. */
static shk_status walk(shk_matcher *m, shk_set s, uint32_t base, size_t n, const uint32_t **found, size_t *n_found) {
    shk_walker *w = &m->walker;
    bool whole = n == 1 && m->from[0] == 0;
    size_t n_key = 0;
    shk_set start = cut(m, s, base);
    if (w->m.status) return w->m.status;
    if (whole) {
        if (!make_key(m, start, &n_key)) return SHK_E_MEMORY;
        const shk_mask *kept = shk_masks_find(m->g->masks, m->key, n_key);
        if (kept) {
            memcpy(m->bits, kept->bits, m->g->n_words * sizeof *m->bits);
            *found = kept->found, *n_found = kept->n_found;
            return SHK_OK;
        }
    }
    shk_walk(w, m->g->trie, start, m->from, n, m->bits);
    if (w->m.status) return w->m.status;
    *found = w->found, *n_found = w->n_found;
    if (whole && w->visited > WORTH_KEEPING) shk_masks_add(m->g->masks, m->key, n_key, w->found, w->n_found, m->bits);
    return SHK_OK;
}

static bool set_from(shk_matcher *m, const uint32_t *nodes, size_t n) {
    if (n > m->from_room) {
        uint32_t *larger = shk_realloc(m->from, n, 2 * sizeof *larger);
        if (!larger) return false;
        m->from = larger, m->from_room = 2 * n;
    }
    if (n) memcpy(m->from, nodes, n * sizeof *nodes);
    return true;
}

/* Tokens that the text can go on with, into m->bits: with the innermost call that is common to all places, then with the one around
 * it, until no piece comes to the end of one. */
static shk_status find_bits(shk_matcher *m) {
    static const uint32_t root[] = { 0 };
    const uint32_t *found = root;
    size_t n = 1;
    shk_set s = m->set;
    memset(m->bits, 0, m->g->n_words * sizeof *m->bits);
    m->text.work = WORK;
    while (n > 0 && s.n > 0) {
        uint32_t base = shk_machine_base(&m->text, s);
        if (!set_from(m, found, n)) return SHK_E_MEMORY;
        shk_status status = walk(m, s, base, n, &found, &n);
        if (status || base == 0) return status;
        s = shk_machine_resume(&m->text, base);
        if (m->text.status) return m->text.status;
    }
    return SHK_OK;
}

/* Fills m->bits, end tokens included. */
static shk_status find_mask(shk_matcher *m, int32_t vocab, shk_error *err) {
    shk_status status = find_bits(m), settled = settle(m, m->set);
    if (!status) status = settled;
    if (status) return explain(status, err);
    const shk_trie *t = m->g->trie;
    for (uint32_t i = 0; i < t->n_ends && m->set.ended; i++) m->bits[t->ends[i] >> 5] |= 1u << (t->ends[i] & 31);
    bool any = false;
    for (size_t i = 0; i < m->g->n_words && 32 * i < (size_t)vocab && !any; i++) {
        size_t last = (size_t)vocab - 32 * i; /* bits of this word that count */
        any = last < 32 ? m->bits[i] << (32 - last) : m->bits[i];
    }
    return any ? SHK_OK : shk_fail(err, SHK_E_UNSUPPORTED, "no token of the vocabulary continues the text as its grammar wants it");
}

shk_status shk_matcher_mask(shk_matcher *m, uint32_t *bits, int32_t vocab, shk_error *err) {
    size_t n = ((size_t)vocab + 31) / 32, known = n < m->g->n_words ? n : m->g->n_words;
    shk_status status = find_mask(m, vocab, err);
    if (status) return status;
    memcpy(bits, m->bits, known * sizeof *bits);
    memset(bits + known, 0, (n - known) * sizeof *bits);
    if (vocab % 32) bits[n - 1] &= (1u << vocab % 32) - 1;
    return SHK_OK;
}

shk_status shk_matcher_apply(shk_matcher *m, float *logits, int32_t vocab, shk_error *err) {
    shk_status status = find_mask(m, vocab, err);
    for (size_t id = 0; id < (size_t)vocab && !status; id += 32) {
        uint32_t word = id / 32 < m->g->n_words ? m->bits[id / 32] : 0;
        size_t end = id + 32 < (size_t)vocab ? id + 32 : (size_t)vocab;
        for (size_t i = id; i < end && word != UINT32_MAX; i++)
            if (!(word >> (i & 31) & 1)) logits[i] = -INFINITY;
    }
    return status;
}

/* ---- going on ---- */

shk_status shk_matcher_accept(shk_matcher *m, int32_t id, shk_error *err) {
    const shk_tokenizer *t = m->g->tokenizer;
    const char *text;
    shk_set s = { 0 };
    m->text.work = WORK;
    if (shk_tokenizer_is_end(t, id)) {
        s.ended = m->set.ended;
    } else if (shk_trie_wants(t, id)) {
        size_t n = shk_token_bytes(t, id, 0, &text);
        if (n > 0 && m->set.n > 0) s = m->set;
        for (size_t i = 0; i < n && s.n > 0; i++) {
            s = shk_machine_step(&m->text, s, (uint8_t)text[i]);
            if (s.n == 0 && i + 1 < n) s.ended = false; /* too early */
        }
    }
    shk_status status = m->text.status;
    bool alive = !status && shk_set_alive(s);
    if (!status) status = settle(m, alive ? s : m->set);
    m->text.status = SHK_OK;
    if (status) return explain(status, err);
    return alive ? SHK_OK : shk_fail(err, SHK_E_ARGUMENT, "token %d may not come next in the text", id);
}
