/* Byte-pair encoding: neighbours are merged, best pair first and of equal ones the leftmost, until no pair makes a piece.
 * The symbols are a doubly linked list, the pairs wait in a heap: n log n.
 *
 * A merge never makes what is no piece. So where a text has two bytes that are neighbours in no piece it can be cut, and
 * what lies between cuts, a word mostly, is encoded on its own. */
#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

enum { NONE = UINT32_MAX, GONE = UINT32_MAX - 1 };

typedef struct symbol {
    uint32_t begin, end; /* bytes of the text */
    uint32_t prev, next; /* symbols; NONE at the ends. Once merged into its left neighbour: next is GONE and prev is what */
    uint32_t last;       /* `last` was there; that is the symbol merged into this one most recently, or NONE */
    int32_t id;
} symbol;

typedef struct pair {
    uint64_t order; /* rank, then the left symbol: the smallest comes first */
    uint32_t end;   /* of the right symbol's bytes */
    int32_t id;     /* of the piece that the two make */
} pair;

typedef struct bpe {
    const shk_tokenizer *t;
    const char *text;
    shk_ids *ids;
    symbol *symbols;
    size_t n_symbols, symbol_capacity;
    pair *heap;
    size_t n_heap, heap_capacity;
} bpe;

/* The items, moved if need be, with room for n; NULL for lack of memory. */
static void *grow(void *items, size_t *capacity, size_t n, size_t size) {
    if (n <= *capacity) return items;
    size_t larger = 2 * *capacity > n ? 2 * *capacity : n;
    if (larger < 64) larger = 64;
    items = shk_realloc(items, larger, size);
    if (items) *capacity = larger;
    return items;
}

/* ---- the heap ---- */

static void push(bpe *b, pair p) {
    pair *heap = grow(b->heap, &b->heap_capacity, b->n_heap + 1, sizeof p);
    if (!heap) {
        b->ids->failed = true;
        return;
    }
    b->heap = heap;
    size_t i = b->n_heap++;
    for (size_t up; i > 0 && p.order < b->heap[up = (i - 1) / 2].order; i = up) b->heap[i] = b->heap[up];
    b->heap[i] = p;
}

static pair pop(bpe *b) {
    pair first = b->heap[0], p = b->heap[--b->n_heap];
    size_t i = 0;
    for (size_t down; (down = 2 * i + 1) < b->n_heap; i = down) {
        if (down + 1 < b->n_heap && b->heap[down + 1].order < b->heap[down].order) down++;
        if (p.order <= b->heap[down].order) break;
        b->heap[i] = b->heap[down];
    }
    b->heap[i] = p;
    return first;
}

/* ---- merging ---- */

/* Maps floats to integers in reverse order. */
static uint32_t rank_of(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~bits & 0x7fffffff;
}

/* Puts the pair of a symbol and the next one into the heap, if the two make a piece. */
static void consider(bpe *b, uint32_t left) {
    const symbol *l = &b->symbols[left], *r;
    if (left == NONE || l->next == NONE) return;
    r = &b->symbols[l->next];
    pair p = { .end = r->end };
    uint32_t rank;
    if (b->t->algorithm == SHK_BPE_MERGES) {
        const shk_merge *m = shk_merges_find(b->t, l->id, r->id);
        if (!m) return;
        p.id = m->id, rank = m->rank_1;
    } else {
        p.id = shk_vocab_find(b->t, b->text + l->begin, r->end - l->begin);
        if (p.id == SHK_NO_ID) return;
        rank = rank_of(b->t->score[p.id]);
    }
    p.order = (uint64_t)rank << 32 | left;
    push(b, p);
}

static void merge(bpe *b, pair p) {
    uint32_t left = (uint32_t)p.order, right;
    symbol *l = &b->symbols[left], *r;
    if (l->next == GONE || l->next == NONE) return;
    right = l->next, r = &b->symbols[right];
    if (r->end != p.end) return; /* one of the two has grown since */
    l->end = r->end, l->next = r->next, l->id = p.id;
    if (r->next != NONE) b->symbols[r->next].prev = left;
    r->next = GONE, r->prev = l->last, l->last = right;
    consider(b, l->prev);
    consider(b, left);
}

/* Puts out symbol i as it was when `last` had just been merged into it and it ended at `end`. A piece that must not come
 * out is taken apart the way it was made; SHK_PIECE_MAX bounds the depth. */
static void emit(bpe *b, uint32_t i, uint32_t last, uint32_t end) {
    const symbol *s = &b->symbols[i];
    const char *p = b->text + s->begin;
    size_t n = end - s->begin;
    int32_t id = end == s->end ? s->id : shk_vocab_find(b->t, p, n);
    if (id == SHK_NO_ID) {
        shk_ids_push_unmatched(b->t, b->ids, p, n);
    } else if (b->t->type[id] == SHK_PIECE_UNUSED && last != NONE) {
        const symbol *joined = &b->symbols[last];
        emit(b, i, joined->prev, joined->begin);
        emit(b, last, joined->last, end);
    } else {
        shk_ids_push(b->ids, id);
    }
}

static bool split(bpe *b, size_t from, size_t to) {
    b->n_symbols = b->n_heap = 0;
    for (size_t at = from, n; at < to; at += n) {
        uint32_t i = (uint32_t)b->n_symbols;
        symbol *symbols = grow(b->symbols, &b->symbol_capacity, b->n_symbols + 1, sizeof *symbols);
        if (!symbols) return false;
        b->symbols = symbols;
        n = shk_utf8_length(b->text + at, to - at);
        b->symbols[b->n_symbols++] = (symbol){ .begin = (uint32_t)at, .end = (uint32_t)(at + n), .prev = i ? i - 1 : NONE,
                                               .next = at + n < to ? i + 1 : NONE, .last = NONE,
                                               .id = shk_vocab_find(b->t, b->text + at, n) };
    }
    return true;
}

static void encode(bpe *b, size_t from, size_t to) {
    if (from == to) return;
    if (!split(b, from, to)) {
        b->ids->failed = true;
        return;
    }
    for (uint32_t i = 0; i < b->n_symbols; i++) consider(b, i);
    while (b->n_heap > 0) merge(b, pop(b));
    for (uint32_t i = 0; i != NONE; i = b->symbols[i].next) emit(b, i, b->symbols[i].last, b->symbols[i].end);
}

void shk_bpe(const shk_tokenizer *t, const char *text, size_t n, shk_ids *ids) {
    bpe b = { .t = t, .text = text, .ids = ids };
    size_t from = 0, at = 0;
    while (at < n && !ids->failed) {
        int32_t mark;
        size_t length = shk_vocab_mark(t, text + at, n - at, false, &mark);
        if (length > 0) {
            encode(&b, from, at);
            shk_ids_push(ids, mark);
            from = at += length;
            continue;
        }
        at += shk_utf8_length(text + at, n - at);
        if (at == n || !shk_vocab_joined(t, text[at - 1], text[at])) encode(&b, from, at), from = at;
    }
    free(b.symbols);
    free(b.heap);
}
