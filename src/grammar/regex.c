#include "grammar/regex.h"

#include <stdlib.h>
#include <string.h>

#include "mem.h"

enum { MAX_PATTERN = 8192, MAX_GROUPS = 100, MAX_COUNT = 1 << 30, MAX_EMPTY_ROUNDS = 16, LAST_CHAR = 0x10ffff };

/* ---- the expression as a tree ---- */

typedef enum kind { EMPTY, CLASS, CONCAT, EITHER, REPEAT } kind;

typedef struct part {
    kind kind;
    uint32_t left, right;  /* parts; of a repetition: left */
    uint32_t first, n;     /* of a class: ranges */
    uint32_t min, max;     /* of a repetition */
    shk_bounds length;
} part;

typedef struct range {
    uint32_t lo, hi;
} range;

typedef struct regex {
    const char *p, *end, *begin;
    part *parts;   /* [n_parts] */
    range *ranges; /* [n_ranges] */
    uint32_t n_parts, parts_room, n_ranges, ranges_room;
    unsigned groups;
    shk_status status;
    shk_error *err;
} regex;

static uint32_t wrong(regex *r, shk_status status, const char *what) {
    if (!r->status) r->status = shk_fail(r->err, status, "the pattern's byte %td: %s", r->p - r->begin, what);
    return 0;
}

static uint32_t no_memory(regex *r) {
    if (!r->status) r->status = shk_fail(r->err, SHK_E_MEMORY, "out of memory for a pattern");
    return 0;
}

static uint32_t plus(uint32_t a, uint32_t b) { return a >= SHK_MANY - b ? SHK_MANY : a + b; }
static uint32_t times(uint32_t a, uint32_t b) {
    if (a == 0 || b == 0) return 0;
    return a > (SHK_MANY - 1) / b ? SHK_MANY : a * b;
}

static uint32_t add(regex *r, part x) {
    if (r->n_parts == r->parts_room) {
        uint32_t room = r->parts_room ? 2 * r->parts_room : 64;
        part *larger = shk_realloc(r->parts, room, sizeof *larger);
        if (!larger) return no_memory(r);
        r->parts = larger, r->parts_room = room;
    }
    const shk_bounds *left = &r->parts[x.left].length, *right = &r->parts[x.right].length;
    switch (x.kind) {
    case EMPTY: x.length = (shk_bounds){ 0, 0 }; break;
    case CLASS: x.length = (shk_bounds){ 1, 1 }; break;
    case CONCAT: x.length = (shk_bounds){ plus(left->min, right->min), plus(left->max, right->max) }; break;
    case EITHER:
        x.length.min = left->min < right->min ? left->min : right->min;
        x.length.max = left->max > right->max ? left->max : right->max;
        break;
    case REPEAT: x.length = (shk_bounds){ times(left->min, x.min), times(left->max, x.max) }; break;
    }
    r->parts[r->n_parts] = x;
    return r->n_parts++;
}

static uint32_t concat(regex *r, uint32_t left, uint32_t right) {
    if (r->parts[left].kind == EMPTY) return right;
    return r->parts[right].kind == EMPTY ? left : add(r, (part){ CONCAT, .left = left, .right = right });
}

/* ---- classes ---- */

static void add_range(regex *r, uint32_t lo, uint32_t hi) {
    if (r->n_ranges == r->ranges_room) {
        uint32_t room = r->ranges_room ? 2 * r->ranges_room : 64;
        range *larger = shk_realloc(r->ranges, room, sizeof *larger);
        if (!larger) {
            no_memory(r);
            return;
        }
        r->ranges = larger, r->ranges_room = room;
    }
    r->ranges[r->n_ranges++] = (range){ lo, hi };
}

static int by_lo(const void *a, const void *b) {
    const range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

/* Puts the ranges from `first` on in order and joins those that touch; if `negate`, what they leave out instead. */
static void tidy(regex *r, uint32_t first, bool negate) {
    uint32_t n = 0, from = 0;
    range *x = r->n_ranges > first ? r->ranges + first : NULL; /* an empty class may come before there is memory for any */
    if (x) qsort(x, r->n_ranges - first, sizeof *x, by_lo);
    for (uint32_t i = 0; i < r->n_ranges - first; i++) {
        if (n && x[i].lo <= x[n - 1].hi + 1) x[n - 1].hi = x[i].hi > x[n - 1].hi ? x[i].hi : x[n - 1].hi;
        else x[n++] = x[i];
    }
    r->n_ranges = first + n;
    if (!negate) return;
    for (uint32_t i = 0; i < n; i++) { /* the i-th gap lies before the i-th range: at most one more than there were */
        range gap = { from, r->ranges[first + i].lo };
        from = r->ranges[first + i].hi + 1;
        r->ranges[first + i] = (range){ gap.lo, gap.hi - 1 };
        if (gap.lo == gap.hi) r->ranges[first + i] = (range){ 1, 0 };
    }
    if (from <= LAST_CHAR) add_range(r, from, LAST_CHAR);
}

static uint32_t class_part(regex *r, uint32_t first, bool negate) {
    tidy(r, first, negate);
    return add(r, (part){ CLASS, .first = first, .n = r->n_ranges - first });
}

static const struct {
    char name;
    const char *ranges; /* pairs; the capital letter is what they leave out */
} shorthands[] = { { 'd', "09" }, { 'w', "09AZ__az" }, { 's', "\t\r  " } };
static const range more_space[] = { { 0xa0, 0xa0 },     { 0x1680, 0x1680 }, { 0x2000, 0x200a }, { 0x2028, 0x2029 },
                                    { 0x202f, 0x202f }, { 0x205f, 0x205f }, { 0x3000, 0x3000 }, { 0xfeff, 0xfeff } };

/* \d and its like: adds the ranges. false: it is none. */
static bool shorthand(regex *r, char c) {
    for (size_t i = 0; i < sizeof shorthands / sizeof *shorthands; i++) {
        if ((c | 0x20) != shorthands[i].name) continue;
        uint32_t first = r->n_ranges;
        for (const char *p = shorthands[i].ranges; *p; p += 2) add_range(r, (uint8_t)p[0], (uint8_t)p[1]);
        for (size_t k = 0; shorthands[i].name == 's' && k < sizeof more_space / sizeof *more_space; k++)
            add_range(r, more_space[k].lo, more_space[k].hi);
        tidy(r, first, c < 'a');
        return true;
    }
    return false;
}

static uint32_t hex(regex *r, int digits) {
    uint32_t v = 0;
    for (int i = 0; i < digits; i++, r->p++) {
        char c = r->p < r->end ? *r->p : 0;
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
        if (d < 0) return wrong(r, SHK_E_FORMAT, "hexadecimal digits are missing");
        v = 16 * v + (uint32_t)d;
    }
    return v;
}

/* The character that a UTF-8 sequence, or what follows a backslash, stands for. */
static uint32_t character(regex *r) {
    uint8_t c = (uint8_t)*r->p++;
    int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3; /* it is UTF-8: the JSON reader has seen to that */
    uint32_t v = more ? c & (0x3fu >> more) : c;
    for (; more > 0 && r->p < r->end; more--) v = v << 6 | ((uint8_t)*r->p++ & 0x3f);
    return v;
}

static uint32_t escaped(regex *r) {
    static const char names[] = "tnrfv0", values[] = "\t\n\r\f\v";
    if (r->p == r->end) return wrong(r, SHK_E_FORMAT, "a backslash at its end");
    const char *known = strchr(names, *r->p);
    bool octal = *r->p == '0' && r->p + 1 < r->end && r->p[1] >= '0' && r->p[1] <= '9';
    if (known && !octal) return r->p++, (uint8_t)values[known - names];
    if (*r->p == 'x') return r->p++, hex(r, 2);
    if (*r->p == 'u' && r->p + 1 < r->end && r->p[1] != '{') {
        r->p++;
        uint32_t high = hex(r, 4);
        if (high < 0xd800 || high > 0xdbff || r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u') return high;
        r->p += 2;
        return 0x10000 + ((high - 0xd800) << 10) + ((hex(r, 4) - 0xdc00) & 0x3ff);
    }
    if ((*r->p | 0x20) >= 'a' && (*r->p | 0x20) <= 'z') return wrong(r, SHK_E_UNSUPPORTED, "this escape is not supported");
    if (*r->p >= '0' && *r->p <= '9') return wrong(r, SHK_E_UNSUPPORTED, "references to groups are not supported");
    return character(r);
}

/* One end of a range in brackets. *set: it was a shorthand, whose ranges are there already. */
static uint32_t class_atom(regex *r, bool *set) {
    *set = false;
    if (r->p == r->end) return wrong(r, SHK_E_FORMAT, "a class without its end");
    if (*r->p != '\\') return character(r);
    r->p++;
    if (r->p < r->end && *r->p == 'b') return r->p++, '\b';
    if (r->p < r->end && *r->p == '-') return r->p++, '-';
    if (r->p < r->end && (*set = shorthand(r, *r->p))) r->p++;
    return *set ? 0 : escaped(r);
}

static uint32_t brackets(regex *r) {
    uint32_t first = r->n_ranges;
    bool negate = r->p < r->end && *r->p == '^', set, other;
    r->p += negate;
    while (!r->status && (r->p == r->end || *r->p != ']')) {
        uint32_t lo = class_atom(r, &set), hi = lo;
        if (!set && r->end - r->p > 1 && r->p[0] == '-' && r->p[1] != ']') {
            r->p++;
            hi = class_atom(r, &other);
            if (other) return wrong(r, SHK_E_FORMAT, "a range that ends with a class");
            if (hi < lo) return wrong(r, SHK_E_FORMAT, "a range from a higher to a lower character");
        }
        if (!set && !r->status) add_range(r, lo, hi);
    }
    r->p++;
    return r->status ? 0 : class_part(r, first, negate);
}

static uint32_t single(regex *r, uint32_t c) {
    uint32_t first = r->n_ranges;
    add_range(r, c, c);
    return class_part(r, first, false);
}

static uint32_t dot(regex *r) {
    uint32_t first = r->n_ranges;
    add_range(r, '\n', '\n');
    add_range(r, '\r', '\r');
    add_range(r, 0x2028, 0x2029);
    return class_part(r, first, true);
}

static uint32_t any_text(regex *r) {
    uint32_t first = r->n_ranges;
    add_range(r, 0, LAST_CHAR);
    return add(r, (part){ REPEAT, .left = class_part(r, first, false), .min = 0, .max = SHK_MANY });
}

/* ---- parsing ---- */

static uint32_t alternatives(regex *r, bool top, bool whole);

static uint32_t group(regex *r) {
    if (++r->groups > MAX_GROUPS) return wrong(r, SHK_E_LIMIT, "groups in each other are too many");
    if (r->p < r->end && *r->p == '?') {
        const char *name_end = r->end - r->p > 2 && r->p[1] == '<' && r->p[2] != '=' && r->p[2] != '!'
                                   ? memchr(r->p, '>', (size_t)(r->end - r->p)) : NULL;
        if (name_end) r->p = name_end + 1;
        else if (r->end - r->p > 1 && r->p[1] == ':') r->p += 2;
        else return wrong(r, SHK_E_UNSUPPORTED, "looking ahead or behind and flags are not supported");
    }
    uint32_t x = alternatives(r, false, true);
    if (r->status) return 0;
    if (r->p == r->end) return wrong(r, SHK_E_FORMAT, "a group without its end");
    r->p++;
    r->groups--;
    return x;
}

static uint32_t atom(regex *r) {
    char c = *r->p;
    if (strchr("*+?{", c)) return wrong(r, SHK_E_FORMAT, "nothing to repeat");
    if (c == '^' || c == '$') return wrong(r, SHK_E_UNSUPPORTED, "^ and $ are supported at the pattern's ends only");
    if (c == '(') return r->p++, group(r);
    if (c == '[') return r->p++, brackets(r);
    if (c == '.') return r->p++, dot(r);
    if (c != '\\') return single(r, character(r));
    r->p++;
    uint32_t first = r->n_ranges;
    if (r->p < r->end && shorthand(r, *r->p)) return r->p++, add(r, (part){ CLASS, .first = first, .n = r->n_ranges - first });
    if (r->p < r->end && (*r->p | 0x20) == 'b') return wrong(r, SHK_E_UNSUPPORTED, "word boundaries are not supported");
    uint32_t value = escaped(r);
    return r->status ? 0 : single(r, value);
}

static bool number(regex *r, uint32_t *out) {
    uint64_t v = 0;
    const char *from = r->p;
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++) v = v > MAX_COUNT ? v : 10 * v + (uint64_t)(*r->p - '0');
    if (v > MAX_COUNT) wrong(r, SHK_E_LIMIT, "the count is too large");
    *out = (uint32_t)v;
    return r->p > from;
}

/* *, +, ?, {m}, {m,} or {m,n}, greedy or not: the set is the same. false: none is there. */
static bool quantifier(regex *r, uint32_t *min, uint32_t *max) {
    if (r->p == r->end || !strchr("*+?{", *r->p)) return false;
    char c = *r->p++;
    *min = c == '+', *max = c == '?' ? 1 : SHK_MANY;
    if (c == '{') {
        bool ok = number(r, min);
        *max = *min;
        if (ok && r->p < r->end && *r->p == ',') {
            r->p++;
            if (!number(r, max)) *max = SHK_MANY;
        }
        if (!ok || r->p == r->end || *r->p != '}') return wrong(r, SHK_E_FORMAT, "a count without its end"), false;
        r->p++;
        if (*min > *max) return wrong(r, SHK_E_FORMAT, "a count from more to less"), false;
    }
    if (r->p < r->end && *r->p == '?') r->p++;
    return true;
}

static uint32_t repeated(regex *r, uint32_t x) {
    uint32_t min, max;
    if (r->status || !quantifier(r, &min, &max) || r->status) return x;
    if (r->p < r->end && strchr("*+?{", *r->p)) return wrong(r, SHK_E_FORMAT, "nothing to repeat");
    bool empty = r->parts[x].length.min == 0;
    if (empty && max != SHK_MANY && max > MAX_EMPTY_ROUNDS)
        return wrong(r, SHK_E_UNSUPPORTED, "a counted repetition of what may be empty is not supported");
    return add(r, (part){ REPEAT, .left = x, .min = empty ? 0 : min, .max = max });
}

/* A sequence of atoms; at the top, with the texts that may stand before and behind it. */
static uint32_t sequence(regex *r, bool top, bool whole) {
    bool from_start = whole, to_end = whole;
    if (top && r->p < r->end && *r->p == '^') from_start = true, r->p++;
    uint32_t all = from_start ? add(r, (part){ EMPTY }) : any_text(r);
    while (!r->status && r->p < r->end && *r->p != '|' && *r->p != ')') {
        if (top && *r->p == '$' && (r->p + 1 == r->end || r->p[1] == '|')) {
            to_end = true;
            r->p++;
            continue;
        }
        uint32_t x = repeated(r, atom(r));
        if (!r->status) all = concat(r, all, x);
    }
    if (!r->status && !to_end) all = concat(r, all, any_text(r));
    return all;
}

static uint32_t alternatives(regex *r, bool top, bool whole) {
    uint32_t x = sequence(r, top, whole);
    while (!r->status && r->p < r->end && *r->p == '|') {
        r->p++;
        uint32_t y = sequence(r, top, whole);
        if (!r->status) x = add(r, (part){ EITHER, .left = x, .right = y });
    }
    return x;
}

/* ---- lengths ---- */

/* The one part of a sequence whose length varies, if it is a repeated class: then bounds on the whole are bounds on its count. */
static part *varying(regex *r, uint32_t x) {
    part *found = NULL;
    for (bool more = true; more;) {
        part *last = &r->parts[x];
        more = last->kind == CONCAT;
        if (more) x = last->left, last = &r->parts[last->right];
        if (last->length.min == last->length.max) continue;
        if (found || last->kind != REPEAT || r->parts[last->left].kind != CLASS) return NULL;
        found = last;
    }
    return found;
}

static void bound(regex *r, uint32_t x, shk_bounds b) {
    shk_bounds has = r->parts[x].length;
    if (r->status || (has.min >= b.min && has.max <= b.max)) return;
    part *p = varying(r, x);
    if (!p) {
        r->status = shk_fail(r->err, SHK_E_UNSUPPORTED, "minLength or maxLength beside a pattern or format of another length");
        return;
    }
    uint32_t rest = has.min - p->min; /* characters of all other parts */
    if (b.min > rest && b.min - rest > p->min) p->min = b.min - rest;
    if (b.max != SHK_MANY && (p->max == SHK_MANY || p->max > b.max - rest)) p->max = b.max < rest ? 0 : b.max - rest;
    if (p->min > p->max || b.max < rest) p->min = 1, p->max = 0; /* no text */
}

/* ---- into the automaton ---- */

static uint32_t emit(const regex *r, shk_automaton *a, uint32_t x, uint32_t next) {
    for (; r->parts[x].kind == CONCAT; x = r->parts[x].left) next = emit(r, a, r->parts[x].right, next);
    const part *p = &r->parts[x];
    uint32_t start = SHK_DEAD;
    switch (p->kind) {
    case CLASS:
        for (uint32_t i = p->first; i < p->first + p->n; i++)
            if (r->ranges[i].lo <= r->ranges[i].hi)
                start = shk_automaton_split(a, start, shk_automaton_chars(a, r->ranges[i].lo, r->ranges[i].hi, next));
        return start;
    case EITHER:
        for (; r->parts[x].kind == EITHER; x = r->parts[x].left)
            start = shk_automaton_split(a, start, emit(r, a, r->parts[x].right, next));
        return shk_automaton_split(a, start, emit(r, a, x, next));
    case REPEAT:
        if (p->min > p->max) return SHK_DEAD;
        if (p->max == 0) return next;
        if (p->max == 1 && p->min == 1) return emit(r, a, p->left, next);
        if (p->max == 1) return shk_automaton_split(a, emit(r, a, p->left, next), next);
        return shk_automaton_loop(a, emit(r, a, p->left, SHK_RETURN), p->min, p->max, next);
    default: return next;
    }
}

shk_status shk_regex_compile(shk_automaton *a, uint32_t *start, const char *pattern, size_t n, unsigned flags, shk_bounds bounds,
                             uint32_t next, shk_error *err) {
    regex r = { .p = pattern, .begin = pattern, .end = pattern + n, .err = err };
    *start = SHK_DEAD;
    if (n > MAX_PATTERN) return shk_fail(err, SHK_E_LIMIT, "the pattern has %zu bytes, more than %d", n, MAX_PATTERN);
    add(&r, (part){ EMPTY }); /* what 0 stands for, where something failed */
    uint32_t x = r.status ? 0 : alternatives(&r, !(flags & SHK_REGEX_WHOLE), flags & SHK_REGEX_WHOLE);
    if (!r.status && r.p < r.end) wrong(&r, SHK_E_FORMAT, "the end of a group that has no beginning");
    if (!r.status) bound(&r, x, bounds);
    if (!r.status) *start = emit(&r, a, x, next);
    free(r.parts);
    free(r.ranges);
    return r.status;
}
