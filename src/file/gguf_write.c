#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file/emit.h"
#include "file/gguf.h"

enum { ALIGNMENT = 32 };

typedef struct entry {
    char *key;
    shk_buffer value; /* type and value, as the file has them */
} entry;

struct shk_gguf_meta {
    entry *entries;
    size_t n;
    bool failed; /* for lack of memory */
};

shk_gguf_meta *shk_gguf_meta_new(void) { return shk_calloc(1, sizeof(shk_gguf_meta)); }

void shk_gguf_meta_free(shk_gguf_meta *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) {
        free(m->entries[i].key);
        shk_buffer_free(&m->entries[i].value);
    }
    free(m->entries);
    free(m);
}

/* ---- putting: an entry's value is begun, then bytes are appended to it ---- */

static entry *find_or_add(shk_gguf_meta *m, const char *key) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->entries[i].key, key) == 0) return &m->entries[i];
    entry *entries = shk_realloc(m->entries, m->n + 1, sizeof *entries);
    if (!entries) return NULL;
    m->entries = entries;
    char *copy = shk_strdup(key);
    if (!copy) return NULL;
    entries[m->n] = (entry){ .key = copy };
    return &entries[m->n++];
}

static void append(shk_gguf_meta *m, shk_buffer *value, const void *data, size_t n) {
    if (!m->failed && !shk_buffer_append(value, data, n)) m->failed = true;
}

static void append_u32(shk_gguf_meta *m, shk_buffer *value, uint32_t v) { append(m, value, &v, sizeof v); }
static void append_u64(shk_gguf_meta *m, shk_buffer *value, uint64_t v) { append(m, value, &v, sizeof v); }

static void append_str(shk_gguf_meta *m, shk_buffer *value, shk_str s) {
    append_u64(m, value, s.n);
    append(m, value, s.data, s.n);
}

/* The value to append to; never NULL, but of no use once m->failed. */
static shk_buffer *begin(shk_gguf_meta *m, const char *key, shk_meta_type type) {
    static shk_buffer unused;
    entry *e = m->failed ? NULL : find_or_add(m, key);
    if (!e) {
        m->failed = true;
        return &unused;
    }
    shk_buffer_free(&e->value);
    append_u32(m, &e->value, type);
    return &e->value;
}

static shk_buffer *begin_array(shk_gguf_meta *m, const char *key, shk_meta_type elem, size_t n) {
    shk_buffer *value = begin(m, key, SHK_META_ARRAY);
    append_u32(m, value, elem);
    append_u64(m, value, n);
    return value;
}

void shk_gguf_put_u32(shk_gguf_meta *m, const char *key, uint32_t v) { append(m, begin(m, key, SHK_META_U32), &v, sizeof v); }
void shk_gguf_put_f32(shk_gguf_meta *m, const char *key, float v) { append(m, begin(m, key, SHK_META_F32), &v, sizeof v); }
void shk_gguf_put_bool(shk_gguf_meta *m, const char *key, bool v) { append(m, begin(m, key, SHK_META_BOOL), &(uint8_t){ v }, 1); }

void shk_gguf_put_str(shk_gguf_meta *m, const char *key, const char *v) {
    append_str(m, begin(m, key, SHK_META_STRING), (shk_str){ v, strlen(v) });
}

void shk_gguf_put_strs(shk_gguf_meta *m, const char *key, const shk_str *v, size_t n) {
    shk_buffer *value = begin_array(m, key, SHK_META_STRING, n);
    for (size_t i = 0; i < n; i++) append_str(m, value, v[i]);
}

void shk_gguf_put_f32s(shk_gguf_meta *m, const char *key, const float *v, size_t n) {
    append(m, begin_array(m, key, SHK_META_F32, n), v, n * sizeof *v);
}

void shk_gguf_put_i32s(shk_gguf_meta *m, const char *key, const int32_t *v, size_t n) {
    append(m, begin_array(m, key, SHK_META_I32, n), v, n * sizeof *v);
}

void shk_gguf_put_bools(shk_gguf_meta *m, const char *key, const bool *v, size_t n) {
    shk_buffer *value = begin_array(m, key, SHK_META_BOOL, n);
    for (size_t i = 0; i < n; i++) append(m, value, &(uint8_t){ v[i] }, 1);
}

void shk_gguf_put_copy(shk_gguf_meta *m, const shk_meta *from) {
    if (strcmp(from->key, "general.alignment") == 0) return; /* the new file has its own */
    shk_buffer *value = begin(m, from->key, from->type);
    if (from->type == SHK_META_ARRAY) {
        append_u32(m, value, from->elem);
        append_u64(m, value, from->n);
    }
    append(m, value, from->data, from->n_bytes);
}

/* ---- the file ---- */

static void put_u32(shk_writer *w, uint32_t v) { shk_writer_put(w, &v, sizeof v); }
static void put_u64(shk_writer *w, uint64_t v) { shk_writer_put(w, &v, sizeof v); }

static void put_str(shk_writer *w, const char *s) {
    put_u64(w, strlen(s));
    shk_writer_put(w, s, strlen(s));
}

static shk_status put_header(const void *user, const shk_tensors *table, shk_writer *w, shk_error *err) {
    const shk_gguf_meta *meta = user;
    if (meta->failed) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its metadata", table->path);
    shk_writer_put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, table->n);
    put_u64(w, meta->n);
    for (size_t i = 0; i < meta->n; i++) {
        put_str(w, meta->entries[i].key);
        shk_writer_put(w, meta->entries[i].value.data, meta->entries[i].value.n);
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < table->n; i++) {
        const shk_tensor *t = &table->items[i];
        put_str(w, t->name);
        put_u32(w, t->n_dims);
        for (unsigned d = t->n_dims; d-- > 0;) put_u64(w, t->shape[d]);
        put_u32(w, t->type);
        put_u64(w, offset);
        offset += (t->n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return SHK_OK;
}

shk_status shk_gguf_write(const char *path, const shk_gguf_meta *meta, const shk_tensor *items, size_t n, shk_fill_fn *fill,
                          void *user, shk_error *err) {
    return shk_emit(path, items, n, &(shk_emit_format){ put_header, meta, ALIGNMENT }, fill, user, err);
}
