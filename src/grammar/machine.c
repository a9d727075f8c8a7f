#include "grammar/machine.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

enum { MAX_FRAMES = 1 << 20, MAX_CONFIGS = 1 << 21 };

/* A place on the way to those that take a byte. need and room are those of a loop, else 0. */
typedef struct shk_item {
    uint32_t node, frame, need, room;
} shk_item;

typedef struct shk_seen {
    shk_item item;
    uint32_t round;
} shk_seen;

void shk_machine_free(shk_machine *m) {
    void *owned[] = { m->frames, m->configs, m->todo, m->seen, m->index, m->map };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    *m = (shk_machine){ 0 };
}

/* Makes room for one more of n items. */
static bool grow(shk_machine *m, void *items, uint32_t n, uint32_t *room, size_t size, uint32_t max) {
    void **p = items;
    if (n < *room) return true;
    uint32_t larger = *room ? 2 * *room : 64;
    void *grown = n < max ? shk_realloc(*p, larger, size) : NULL;
    if (!grown) {
        if (!m->status) m->status = n < max ? SHK_E_MEMORY : SHK_E_LIMIT;
        return false;
    }
    *p = grown, *room = larger;
    return true;
}

static uint32_t hash(const uint32_t *words, int n) {
    uint64_t h = 0;
    for (int i = 0; i < n; i++) h = (h ^ words[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return (uint32_t)(h >> 16);
}

void shk_machine_clear(shk_machine *m, const shk_automaton *a, uint32_t limit, uint64_t work) {
    m->a = a, m->limit = limit, m->work = work, m->status = SHK_OK;
    m->n_frames = m->n_configs = m->n_todo = m->n_seen = 0;
    if (m->index) memset(m->index, 0, m->index_size * sizeof *m->index);
    if (grow(m, &m->frames, 0, &m->frames_room, sizeof *m->frames, MAX_FRAMES)) m->frames[m->n_frames++] = (shk_frame){ 0 };
}

/* ---- frames: hash-consed ---- */

static bool grow_index(shk_machine *m) {
    uint32_t size = m->index_size ? 2 * m->index_size : 128;
    uint32_t *larger = shk_calloc(size, sizeof *larger);
    if (!larger) return m->status = m->status ? m->status : SHK_E_MEMORY, false;
    for (uint32_t i = 1; i < m->n_frames; i++) {
        uint32_t h = hash((const uint32_t *)&m->frames[i], 4);
        while (larger[h & (size - 1)]) h++;
        larger[h & (size - 1)] = i;
    }
    free(m->index);
    m->index = larger, m->index_size = size;
    return true;
}

uint32_t shk_machine_frame(shk_machine *m, shk_frame f) {
    if (m->status || (2 * m->n_frames >= m->index_size && !grow_index(m))) return 0;
    uint32_t h = hash((const uint32_t *)&f, 4), at;
    for (; (at = m->index[h & (m->index_size - 1)]); h++)
        if (!memcmp(&m->frames[at], &f, sizeof f)) return at;
    if (!grow(m, &m->frames, m->n_frames, &m->frames_room, sizeof *m->frames, MAX_FRAMES)) return 0;
    m->frames[m->n_frames] = f;
    return m->index[h & (m->index_size - 1)] = m->n_frames++;
}

/* ---- sets ---- */

static bool grow_seen(shk_machine *m) {
    uint32_t size = m->seen_size ? 2 * m->seen_size : 128;
    shk_seen *larger = shk_calloc(size, sizeof *larger);
    if (!larger) return m->status = m->status ? m->status : SHK_E_MEMORY, false;
    for (uint32_t i = 0; i < m->seen_size; i++) {
        if (m->seen[i].round != m->round) continue;
        uint32_t h = hash((const uint32_t *)&m->seen[i].item, 4);
        while (larger[h & (size - 1)].round) h++;
        larger[h & (size - 1)] = m->seen[i];
    }
    free(m->seen);
    m->seen = larger, m->seen_size = size;
    return true;
}

/* Whether this is the first time in this round. */
static bool first_time(shk_machine *m, const shk_item *item) {
    if (2 * m->n_seen >= m->seen_size && !grow_seen(m)) return false;
    uint32_t h = hash((const uint32_t *)item, 4), mask = m->seen_size - 1;
    for (; m->seen[h & mask].round == m->round; h++)
        if (!memcmp(&m->seen[h & mask].item, item, sizeof *item)) return false;
    m->seen[h & mask] = (shk_seen){ *item, m->round };
    m->n_seen++;
    return true;
}

static void put(shk_machine *m, shk_item item) {
    if (grow(m, &m->todo, m->n_todo, &m->todo_room, sizeof *m->todo, MAX_CONFIGS)) m->todo[m->n_todo++] = item;
}

/* Comes to a node from somewhere else, unless its rule's end is out of reach from there. */
static void put_node(shk_machine *m, uint32_t node, uint32_t frame) {
    const shk_node *x = &m->a->nodes[node];
    if (x->height == SHK_NEVER || m->frames[frame].depth + x->height > m->limit) return;
    bool loop = x->kind == SHK_NODE_LOOP;
    put(m, (shk_item){ node, frame, loop ? x->min : 0, loop ? x->max : 0 });
}

static void put_return(shk_machine *m, uint32_t frame) {
    shk_frame f = m->frames[frame];
    if (f.loops) put(m, (shk_item){ f.node, f.below, f.need, f.room });
    else put_node(m, f.node, f.below);
}

static uint32_t less(uint32_t count) { return count == 0 || count == SHK_MANY ? count : count - 1; }

static void go(shk_machine *m, const shk_item *i, shk_set *s) {
    const shk_node *x = &m->a->nodes[i->node];
    switch (x->kind) {
    case SHK_NODE_RANGE:
        if (!grow(m, &m->configs, m->n_configs, &m->configs_room, sizeof *m->configs, MAX_CONFIGS)) return;
        m->configs[m->n_configs++] = (shk_config){ i->node, i->frame };
        s->n++;
        break;
    case SHK_NODE_SPLIT:
        put_node(m, x->next, i->frame);
        put_node(m, x->other, i->frame);
        break;
    case SHK_NODE_CALL: {
        if (x->next == SHK_RETURN && !x->nests) {
            put_node(m, x->other, i->frame); /* whose return is this rule's */
            break;
        }
        shk_frame f = { .below = i->frame, .node = x->next, .depth = (uint16_t)(m->frames[i->frame].depth + x->nests) };
        put_node(m, x->other, shk_machine_frame(m, f));
        break;
    }
    case SHK_NODE_LOOP:
        if (i->need == 0) put_node(m, x->next, i->frame);
        if (i->room > 0) {
            shk_frame f = { i->frame, i->node, less(i->need), less(i->room), m->frames[i->frame].depth, .loops = 1 };
            put_node(m, x->other, shk_machine_frame(m, f));
        }
        break;
    case SHK_NODE_RETURN:
        if (i->frame == 0) s->ended = true;
        else put_return(m, i->frame);
        break;
    default: break;
    }
}

static shk_set begin(shk_machine *m) {
    if (++m->round == 0 && m->seen) { /* once in 4 billion sets */
        memset(m->seen, 0, m->seen_size * sizeof *m->seen);
        m->round = 1;
    }
    m->n_seen = m->n_todo = 0;
    return (shk_set){ .first = m->n_configs };
}

static shk_set complete(shk_machine *m, shk_set s) {
    while (m->n_todo > 0 && !m->status) {
        shk_item item = m->todo[--m->n_todo];
        if (m->work-- == 0) m->status = SHK_E_LIMIT, m->work = 0;
        else if (first_time(m, &item)) go(m, &item, &s);
    }
    return m->status ? (shk_set){ .first = s.first } : s;
}

shk_set shk_machine_enter(shk_machine *m, uint32_t node) {
    shk_set s = begin(m);
    if (!m->status) put_node(m, node, 0);
    return complete(m, s);
}

shk_set shk_machine_resume(shk_machine *m, uint32_t frame) {
    shk_set s = begin(m);
    if (!m->status) put_return(m, frame);
    return complete(m, s);
}

shk_set shk_machine_step(shk_machine *m, shk_set from, uint8_t byte) {
    shk_set s = begin(m);
    m->work -= from.n / 8 < m->work ? from.n / 8 : m->work;
    for (uint32_t i = from.first; i < from.first + from.n && !m->status; i++) {
        const shk_node *x = &m->a->nodes[m->configs[i].node];
        if (x->lo <= byte && byte <= x->hi) put_node(m, x->next, m->configs[i].frame);
    }
    return complete(m, s);
}

/* ---- stacks of a set ---- */

uint32_t shk_machine_base(const shk_machine *m, shk_set s) {
    uint32_t a = s.n ? m->configs[s.first].frame : 0;
    for (uint32_t i = s.first + 1; i < s.first + s.n; i++)
        for (uint32_t b = m->configs[i].frame; a != b;) {
            if (a > b) a = m->frames[a].below;
            else b = m->frames[b].below;
        }
    while (m->frames[a].loops) a = m->frames[a].below;
    return a;
}

static uint32_t clipped(uint32_t count, uint32_t most) { return count > most ? SHK_MANY : count; }

/* Marks the frames of the set's stacks above the base in m->map. */
static bool mark(shk_machine *m, shk_set s, uint32_t base) {
    if (m->map_room < m->n_frames) {
        uint32_t *larger = shk_realloc(m->map, m->frames_room, sizeof *larger);
        if (!larger) return false;
        m->map = larger, m->map_room = m->frames_room;
    }
    memset(m->map, 0, m->n_frames * sizeof *m->map);
    for (uint32_t i = s.first; i < s.first + s.n; i++)
        for (uint32_t f = m->configs[i].frame; f != base && !m->map[f]; f = m->frames[f].below) m->map[f] = 1;
    return true;
}

shk_set shk_machine_copy(shk_machine *to, shk_machine *from, shk_set s, uint32_t base, uint32_t most) {
    shk_set out = { .first = to->n_configs, .ended = s.ended && base == 0 };
    if (!mark(from, s, base)) to->status = SHK_E_MEMORY;
    for (uint32_t i = 0; i < from->n_frames && !to->status; i++) {
        if (!from->map[i]) continue;
        shk_frame f = from->frames[i];
        f.below = f.below == base ? 0 : from->map[f.below];
        f.depth = (uint16_t)(f.depth - from->frames[base].depth);
        f.need = clipped(f.need, most), f.room = clipped(f.room, most);
        from->map[i] = shk_machine_frame(to, f);
    }
    for (uint32_t i = s.first; i < s.first + s.n && !to->status; i++) {
        shk_config c = from->configs[i];
        if (!grow(to, &to->configs, to->n_configs, &to->configs_room, sizeof *to->configs, MAX_CONFIGS)) break;
        to->configs[to->n_configs++] = (shk_config){ c.node, c.frame == base ? 0 : from->map[c.frame] };
        out.n++;
    }
    return out;
}
