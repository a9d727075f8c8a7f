#include "grammar/walk.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

enum { UNKNOWN, NONE, FIRST, MAX_SETS = 1 << 14 /* 8 MiB of rows */, ENDED = 1 << 15 };

void shk_walker_free(shk_walker *w) {
    shk_machine_free(&w->m);
    void *owned[] = { w->sets, w->rows, w->index, w->at, w->found };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    *w = (shk_walker){ 0 };
}

static void fail(shk_walker *w, shk_status status) {
    if (!w->m.status) w->m.status = status;
}

static uint64_t hash(const shk_walker *w, shk_set s) {
    const shk_config *c = w->m.configs + s.first;
    uint64_t h = s.ended;
    for (uint32_t i = 0; i < s.n; i++) {
        h = (h ^ ((uint64_t)c[i].node << 32 | c[i].frame)) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h >> 8;
}

static bool equal(const shk_walker *w, shk_set a, shk_set b) {
    const shk_config *c = w->m.configs;
    return a.n == b.n && a.ended == b.ended && (a.n == 0 || !memcmp(c + a.first, c + b.first, a.n * sizeof *c));
}

static bool grow_sets(shk_walker *w) {
    uint32_t room = w->sets_room ? 2 * w->sets_room : 64, size = 2 * room;
    shk_set *sets = shk_realloc(w->sets, room, sizeof *sets);
    if (sets) w->sets = sets;
    uint16_t *rows = sets ? shk_realloc(w->rows, room, 256 * sizeof *rows) : NULL;
    if (rows) w->rows = rows;
    uint32_t *index = rows ? shk_calloc(size, sizeof *index) : NULL;
    if (!index) return fail(w, SHK_E_MEMORY), false;
    for (uint32_t i = FIRST; i < w->n_sets; i++) {
        uint64_t h = hash(w, w->sets[i]);
        while (index[h & (size - 1)]) h++;
        index[h & (size - 1)] = i;
    }
    free(w->index);
    w->index = index, w->index_size = size, w->sets_room = room;
    return true;
}

/* The number of the set that the machine has just made. */
static uint32_t number(shk_walker *w, shk_set s) {
    if (!shk_set_alive(s)) return NONE;
    if (w->n_sets == MAX_SETS) return fail(w, SHK_E_LIMIT), NONE;
    if (w->n_sets >= w->sets_room && !grow_sets(w)) return NONE;
    uint64_t h = hash(w, s);
    for (uint32_t i; (i = w->index[h & (w->index_size - 1)]); h++)
        if (equal(w, w->sets[i], s)) {
            w->m.n_configs = s.first;
            return i;
        }
    w->sets[w->n_sets] = s;
    memset(w->rows + 256 * (size_t)w->n_sets, 0, 256 * sizeof *w->rows);
    return w->index[h & (w->index_size - 1)] = w->n_sets++;
}

static uint32_t step(shk_walker *w, uint32_t from, uint8_t byte) {
    uint32_t to = number(w, shk_machine_step(&w->m, w->sets[from], byte));
    if (to != NONE && w->sets[to].ended) to |= ENDED;
    w->rows[256 * (size_t)from + byte] = (uint16_t)to;
    return to;
}

static void note(shk_walker *w, uint32_t node) {
    if (w->n_found == w->found_room) {
        uint32_t room = w->found_room ? 2 * w->found_room : 256, *larger = shk_realloc(w->found, room, sizeof *larger);
        if (!larger) {
            fail(w, SHK_E_MEMORY);
            return;
        }
        w->found = larger, w->found_room = room;
    }
    w->found[w->n_found++] = node;
}

/* Pieces that end at a run of nodes. */
static void allow(const shk_trie *t, uint32_t from, uint32_t to, uint32_t *bits) {
    for (uint32_t k = from; k < to; k++) bits[t->ids[k] >> 5] |= 1u << (t->ids[k] & 31);
}

/* Pieces of nodes that the walk has come through are allowed, all at once where it is turned back: then the loop that most of the
 * time goes into has no branches but rare ones. */
static void walk_down(shk_walker *w, const shk_trie *t, uint32_t root, uint32_t start, uint32_t *bits) {
    const shk_trie_node *nodes = t->nodes;
    const uint16_t *rows = w->rows;
    uint16_t *at = w->at;
    uint32_t end = nodes[root].skip, allowed = nodes[root + 1].first;
    at[nodes[root].depth] = (uint16_t)start;
    for (uint32_t i = root + 1; i < end;) {
        shk_trie_node x = nodes[i];
        uint32_t from = at[x.depth - 1], to = rows[256 * (size_t)from + x.byte];
        w->visited++;
        if (to == UNKNOWN) {
            to = step(w, from, x.byte);
            rows = w->rows;
            if (w->m.status) return;
        }
        if (to == NONE) {
            allow(t, allowed, x.first, bits);
            allowed = nodes[x.skip].first;
            i = x.skip;
            continue;
        }
        if (to & ENDED) note(w, i);
        at[x.depth] = (uint16_t)(to & ~(uint32_t)ENDED);
        i++;
    }
    allow(t, allowed, nodes[end].first, bits);
}

void shk_walk(shk_walker *w, const shk_trie *t, shk_set start, const uint32_t *from, size_t n_from, uint32_t *bits) {
    w->n_sets = FIRST, w->n_found = 0, w->visited = 0;
    if (w->index) memset(w->index, 0, w->index_size * sizeof *w->index);
    if (w->at_room <= t->longest) {
        uint16_t *at = shk_realloc(w->at, (size_t)t->longest + 1, sizeof *at);
        if (!at) {
            fail(w, SHK_E_MEMORY);
            return;
        }
        w->at = at, w->at_room = t->longest + 1;
    }
    uint32_t first = number(w, start);
    for (size_t i = 0; i < n_from && !w->m.status && first != NONE; i++) walk_down(w, t, from[i], first, bits);
}
