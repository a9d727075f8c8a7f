#include "grammar/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar.h"

enum {
    MAX_BYTES = 1 << 20, /* of a schema */
    MAX_JOBS = 1 << 15,
    MAX_WORK = 1 << 21
};

/* ---- failing ---- */

static bool put_path(shk_buffer *out, const shk_place *place) {
    if (!place->up) return shk_buffer_printf(out, "#");
    if (!put_path(out, place->up)) return false;
    return place->key ? shk_buffer_printf(out, "/%s", place->key) : shk_buffer_printf(out, "/%zu", place->index);
}

static const shk_place *cut_short(const shk_place *place) {
    int depth = 0;
    for (const shk_place *p = place; p; p = p->up) depth++;
    for (; depth > 64; depth--) place = place->up; /* nobody reads that far, and the message has no room */
    return place;
}

void shk_compiler_fail_in(shk_compiler *c, shk_status status, const shk_place *place, const char *key) {
    shk_buffer path = { .cap = 400 };
    if (c->status) return;
    c->status = status;
    if (put_path(&path, cut_short(place)) && key) shk_buffer_printf(&path, "/%s", key);
    shk_fail_in(c->err, status, "schema: %s", path.data ? path.data : "#");
    shk_buffer_free(&path);
}

void shk_compiler_fail(shk_compiler *c, shk_status status, const shk_place *place, const char *key, const char *format, ...) {
    char message[200];
    va_list args;
    if (c->status) return;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    shk_fail(c->err, status, "%s", message);
    shk_compiler_fail_in(c, status, place, key);
}

void shk_compiler_no_memory(shk_compiler *c) {
    if (!c->status) c->status = shk_fail(c->err, SHK_E_MEMORY, "out of memory for a schema");
}

void shk_compiler_spend(shk_compiler *c, size_t work) {
    if (work > MAX_WORK - c->work) shk_compiler_fail(c, SHK_E_LIMIT, &(shk_place){ 0 }, NULL, "too much has to be put together");
    else c->work += work;
}

/* ---- small helpers ---- */

const shk_place *shk_place_key(shk_compiler *c, const shk_place *up, const char *key) {
    shk_place *p = shk_arena_alloc(c->places, 1, sizeof *p);
    if (!p) return shk_compiler_no_memory(c), up;
    *p = (shk_place){ up, key, 0 };
    return p;
}

const shk_place *shk_place_index(shk_compiler *c, const shk_place *up, size_t index) {
    shk_place *p = shk_arena_alloc(c->places, 1, sizeof *p);
    if (!p) return shk_compiler_no_memory(c), up;
    *p = (shk_place){ up, NULL, index };
    return p;
}

void shk_compiler_set(shk_compiler *c, json_t *object, const char *key, const json_t *value) {
    shk_compiler_spend(c, 1);
    if (!c->status && json_object_set(object, key, (json_t *)(uintptr_t)value)) shk_compiler_no_memory(c);
}

void shk_compiler_append(shk_compiler *c, json_t *array, const json_t *value) {
    shk_compiler_spend(c, 1);
    if (!c->status && json_array_append(array, (json_t *)(uintptr_t)value)) shk_compiler_no_memory(c);
}

json_t *shk_compiler_own(shk_compiler *c, json_t *value) {
    if (c->status) json_decref(value);
    else if (value && json_array_append_new(c->made, value) == 0) return value;
    else shk_compiler_no_memory(c);
    return NULL;
}

/* Makes room for one more of n items. */
static bool grow(shk_compiler *c, void *items, size_t n, size_t *room, size_t size) {
    void **p = items;
    if (n < *room) return true;
    size_t larger = *room ? 2 * *room : 64;
    void *grown = shk_realloc(*p, larger, size);
    if (!grown) return shk_compiler_no_memory(c), false;
    *p = grown, *room = larger;
    return true;
}

/* ---- references ---- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* One step of a JSON pointer in a URI's fragment: %7E is ~, then ~1 is / and ~0 is ~. Returns what is behind it. */
static const char *pointer_step(const char *p, char *out, size_t room) {
    size_t n = 0;
    for (; *p && *p != '/'; p++) {
        char ch = *p;
        if (ch == '%' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0) {
            ch = (char)(16 * hex_digit(p[1]) + hex_digit(p[2]));
            p += 2;
        }
        bool second = n > 0 && out[n - 1] == '~' && (ch == '0' || ch == '1');
        if (second) out[n - 1] = ch == '0' ? '\x01' : '/'; /* a ~ that has been read is no longer the start of anything */
        else if (n + 1 < room) out[n++] = ch;
    }
    out[n] = 0;
    for (size_t i = 0; i < n; i++)
        if (out[i] == '\x01') out[i] = '~';
    return p;
}

const json_t *shk_compiler_resolve(shk_compiler *c, const char *ref, const shk_place *place) {
    const json_t *at = c->root;
    char step[1024];
    if (ref[0] != '#' || (ref[1] && ref[1] != '/')) {
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "$ref", "%.100s: only references to places in the schema itself (#/...) are "
                          "supported", ref);
        return NULL;
    }
    for (const char *p = ref + 1; *p && at;) {
        p = pointer_step(p + 1, step, sizeof step);
        bool index = *step && strspn(step, "0123456789") == strlen(step);
        if (!json_is_array(at)) at = json_object_get(at, step);
        else at = index ? json_array_get(at, strtoul(step, NULL, 10)) : NULL;
    }
    if (!at) shk_compiler_fail(c, SHK_E_FORMAT, place, "$ref", "%.100s is not there", ref);
    return at;
}

/* ---- rules ---- */

/* A rule of its own for the schema, built later. */
static uint32_t add_job(shk_compiler *c, const json_t *schema, const shk_place *place) {
    if (c->n_jobs == MAX_JOBS) shk_compiler_fail(c, SHK_E_LIMIT, place, NULL, "there are more than %d rules", MAX_JOBS);
    if (c->status || !grow(c, &c->jobs, c->n_jobs, &c->jobs_room, sizeof *c->jobs)) return SHK_DEAD;
    uint32_t entry = shk_automaton_reserve(c->a);
    c->jobs[c->n_jobs++] = (shk_job){ schema, place, entry };
    return entry;
}

static uint32_t referred(shk_compiler *c, const char *ref, const shk_place *place) {
    const json_t *known = json_object_get(c->refs, ref);
    if (known) return (uint32_t)json_integer_value(known);
    const json_t *target = shk_compiler_resolve(c, ref, place);
    if (!target) return SHK_DEAD;
    shk_place *root = shk_arena_alloc(c->places, 1, sizeof *root);
    if (!root) return shk_compiler_no_memory(c), SHK_DEAD;
    *root = (shk_place){ 0 };
    if (ref[1]) root = (shk_place *)(uintptr_t)shk_place_key(c, root, ref + 2);
    uint32_t entry = add_job(c, target, root);
    if (!c->status && json_object_set_new(c->refs, ref, json_integer(entry))) shk_compiler_no_memory(c);
    return entry;
}

uint32_t shk_compiler_rule(shk_compiler *c, const json_t *schema, const shk_place *place) {
    if (c->status || json_is_false(schema)) return SHK_DEAD;
    if (shk_schema_is_true(schema)) return c->any;
    const char *ref = json_is_object(schema) ? shk_schema_ref(schema) : NULL;
    return ref ? referred(c, ref, place) : add_job(c, schema, place);
}

/* One of a list must be true, and all else that was gathered. */
static uint32_t choose(shk_compiler *c, const shk_gathered *g, const shk_place *place) {
    const json_t *list = json_array_get(g->choices, 0);
    bool alone = json_object_size(g->plain) == 0 && json_array_size(g->choices) == 1;
    uint32_t start = SHK_DEAD;
    for (size_t i = 0; i < json_array_size(list) && !c->status; i++) {
        const json_t *schema = json_array_get(list, i);
        if (!alone) {
            json_t *all = shk_compiler_own(c, json_array()), *both = shk_compiler_own(c, json_object());
            if (!all || !both) break;
            shk_compiler_append(c, all, g->plain);
            shk_compiler_append(c, all, schema);
            for (size_t k = 1; k < json_array_size(g->choices); k++) {
                json_t *other = shk_compiler_own(c, json_object());
                if (other) shk_compiler_set(c, other, "anyOf", json_array_get(g->choices, k));
                shk_compiler_append(c, all, other);
            }
            shk_compiler_set(c, both, "allOf", all);
            schema = both;
        }
        start = shk_automaton_split(c->a, start, shk_compiler_rule(c, schema, shk_place_index(c, place, i)));
    }
    return start;
}

static bool is_restricted(const json_t *plain) {
    return json_object_size(plain) > 1u + (json_object_get(plain, "type") != NULL);
}

static void build(shk_compiler *c, shk_job job) {
    uint32_t start = SHK_DEAD;
    const char *ref = json_is_object(job.schema) ? shk_schema_ref(job.schema) : NULL;
    if (ref) {
        shk_automaton_become(c->a, job.entry, referred(c, ref, job.place));
        return;
    }
    shk_gathered g = shk_gather(c, job.schema, job.place);
    if (c->status) return;
    const json_t *values = json_object_get(g.plain, "enum");
    if (json_array_size(g.choices)) {
        start = choose(c, &g, job.place);
    } else if (values && is_restricted(g.plain) && grow(c, &c->choices, c->n_choices, &c->choices_room, sizeof *c->choices)) {
        /* what the rest makes of the values can be asked when its rule is there */
        json_t *rest = shk_compiler_own(c, json_copy(g.plain));
        if (!rest || json_object_del(rest, "enum")) return;
        start = shk_automaton_reserve(c->a);
        c->choices[c->n_choices++] = (shk_choice){ values, job.place, shk_compiler_rule(c, rest, job.place), start };
    } else if (!c->status) {
        start = shk_plain_rule(c, g.plain, job.place);
    }
    shk_automaton_become(c->a, job.entry, start);
}

static void build_all(shk_compiler *c) {
    static const shk_place root = { 0 };
    json_t *everything = shk_compiler_own(c, json_object());
    if (c->status) return;
    c->any = shk_automaton_reserve(c->a);
    shk_automaton_become(c->a, c->any, shk_plain_rule(c, everything, &root));
    c->a->start = shk_compiler_rule(c, c->root, &root);
    for (size_t i = 0; i < c->n_jobs && !c->status && !c->a->status; i++) build(c, c->jobs[i]);
    while (c->n_choices > 0 && !c->status && !c->a->status) { /* inner ones, which others may ask for, came later */
        const shk_choice *x = &c->choices[--c->n_choices];
        json_t *values = shk_compiler_own(c, shk_values_of_rule(c, x->values, x->rule, x->place));
        if (values) shk_automaton_become(c->a, x->entry, shk_literals(c, values, x->place, SHK_RETURN));
    }
}

/* ---- a whole schema ---- */

static shk_status parse(json_t **out, const char *schema, shk_error *err) {
    json_error_t e;
    size_t n = strnlen(schema, MAX_BYTES + 1);
    if (n > MAX_BYTES) return shk_fail(err, SHK_E_LIMIT, "schema: it has more than %d bytes", MAX_BYTES);
    *out = json_loadb(schema, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (*out) return SHK_OK;
    bool memory = json_error_code(&e) == json_error_out_of_memory || !*e.text;
    if (memory) return shk_fail(err, SHK_E_MEMORY, "out of memory for a schema");
    return shk_fail(err, SHK_E_FORMAT, "schema: it is no JSON: line %d: %s", e.line, e.text);
}

shk_status shk_schema_compile(shk_automaton *a, const char *schema, shk_error *err) {
    shk_compiler c = { .a = a, .err = err };
    json_t *root = NULL;
    shk_status status = shk_automaton_init(a, err);
    if (!status) status = parse(&root, schema ? schema : "{\"type\":\"object\"}", err);
    if (status) goto done;
    c.root = root;
    c.places = shk_arena_new();
    c.made = json_array();
    c.refs = json_object();
    if (!c.places || !c.made || !c.refs) shk_compiler_no_memory(&c);
    if (!c.status) build_all(&c);
    status = c.status ? c.status : shk_automaton_finish(a, err);
done:
    shk_arena_free(c.places);
    json_decref(c.made);
    json_decref(c.refs);
    json_decref(root);
    free(c.jobs);
    free(c.choices);
    return status;
}
