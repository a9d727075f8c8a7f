#include "grammar/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

/* ---- building ---- */

shk_status shk_automaton_init(shk_automaton *a, shk_error *err) {
    *a = (shk_automaton){ 0 };
    shk_automaton_add(a, (shk_node){ .kind = SHK_NODE_DEAD });
    shk_automaton_add(a, (shk_node){ .kind = SHK_NODE_RETURN });
    return a->status ? shk_fail(err, a->status, "out of memory for a grammar") : SHK_OK;
}

void shk_automaton_free(shk_automaton *a) {
    free(a->nodes);
    *a = (shk_automaton){ 0 };
}

uint32_t shk_automaton_add(shk_automaton *a, shk_node node) {
    if (!a->status && a->n == SHK_MAX_NODES) a->status = SHK_E_LIMIT;
    if (!a->status && a->n == a->capacity) {
        uint32_t larger = a->capacity ? 2 * a->capacity : 256;
        shk_node *grown = shk_realloc(a->nodes, larger, sizeof *grown);
        if (grown) a->nodes = grown, a->capacity = larger;
        else a->status = SHK_E_MEMORY;
    }
    if (a->status) return SHK_DEAD;
    a->nodes[a->n] = node;
    return a->n++;
}

uint32_t shk_automaton_range(shk_automaton *a, unsigned lo, unsigned hi, uint32_t next) {
    if (next == SHK_DEAD) return SHK_DEAD;
    return shk_automaton_add(a, (shk_node){ SHK_NODE_RANGE, .lo = (uint8_t)lo, .hi = (uint8_t)hi, .next = next });
}

uint32_t shk_automaton_split(shk_automaton *a, uint32_t one, uint32_t two) {
    if (one == SHK_DEAD || two == SHK_DEAD) return one + two; /* the other one */
    return shk_automaton_add(a, (shk_node){ SHK_NODE_SPLIT, .next = one, .other = two });
}

uint32_t shk_automaton_text(shk_automaton *a, const char *text, size_t n, uint32_t next) {
    while (n-- > 0) next = shk_automaton_range(a, (uint8_t)text[n], (uint8_t)text[n], next);
    return next;
}

uint32_t shk_automaton_call(shk_automaton *a, uint32_t rule, uint32_t next) {
    if (rule == SHK_DEAD || next == SHK_DEAD) return SHK_DEAD;
    return shk_automaton_add(a, (shk_node){ SHK_NODE_CALL, .next = next, .other = rule });
}

uint32_t shk_automaton_loop(shk_automaton *a, uint32_t rule, uint32_t min, uint32_t max, uint32_t next) {
    if (next == SHK_DEAD || min > max || (rule == SHK_DEAD && min > 0)) return SHK_DEAD;
    if (rule == SHK_DEAD || max == 0) return next;
    return shk_automaton_add(a, (shk_node){ SHK_NODE_LOOP, .next = next, .other = rule, .min = min, .max = max });
}

uint32_t shk_automaton_reserve(shk_automaton *a) { return shk_automaton_add(a, (shk_node){ SHK_NODE_SPLIT }); }

void shk_automaton_become(shk_automaton *a, uint32_t reserved, uint32_t node) {
    if (reserved != SHK_DEAD) a->nodes[reserved].next = node;
}

/* ---- characters ---- */

/* Bytes of a code point in UTF-8. */
static int encode(uint8_t out[4], uint32_t c) {
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) out[i] = (uint8_t)(0x80 | (c & 0x3f));
    out[0] = (uint8_t)(0xf00u >> n | c);
    return n;
}

/* A range is cut until each byte of its first and last code point spans a range of its own: where lengths change, and where lo does
 * not start or hi does not end a block of 64, 4096, ... */
static uint32_t utf8_range(shk_automaton *a, uint32_t lo, uint32_t hi, uint32_t next) {
    static const uint32_t last[] = { 0x7f, 0x7ff, 0xffff };
    uint32_t cut = hi; /* the end of the first part */
    for (int i = 0; i < 3; i++)
        if (lo <= last[i] && last[i] < hi && last[i] < cut) cut = last[i];
    for (int i = 1; i < 4 && cut == hi && hi > 0x7f; i++) {
        uint32_t block = (1u << 6 * i) - 1;
        if ((lo & ~block) == (hi & ~block)) break;
        if (lo & block) cut = lo | block;
        else if ((hi & block) != block) cut = (hi & ~block) - 1;
    }
    if (cut < hi) {
        uint32_t rest = utf8_range(a, cut + 1, hi, next);
        return shk_automaton_split(a, utf8_range(a, lo, cut, next), rest);
    }
    uint8_t first[4], final[4];
    int n = encode(first, lo);
    encode(final, hi);
    for (int i = n - 1; i >= 0; i--) next = shk_automaton_range(a, first[i], final[i], next);
    return next;
}

uint32_t shk_automaton_chars(shk_automaton *a, uint32_t lo, uint32_t hi, uint32_t next) {
    static const char escaped[][2] = { { '\b', 'b' }, { '\t', 't' }, { '\n', 'n' }, { '\f', 'f' }, { '\r', 'r' }, { '"', '"' },
                                       { '\\', '\\' } };
    static const uint32_t plain[][2] = { { 0x20, 0x21 }, { 0x23, 0x5b }, { 0x5d, 0xd7ff }, { 0xe000, 0x10ffff } };
    uint32_t start = SHK_DEAD, escapes = SHK_DEAD;
    for (size_t i = 0; i < sizeof escaped / sizeof *escaped; i++)
        if (lo <= (uint8_t)escaped[i][0] && (uint8_t)escaped[i][0] <= hi)
            escapes = shk_automaton_split(a, escapes, shk_automaton_text(a, &escaped[i][1], 1, next));
    start = shk_automaton_text(a, "\\", 1, escapes);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        uint32_t from = lo > plain[i][0] ? lo : plain[i][0], to = hi < plain[i][1] ? hi : plain[i][1];
        if (from <= to) start = shk_automaton_split(a, utf8_range(a, from, to, next), start);
    }
    return start;
}

/* ---- finishing ---- */

/* Nodes that each node is named by: from[first[i]] to from[first[i + 1] - 1]. */
typedef struct reverse {
    uint32_t *first, *from;
} reverse;

static bool reverse_edges(reverse *r, const shk_automaton *a) {
    r->first = shk_calloc((size_t)a->n + 2, sizeof *r->first);
    r->from = shk_calloc(2 * (size_t)a->n, sizeof *r->from);
    if (!r->first || !r->from) return false;
    uint32_t *at = r->first + 1; /* counts, then where the next one goes: the end, which is where the following list starts */
    for (uint32_t i = 0; i < a->n; i++) at[a->nodes[i].next]++, at[a->nodes[i].other]++;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < a->n; i++) {
        uint32_t n = at[i];
        at[i] = sum;
        sum += n;
    }
    for (uint32_t i = 0; i < a->n; i++) {
        r->from[at[a->nodes[i].next]++] = i;
        r->from[at[a->nodes[i].other]++] = i;
    }
    return true;
}

/* Whether a node can come to its rule's end within `level`, as far as the heights of those that it names are known. */
static bool within(const shk_automaton *a, const shk_node *x, unsigned level) {
    const shk_node *next = &a->nodes[x->next], *other = &a->nodes[x->other];
    switch (x->kind) {
    case SHK_NODE_RETURN: return true;
    case SHK_NODE_RANGE: return next->height <= level;
    case SHK_NODE_SPLIT: return next->height <= level || other->height <= level;
    case SHK_NODE_CALL: return next->height <= level && other->height + (unsigned)x->nests <= level;
    case SHK_NODE_LOOP: return next->height <= level && (x->min == 0 || other->height <= level);
    default: return false;
    }
}

/* Heights in ascending order, as distances in a graph are found: what a level makes known can make others known at the same level,
 * or, through a call that nests, at the next. */
static shk_status find_heights(shk_automaton *a, shk_error *err) {
    reverse r = { 0 };
    uint32_t *list = shk_calloc(a->n, sizeof *list), n = 0; /* nodes in the order in which they became known */
    shk_status status = SHK_OK;
    if (!list || !reverse_edges(&r, a)) {
        status = shk_fail(err, SHK_E_MEMORY, "out of memory for a grammar");
        goto done;
    }
    for (uint32_t i = 0; i < a->n; i++) a->nodes[i].height = SHK_NEVER;
    a->nodes[SHK_RETURN].height = 0;
    list[n++] = SHK_RETURN;
    for (uint32_t level = 0, before = 0, now = 0; before < n && level <= SHK_MAX_DEPTH; level++) {
        for (uint32_t i = before; i < n; i++)
            for (uint32_t k = r.first[list[i]]; k < r.first[list[i] + 1]; k++) {
                shk_node *x = &a->nodes[r.from[k]];
                if (x->height != SHK_NEVER || !within(a, x, level)) continue;
                x->height = a->height = (uint16_t)level;
                list[n++] = r.from[k];
            }
        before = now; /* where those of this level begin, as it ends */
        now = n;
    }
done:
    free(r.first);
    free(r.from);
    free(list);
    return status;
}

/* Successors of a node that are reached without a byte. A loop's end counts as such though its body may have to come first. */
static unsigned free_edges(const shk_node *x, uint32_t out[2]) {
    out[0] = x->other, out[1] = x->next;
    return x->kind == SHK_NODE_CALL ? 1 : x->kind == SHK_NODE_SPLIT || x->kind == SHK_NODE_LOOP ? 2 : 0;
}

/* Depth first; a node that is met again while it is still on the path closes a circle. */
static shk_status find_circles(const shk_automaton *a, shk_error *err) {
    enum { UNSEEN, ON_PATH_1, ON_PATH_2, DONE }; /* on the path by its first, by its second successor */
    uint8_t *mark = shk_calloc(a->n, 1);
    uint32_t *path = shk_calloc(a->n, sizeof *path), to[2];
    shk_status status = mark && path ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "out of memory for a grammar");
    for (uint32_t root = 0; root < a->n && !status; root++) {
        if (mark[root] != UNSEEN) continue;
        for (uint32_t depth = 1, x = path[0] = root; depth > 0; x = depth ? path[depth - 1] : 0) {
            if (mark[x] >= free_edges(&a->nodes[x], to)) {
                mark[x] = DONE;
                depth--;
                continue;
            }
            uint32_t y = to[mark[x]++];
            if (mark[y] == UNSEEN) {
                path[depth++] = y;
            } else if (mark[y] != DONE) {
                status = shk_fail(err, SHK_E_FORMAT, "the schema refers to itself with nothing in between");
                break;
            }
        }
    }
    free(mark);
    free(path);
    return status;
}

shk_status shk_automaton_finish(shk_automaton *a, shk_error *err) {
    if (a->status == SHK_E_MEMORY) return shk_fail(err, SHK_E_MEMORY, "out of memory for a grammar");
    if (a->status) return shk_fail(err, a->status, "the schema is too large: more than %d states", SHK_MAX_NODES);
    shk_status status = find_circles(a, err);
    if (!status) status = find_heights(a, err);
    if (!status && a->nodes[a->start].height == SHK_NEVER)
        status = shk_fail(err, SHK_E_UNSUPPORTED, "no value fits the schema, or none within %d objects and arrays in each other",
                          SHK_MAX_DEPTH);
    return status;
}
