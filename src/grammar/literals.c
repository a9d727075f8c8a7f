/* Values that a schema spells out, and names that are taken. */
#include <stdlib.h>
#include <string.h>

#include "grammar/machine.h"
#include "grammar/numbers.h"
#include "grammar/schema.h"

enum { MAX_VALUE_DEPTH = 64, MAX_SHARED = 64, WORK = 1 << 20 };

/* ---- writing ---- */

void shk_write_string(shk_compiler *c, shk_buffer *out, const char *s, size_t n) {
    static const char named[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    bool ok = shk_buffer_append(out, "\"", 1);
    for (size_t i = 0; i < n && ok; i++) {
        const char *name = s[i] ? strchr(named, s[i]) : NULL;
        if (name) ok = shk_buffer_printf(out, "\\%c", names[name - named]);
        else if ((uint8_t)s[i] < 0x20) ok = shk_buffer_printf(out, "\\u%04x", (uint8_t)s[i]);
        else ok = shk_buffer_append(out, &s[i], 1);
    }
    if (!ok || !shk_buffer_append(out, "\"", 1)) shk_compiler_no_memory(c);
}

static void put(shk_compiler *c, shk_buffer *out, const char *text) {
    if (!shk_buffer_append(out, text, strlen(text))) shk_compiler_no_memory(c);
}

static void write_value(shk_compiler *c, shk_buffer *out, const json_t *v, const shk_place *place, int depth) {
    const char *key;
    json_t *member;
    size_t i;
    if (depth > MAX_VALUE_DEPTH)
        shk_compiler_fail(c, SHK_E_LIMIT, place, "enum", "a value is nested more than %d deep", MAX_VALUE_DEPTH);
    if (c->status) return;
    switch (json_typeof(v)) {
    case JSON_OBJECT: {
        const char *before = "{";
        json_object_foreach((json_t *)(uintptr_t)v, key, member) {
            put(c, out, before);
            shk_write_string(c, out, key, strlen(key));
            put(c, out, ":");
            write_value(c, out, member, place, depth + 1);
            before = ",";
        }
        put(c, out, *before == '{' ? "{}" : "}");
        break;
    }
    case JSON_ARRAY:
        put(c, out, "[");
        json_array_foreach(v, i, member) {
            if (i) put(c, out, ",");
            write_value(c, out, member, place, depth + 1);
        }
        put(c, out, "]");
        break;
    case JSON_STRING: shk_write_string(c, out, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: case JSON_REAL:
        if (!shk_number_write(out, v)) shk_compiler_no_memory(c);
        break;
    case JSON_TRUE: put(c, out, "true"); break;
    case JSON_FALSE: put(c, out, "false"); break;
    case JSON_NULL: put(c, out, "null"); break;
    }
}

void shk_write_value(shk_compiler *c, shk_buffer *out, const json_t *value, const shk_place *place) {
    write_value(c, out, value, place, 0);
}

/* ---- a set of texts, as a tree ---- */

typedef struct text {
    const char *p;
    size_t n;
} text;

static int by_bytes(const void *a, const void *b) {
    const text *x = a, *y = b;
    int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static size_t common(const text *a, const text *b) {
    size_t i = 0;
    while (i < a->n && i < b->n && a->p[i] == b->p[i]) i++;
    return i;
}

/* Of n > 0 texts in order, that start with the same `depth` bytes, what is behind these. */
static uint32_t tree(shk_automaton *a, const text *t, size_t n, size_t depth, uint32_t next) {
    uint32_t start = SHK_DEAD;
    size_t i = 0;
    for (; i < n && t[i].n == depth; i++) start = next;
    for (size_t end; i < n; i = end) {
        for (end = i + 1; end < n && t[end].p[depth] == t[i].p[depth];) end++;
        size_t shared = common(&t[i], &t[end - 1]);
        uint32_t rest = tree(a, t + i, end - i, shared, next);
        start = shk_automaton_split(a, start, shk_automaton_text(a, t[i].p + depth, shared - depth, rest));
    }
    return start;
}

uint32_t shk_literals(shk_compiler *c, const json_t *values, const shk_place *place, uint32_t next) {
    size_t n = json_array_size(values);
    shk_buffer all = { 0 };
    text *texts = shk_calloc(n, sizeof *texts);
    uint32_t start = SHK_DEAD;
    if (!texts) shk_compiler_no_memory(c);
    for (size_t i = 0; i < n && !c->status; i++) {
        size_t before = all.n;
        shk_write_value(c, &all, json_array_get(values, i), place);
        texts[i].n = all.n - before;
    }
    const char *p = all.data;
    for (size_t i = 0; i < n && !c->status; p += texts[i++].n) texts[i].p = p;
    if (n && !c->status) {
        qsort(texts, n, sizeof *texts, by_bytes);
        start = tree(c->a, texts, n, 0, next);
    }
    shk_buffer_free(&all);
    free(texts);
    return start;
}

/* ---- values that a rule takes ---- */

static bool takes(shk_machine *m, const shk_automaton *a, uint32_t rule, const shk_buffer *t) {
    shk_machine_clear(m, a, SHK_MAX_DEPTH, WORK);
    shk_set s = shk_machine_enter(m, rule);
    for (size_t i = 0; i < t->n && !m->status; i++) {
        uint32_t before = m->n_configs;
        s = shk_machine_step(m, s, (uint8_t)t->data[i]);
        if (before > 4096 && s.n) { /* sets before this one are of no use any more */
            memmove(m->configs, m->configs + s.first, s.n * sizeof *m->configs);
            s.first = 0;
            m->n_configs = s.n;
        }
    }
    return s.ended;
}

json_t *shk_values_of_rule(shk_compiler *c, const json_t *values, uint32_t rule, const shk_place *place) {
    json_t *fitting = json_array();
    shk_machine m = { 0 };
    shk_buffer written = { 0 };
    if (!fitting) shk_compiler_no_memory(c);
    for (size_t i = 0; i < json_array_size(values) && !c->status; i++) {
        written.n = 0;
        shk_write_value(c, &written, json_array_get(values, i), place);
        shk_compiler_spend(c, written.n);
        if (!c->status && takes(&m, c->a, rule, &written)) shk_compiler_append(c, fitting, json_array_get(values, i));
        if (m.status == SHK_E_MEMORY) shk_compiler_no_memory(c);
        else if (m.status) shk_compiler_fail(c, m.status, place, "enum", "too many ways to read a value");
    }
    shk_buffer_free(&written);
    shk_machine_free(&m);
    return fitting;
}

/* ---- keys that are not taken ---- */

typedef struct taken {
    shk_automaton *a;
    uint32_t close; /* the quote */
    uint32_t open;  /* any characters, then the quote */
    uint32_t wide;  /* one that is not ASCII, then the same */
} taken;

static uint32_t first_char(const text *t, size_t at, size_t *length) {
    uint8_t c = (uint8_t)t->p[at];
    int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    uint32_t v = more ? c & (0x3fu >> more) : c;
    for (int i = 1; i <= more && at + (size_t)i < t->n; i++) v = v << 6 | ((uint8_t)t->p[at + (size_t)i] & 0x3f);
    *length = 1 + (size_t)more;
    return v;
}

static uint32_t gap(const taken *x, uint32_t from, uint32_t to, uint32_t rest) {
    if (from > to) return rest;
    if (from <= 0x80 && to == 0x10ffff) {
        rest = shk_automaton_split(x->a, rest, x->wide);
        if (from == 0x80) return rest;
        to = 0x7f;
    }
    return shk_automaton_split(x->a, rest, shk_automaton_chars(x->a, from, to, x->open));
}

/* Of n names in order that start with the same `depth` bytes: the keys that do so too and are none of them. Names of more than
 * MAX_SHARED characters share their beginnings with no key. */
static uint32_t not_taken(const taken *x, const text *t, size_t n, size_t depth, int level) {
    uint32_t start = SHK_DEAD, from = 0;
    size_t i = 0, length;
    bool whole = false;
    for (; i < n && t[i].n == depth; i++) whole = true;
    if (!whole) start = x->close;
    for (size_t end; i < n; i = end) {
        uint32_t c = first_char(&t[i], depth, &length);
        size_t ignored;
        for (end = i + 1; end < n && first_char(&t[end], depth, &ignored) == c;) end++;
        if (c > 0) start = gap(x, from, c - 1, start);
        from = c + 1;
        if (level == MAX_SHARED) continue;
        uint32_t rest = not_taken(x, t + i, end - i, depth + length, level + 1);
        start = shk_automaton_split(x->a, start, shk_automaton_chars(x->a, c, c, rest));
    }
    return gap(x, from, 0x10ffff, start);
}

uint32_t shk_other_key(shk_compiler *c, const json_t *object, uint32_t next) {
    taken x = { .a = c->a, .close = shk_automaton_text(c->a, "\"", 1, next) };
    x.open = shk_automaton_loop(c->a, c->character, 0, SHK_MANY, x.close);
    size_t n = 0, room = json_object_size(object);
    if (!room) return x.open;
    text *names = shk_calloc(room, sizeof *names);
    const char *key;
    json_t *value;
    if (!names) return shk_compiler_no_memory(c), SHK_DEAD;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) names[n++] = (text){ key, strlen(key) };
    qsort(names, n, sizeof *names, by_bytes);
    x.wide = shk_automaton_chars(c->a, 0x80, 0x10ffff, x.open);
    uint32_t start = not_taken(&x, names, n, 0, 0);
    free(names);
    return start;
}
