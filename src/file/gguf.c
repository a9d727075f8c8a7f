#include "file/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file/cursor.h"

enum {
    MAX_META = 1 << 16,
    MAX_KEY = 65535,         /* the format's own bound */
    MAX_NAME = 1023,
    MAX_ALIGNMENT = 1 << 16,
    LEAST_META = 8 + 1 + 4 + 1,       /* bytes of the smallest entry: key length, key, type, value */
    LEAST_TENSOR = 8 + 1 + 4 + 4 + 8, /* name length, name, dimensions, type, offset */
};

static const uint8_t meta_size[] = {
    [SHK_META_U8] = 1,  [SHK_META_I8] = 1,  [SHK_META_U16] = 2, [SHK_META_I16] = 2, [SHK_META_U32] = 4,
    [SHK_META_I32] = 4, [SHK_META_F32] = 4, [SHK_META_BOOL] = 1, [SHK_META_STRING] = 0, [SHK_META_ARRAY] = 0,
    [SHK_META_U64] = 8, [SHK_META_I64] = 8, [SHK_META_F64] = 8,
};
enum { META_TYPES = sizeof meta_size };

/* ---- parsing ---- */

static shk_status truncated(const shk_gguf *g, const shk_cursor *c, const char *where, shk_error *err) {
    return shk_fail(err, SHK_E_FORMAT, "%s: %s: the file ends or a length is wrong at byte %zu", g->path, where, c->at);
}

static shk_str read_str(shk_cursor *c) {
    uint64_t n = shk_cursor_u64(c);
    const char *data = (const char *)shk_cursor_take(c, n, 1);
    return data ? (shk_str){ data, (size_t)n } : (shk_str){ "", 0 };
}

static shk_status parse_array(shk_gguf *g, shk_meta *m, shk_cursor *c, shk_error *err) {
    uint32_t elem = shk_cursor_u32(c);
    m->n = shk_cursor_u64(c);
    m->data = c->data + c->at;
    if (elem >= META_TYPES) return shk_fail(err, SHK_E_FORMAT, "%s: %s: unknown element type %u", g->path, m->key, elem);
    if (elem == SHK_META_ARRAY) return shk_fail(err, SHK_E_UNSUPPORTED, "%s: %s: an array of arrays", g->path, m->key);
    m->elem = (shk_meta_type)elem;
    if (elem == SHK_META_STRING)
        for (uint64_t i = 0; i < m->n && !c->failed; i++) read_str(c);
    else
        shk_cursor_take(c, m->n, meta_size[elem]);
    return SHK_OK;
}

static shk_status parse_meta(shk_gguf *g, shk_cursor *c, shk_error *err) {
    shk_meta *m = &g->meta[g->n_meta];
    shk_status status = SHK_OK;
    shk_str key = read_str(c);
    uint32_t type = shk_cursor_u32(c);
    if (c->failed) return truncated(g, c, "metadata", err);
    if (key.n > MAX_KEY || !shk_name_valid(key.data, key.n))
        return shk_fail(err, SHK_E_FORMAT, "%s: metadata key %zu is empty, too long or has control characters", g->path, g->n_meta);
    m->key = shk_memdup(key.data, key.n);
    if (!m->key) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its metadata", g->path);
    g->n_meta++;
    if (type >= META_TYPES) return shk_fail(err, SHK_E_FORMAT, "%s: %s: unknown type %u", g->path, m->key, type);
    m->type = (shk_meta_type)type;
    m->data = c->data + c->at;
    if (type == SHK_META_ARRAY) status = parse_array(g, m, c, err);
    else if (type == SHK_META_STRING) read_str(c);
    else shk_cursor_take(c, 1, meta_size[type]);
    m->n_bytes = (size_t)(c->data + c->at - m->data);
    return status ? status : c->failed ? truncated(g, c, m->key, err) : SHK_OK;
}

static int by_key(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static shk_status check_unique_keys(const shk_gguf *g, shk_error *err) {
    const char **keys = shk_calloc(g->n_meta, sizeof *keys);
    if (!keys) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its metadata", g->path);
    shk_status status = SHK_OK;
    for (size_t i = 0; i < g->n_meta; i++) keys[i] = g->meta[i].key;
    qsort(keys, g->n_meta, sizeof *keys, by_key);
    for (size_t i = 1; i < g->n_meta && status == SHK_OK; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0) status = shk_fail(err, SHK_E_FORMAT, "%s: %s appears twice", g->path, keys[i]);
    free(keys);
    return status;
}

static shk_status parse_tensor(shk_gguf *g, uint64_t *offset, shk_cursor *c, shk_error *err) {
    char text[MAX_NAME + 1];
    shk_tensor t = { .name = text };
    shk_str name = read_str(c);
    t.n_dims = shk_cursor_u32(c);
    if (c->failed) return truncated(g, c, "tensor list", err);
    if (name.n > MAX_NAME || !shk_name_valid(name.data, name.n))
        return shk_fail(err, SHK_E_FORMAT, "%s: the name of tensor %zu is empty, too long or has control characters", g->path,
                        g->tensors.n);
    memcpy(text, name.data, name.n);
    text[name.n] = 0;
    if (t.n_dims > SHK_MAX_DIMS)
        return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s has %u dimensions, more than %d", g->path, text, t.n_dims, SHK_MAX_DIMS);
    for (unsigned i = t.n_dims; i-- > 0;) t.shape[i] = shk_cursor_u64(c);
    uint32_t type = shk_cursor_u32(c);
    *offset = shk_cursor_u64(c);
    if (c->failed) return truncated(g, c, "tensor list", err);
    if (!shk_type_of(type)->name)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: tensor %s has type %u, which is not supported", g->path, text, type);
    t.type = (shk_type)type;
    return shk_tensors_add(&g->tensors, &t, err);
}

/* 0: not a sensible one. */
static size_t read_alignment(const shk_gguf *g) {
    const shk_meta *m = shk_gguf_find(g, "general.alignment");
    int64_t value = 32;
    if (m && !shk_meta_int(m, &value)) return 0;
    return value > 0 && value <= MAX_ALIGNMENT && (value & (value - 1)) == 0 ? (size_t)value : 0;
}

/* Turns offsets into addresses. The data start behind the tensor list, at a multiple of the alignment. */
static shk_status place_tensors(shk_gguf *g, const uint64_t *offsets, const shk_cursor *c, shk_error *err) {
    size_t alignment = read_alignment(g);
    if (alignment == 0)
        return shk_fail(err, SHK_E_FORMAT, "%s: general.alignment must be a power of two, at most %d", g->path, MAX_ALIGNMENT);
    size_t gap = (alignment - c->at % alignment) % alignment, left = shk_cursor_left(c);
    size_t begin = c->at + (gap < left ? gap : left), size = c->size - begin;
    for (size_t i = 0; i < g->tensors.n; i++) {
        shk_tensor *t = &g->tensors.items[i];
        if (offsets[i] % alignment)
            return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: offset %ju is no multiple of %zu", g->path, t->name,
                            (uintmax_t)offsets[i], alignment);
        if (offsets[i] > size || t->n_bytes > size - offsets[i])
            return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: %zu bytes at %ju of the data, which have %zu: incomplete file?",
                            g->path, t->name, t->n_bytes, (uintmax_t)offsets[i], size);
        t->data = c->data + begin + offsets[i];
    }
    return shk_tensors_check_overlap(&g->tensors, err);
}

static shk_status parse_header(const shk_gguf *g, uint64_t *n_tensors, uint64_t *n_meta, shk_cursor *c, shk_error *err) {
    const uint8_t *magic = shk_cursor_take(c, 4, 1);
    if (!magic || memcmp(magic, "GGUF", 4)) return shk_fail(err, SHK_E_FORMAT, "%s: is not a GGUF file", g->path);
    uint32_t version = shk_cursor_u32(c);
    *n_tensors = shk_cursor_u64(c);
    *n_meta = shk_cursor_u64(c);
    if (c->failed) return truncated(g, c, "header", err);
    if (version != 0 && version % 65536 == 0) return shk_fail(err, SHK_E_UNSUPPORTED, "%s: is a big-endian GGUF file", g->path);
    if (version != 2 && version != 3)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: GGUF version %u; supported are 2 and 3", g->path, version);
    size_t left = shk_cursor_left(c);
    if (*n_meta > left / LEAST_META || *n_meta > MAX_META)
        return shk_fail(err, SHK_E_FORMAT, "%s: %ju metadata entries cannot be", g->path, (uintmax_t)*n_meta);
    if (*n_tensors > left / LEAST_TENSOR)
        return shk_fail(err, SHK_E_FORMAT, "%s: %ju tensors in %zu bytes cannot be", g->path, (uintmax_t)*n_tensors, left);
    return SHK_OK;
}

shk_status shk_gguf_parse(shk_gguf *g, const char *path, const void *data, size_t size, shk_error *err) {
    shk_cursor c = { .data = data, .size = size };
    uint64_t n_tensors = 0, n_meta = 0, *offsets = NULL;
    *g = (shk_gguf){ .path = shk_strdup(path), .tensors.path = shk_strdup(path) };
    shk_status status = SHK_E_MEMORY;
    if (!g->path || !g->tensors.path) goto done;
    status = parse_header(g, &n_tensors, &n_meta, &c, err);
    if (status) goto done;
    offsets = shk_calloc((size_t)n_tensors, sizeof *offsets);
    g->meta = shk_calloc((size_t)n_meta, sizeof *g->meta);
    if (!offsets || !g->meta) status = SHK_E_MEMORY;
    while (!status && g->n_meta < n_meta) status = parse_meta(g, &c, err);
    if (!status) status = check_unique_keys(g, err);
    while (!status && g->tensors.n < n_tensors) status = parse_tensor(g, &offsets[g->tensors.n], &c, err);
    if (!status) status = place_tensors(g, offsets, &c, err);
done:
    free(offsets);
    if (status == SHK_E_MEMORY) shk_fail(err, status, "%s: out of memory", path);
    if (status) shk_gguf_free(g);
    return status;
}

shk_status shk_gguf_open(shk_gguf *out, const char *path, shk_error *err) {
    shk_map map;
    *out = (shk_gguf){ 0 };
    shk_status status = shk_map_open(&map, path, err);
    if (status) return status;
    status = shk_gguf_parse(out, path, map.data, map.size, err);
    if (!status && !shk_tensors_own(&out->tensors, &map)) {
        status = shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
        shk_gguf_free(out);
    }
    shk_map_close(&map);
    return status;
}

void shk_gguf_free(shk_gguf *g) {
    for (size_t i = 0; i < g->n_meta; i++) free((char *)(uintptr_t)g->meta[i].key);
    free(g->meta);
    free(g->path);
    shk_tensors_free(&g->tensors);
    *g = (shk_gguf){ 0 };
}

bool shk_gguf_probe(const char *path) {
    shk_map map;
    if (shk_map_open(&map, path, NULL)) return false;
    bool is = map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0;
    shk_map_close(&map);
    return is;
}

/* ---- values ---- */

const shk_meta *shk_gguf_find(const shk_gguf *g, const char *key) {
    for (size_t i = 0; i < g->n_meta; i++)
        if (strcmp(g->meta[i].key, key) == 0) return &g->meta[i];
    return NULL;
}

/* The value of type `type` at p, unaligned. */
#define STORED(ctype, p) (((const struct __attribute__((packed)) { ctype v; } *)(p))->v)

static bool int_value(shk_meta_type type, const uint8_t *p, int64_t *out) {
    switch (type) {
    case SHK_META_U8: *out = *p; return true;
    case SHK_META_I8: *out = (int8_t)*p; return true;
    case SHK_META_U16: *out = STORED(uint16_t, p); return true;
    case SHK_META_I16: *out = STORED(int16_t, p); return true;
    case SHK_META_U32: *out = STORED(uint32_t, p); return true;
    case SHK_META_I32: *out = STORED(int32_t, p); return true;
    case SHK_META_BOOL: *out = *p != 0; return true;
    case SHK_META_I64: *out = STORED(int64_t, p); return true;
    case SHK_META_U64:
        if (STORED(uint64_t, p) > INT64_MAX) return false;
        *out = STORED(int64_t, p);
        return true;
    default: return false;
    }
}

static bool real_value(shk_meta_type type, const uint8_t *p, double *out) {
    int64_t integer;
    switch (type) {
    case SHK_META_F32: *out = STORED(float, p); return true;
    case SHK_META_F64: *out = STORED(double, p); return true;
    case SHK_META_U64: *out = (double)STORED(uint64_t, p); return true;
    default:
        if (type == SHK_META_BOOL || !int_value(type, p, &integer)) return false;
        *out = (double)integer;
        return true;
    }
}

bool shk_meta_int(const shk_meta *m, int64_t *out) { return int_value(m->type, m->data, out); }
bool shk_meta_real(const shk_meta *m, double *out) { return real_value(m->type, m->data, out); }

bool shk_meta_int_at(const shk_meta *m, uint64_t i, int64_t *out) {
    return m->type == SHK_META_ARRAY && i < m->n && int_value(m->elem, m->data + i * meta_size[m->elem], out);
}

bool shk_meta_real_at(const shk_meta *m, uint64_t i, double *out) {
    return m->type == SHK_META_ARRAY && i < m->n && real_value(m->elem, m->data + i * meta_size[m->elem], out);
}

shk_str shk_meta_next_str(const uint8_t **at) {
    shk_str s = { (const char *)*at + 8, (size_t)STORED(uint64_t, *at) };
    *at += 8 + s.n;
    return s;
}

bool shk_meta_str(const shk_meta *m, shk_str *out) {
    const uint8_t *at = m->data;
    if (m->type != SHK_META_STRING) return false;
    *out = shk_meta_next_str(&at);
    return true;
}
