#include "file/safetensors.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "file/cursor.h"
#include "file/emit.h"

enum { MAX_HEADER = 100000000 }; /* the format's own bound */

static const struct {
    const char *name;
    shk_type type;
} dtypes[] = {
    { "F32", SHK_F32 }, { "BF16", SHK_BF16 }, { "F16", SHK_F16 }, { "F64", SHK_F64 },
    { "I64", SHK_I64 }, { "I32", SHK_I32 },   { "I16", SHK_I16 }, { "I8", SHK_I8 },
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

/* ---- one file ---- */

/* *root is an object, for the caller to json_decref. */
static shk_status parse_json(json_t **root, const char *path, const void *data, size_t n, shk_error *err) {
    json_error_t e;
    json_t *parsed = json_loadb(data, n, JSON_REJECT_DUPLICATES, &e);
    *root = json_is_object(parsed) ? parsed : NULL;
    if (*root) return SHK_OK;
    json_decref(parsed);
    if (parsed) return shk_fail(err, SHK_E_FORMAT, "%s: the JSON is no object", path);
    bool memory = e.text[0] == 0; /* the one failure that jansson has no words for */
    if (memory) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its JSON", path);
    return shk_fail(err, SHK_E_FORMAT, "%s: JSON, byte %d: %s", path, e.position, e.text);
}

static shk_status parse_shape(shk_tensor *tensor, const json_t *shape, const char *path, shk_error *err) {
    size_t n_dims = json_array_size(shape);
    if (n_dims > SHK_MAX_DIMS)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: tensor %s has %zu dimensions, more than %d", path, tensor->name, n_dims,
                        SHK_MAX_DIMS);
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: shape[%zu] is no size", path, tensor->name, i);
        tensor->shape[i] = (uint64_t)json_integer_value(dim);
    }
    tensor->n_dims = (unsigned)n_dims;
    return SHK_OK;
}

/* Puts the tensor where its data_offsets say, within [data, data + size). */
static shk_status place(shk_tensor *t, const json_t *offsets, const uint8_t *data, size_t size, const char *path, shk_error *err) {
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (!json_is_integer(first) || !json_is_integer(last) || begin < 0 || end < begin || (uintmax_t)end > size)
        return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: data_offsets %jd to %jd, but there are %zu bytes: incomplete file?",
                        path, t->name, (intmax_t)begin, (intmax_t)end, size);
    if ((uintmax_t)(end - begin) != t->n_bytes)
        return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: data_offsets give %jd bytes, its shape %zu", path, t->name,
                        (intmax_t)(end - begin), t->n_bytes);
    t->data = data + begin;
    return SHK_OK;
}

/* Adds the tensor that an entry of the header describes. */
static shk_status add_entry(shk_tensors *t, const char *name, const json_t *entry, const uint8_t *data, size_t size,
                            shk_error *err) {
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype || !json_is_array(shape) || json_array_size(offsets) != 2)
        return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: dtype, shape or data_offsets is missing or wrong", t->path, name);
    size_t i = 0;
    while (i < DTYPES && strcmp(dtypes[i].name, dtype)) i++;
    if (i == DTYPES)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: tensor %s: dtype %s is not supported", t->path, name, dtype);
    shk_tensor tensor = { .name = name, .type = dtypes[i].type };
    shk_status status = parse_shape(&tensor, shape, t->path, err);
    if (!status) status = shk_tensors_add(t, &tensor, err);
    if (!status) status = place(&t->items[t->n - 1], offsets, data, size, t->path, err);
    return status;
}

/* Adds the tensors of a whole file; does not look for overlap. */
static shk_status add_file(shk_tensors *t, const char *path, const void *data, size_t size, shk_error *err) {
    shk_cursor c = { .data = data, .size = size };
    free(t->path);
    t->path = shk_strdup(path);
    if (!t->path) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    uint64_t n = shk_cursor_u64(&c);
    const uint8_t *header = shk_cursor_take(&c, n, 1);
    if (!header || n > MAX_HEADER)
        return shk_fail(err, SHK_E_FORMAT, "%s: is not a safetensors file, or incomplete: a header of %ju bytes in a file of %zu",
                        path, (uintmax_t)n, size);
    json_t *root, *entry;
    const char *name;
    shk_status status = parse_json(&root, path, header, (size_t)n, err);
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") == 0) continue;
        status = add_entry(t, name, entry, c.data + c.at, shk_cursor_left(&c), err);
        if (status) break;
    }
    json_decref(root);
    return status;
}

shk_status shk_safetensors_parse(shk_tensors *out, const char *path, const void *data, size_t size, shk_error *err) {
    *out = (shk_tensors){ 0 };
    shk_status status = add_file(out, path, data, size, err);
    if (!status) status = shk_tensors_check_overlap(out, err);
    if (status) shk_tensors_free(out);
    return status;
}

static shk_status map_and_add(shk_tensors *t, const char *path, shk_error *err) {
    shk_map map;
    shk_status status = shk_map_open(&map, path, err);
    if (status) return status;
    status = add_file(t, path, map.data, map.size, err);
    if (!status && !shk_tensors_own(t, &map)) status = shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    shk_map_close(&map);
    return status;
}

shk_status shk_safetensors_open(shk_tensors *out, const char *path, shk_error *err) {
    *out = (shk_tensors){ 0 };
    shk_status status = map_and_add(out, path, err);
    if (!status) status = shk_tensors_check_overlap(out, err);
    if (status) shk_tensors_free(out);
    return status;
}

/* ---- a directory ---- */

/* dir/name; malloc'd, NULL without memory. */
static char *join(const char *dir, const char *name) {
    shk_buffer path = { 0 };
    if (!shk_buffer_printf(&path, "%s/%s", dir, name)) shk_buffer_free(&path);
    return path.data;
}

/* A name in the directory itself. (It may be a symbolic link, as in the caches that download tools keep.) */
static bool plain_name(const char *name) {
    return shk_name_valid(name, strlen(name)) && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* Makes sure that tensor `name` comes from `file`. `opened` maps the names of files to their places in t->maps. */
static shk_status add_indexed(shk_tensors *t, const char *dir, const char *index, const char *name, const char *file,
                              json_t *opened, shk_error *err) {
    if (!file || !plain_name(file))
        return shk_fail(err, SHK_E_FORMAT, "%s: weight_map: tensor %s is not in a file of this directory", index, name);
    if (!json_object_get(opened, file)) {
        char *path = join(dir, file);
        shk_status status = SHK_E_MEMORY;
        if (path && !json_object_set_new(opened, file, json_integer((json_int_t)t->n_maps))) status = map_and_add(t, path, err);
        else shk_fail(err, status, "%s: out of memory", index);
        free(path);
        if (status) return status;
    }
    const shk_map *map = &t->maps[json_integer_value(json_object_get(opened, file))];
    const shk_tensor *tensor = shk_tensors_find(t, name);
    if (!tensor || (uintptr_t)tensor->data - (uintptr_t)map->data > map->size)
        return shk_fail(err, SHK_E_FORMAT, "%s: weight_map: tensor %s is not in %s", index, name, file);
    return SHK_OK;
}

static shk_status add_index(shk_tensors *t, const char *dir, const char *index, const shk_map *map, shk_error *err) {
    json_t *root, *file, *opened = json_object();
    const char *name;
    shk_status status = parse_json(&root, index, map->data, map->size, err);
    json_t *weight_map = json_object_get(root, "weight_map");
    if (!status && !json_is_object(weight_map)) status = shk_fail(err, SHK_E_FORMAT, "%s: weight_map is missing", index);
    json_object_foreach(weight_map, name, file) {
        status = add_indexed(t, dir, index, name, json_string_value(file), opened, err);
        if (status) break;
    }
    json_decref(opened);
    json_decref(root);
    return status;
}

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && strcmp(name + n - k, suffix) == 0;
}

/* The one *.safetensors in dir; *path is malloc'd. */
static shk_status find_only(char **path, const char *dir, shk_error *err) {
    *path = NULL;
    DIR *d = opendir(dir);
    if (!d) return shk_fail_errno(err, "%s", dir);
    shk_status status = SHK_OK;
    for (struct dirent *e; !status && (e = readdir(d));) {
        if (e->d_name[0] == '.' || !ends_in(e->d_name, ".safetensors")) continue;
        if (*path) status = shk_fail(err, SHK_E_FORMAT, "%s: holds several *.safetensors and no index", dir);
        else if (!(*path = join(dir, e->d_name))) status = shk_fail(err, SHK_E_MEMORY, "%s: out of memory", dir);
    }
    closedir(d);
    if (!status && !*path) status = shk_fail(err, SHK_E_IO, "%s: holds no *.safetensors", dir);
    return status;
}

shk_status shk_safetensors_open_dir(shk_tensors *out, const char *dir, shk_error *err) {
    *out = (shk_tensors){ 0 };
    shk_map map = { 0 };
    char *index = join(dir, "model.safetensors.index.json"), *single = join(dir, "model.safetensors"), *path = shk_strdup(dir);
    shk_status status = index && single && path ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: out of memory", dir);
    if (status) goto done;
    if (access(index, F_OK) == 0) {
        status = shk_map_open(&map, index, err);
        if (!status) status = add_index(out, dir, index, &map, err);
    } else {
        if (access(single, F_OK)) {
            free(single);
            status = find_only(&single, dir, err);
        }
        if (!status) status = map_and_add(out, single, err);
    }
    if (status) goto done;
    free(out->path);
    out->path = path, path = NULL;
    status = shk_tensors_check_overlap(out, err);
done:
    shk_map_close(&map);
    free(index);
    free(single);
    free(path);
    if (status) shk_tensors_free(out);
    return status;
}

/* ---- writing ---- */

static const char *dtype_of(shk_type type) {
    for (size_t i = 0; i < DTYPES; i++)
        if (dtypes[i].type == type) return dtypes[i].name;
    return NULL;
}

/* The JSON, padded with spaces so that the data start at a multiple of 8; malloc'd by jansson, NULL without memory or if a name
 * is not UTF-8. */
static char *header_text(const shk_tensors *table, size_t *n) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt"); /* other readers insist on a format */
    json_int_t begin = 0;
    bool ok = root != NULL;
    for (size_t i = 0; ok && i < table->n; i++) {
        const shk_tensor *t = &table->items[i];
        json_t *shape = json_array();
        for (unsigned d = 0; d < t->n_dims; d++) ok = !json_array_append_new(shape, json_integer((json_int_t)t->shape[d])) && ok;
        json_int_t end = begin + (json_int_t)t->n_bytes;
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_of(t->type), "shape", shape, "data_offsets", begin, end);
        ok = entry && !json_object_set_new(root, t->name, entry) && ok;
        begin = end;
    }
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    *n = text ? strlen(text) : 0;
    return text;
}

static shk_status put_header(const void *user, const shk_tensors *table, shk_writer *w, shk_error *err) {
    (void)user;
    for (size_t i = 0; i < table->n; i++)
        if (!dtype_of(table->items[i].type))
            return shk_fail(err, SHK_E_UNSUPPORTED, "%s: tensor %s: safetensors files hold no %s", table->path,
                            table->items[i].name, shk_type_of(table->items[i].type)->name);
    size_t n;
    char *text = header_text(table, &n);
    if (!text) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory, or a tensor's name is not UTF-8", table->path);
    shk_writer_put(w, &(uint64_t){ (n + 7) / 8 * 8 }, 8);
    shk_writer_put(w, text, n);
    shk_writer_put(w, "       ", (8 - n % 8) % 8);
    free(text);
    return SHK_OK;
}

shk_status shk_safetensors_write(const char *path, const shk_tensor *items, size_t n, shk_fill_fn *fill, void *user,
                                 shk_error *err) {
    return shk_emit(path, items, n, &(shk_emit_format){ put_header, NULL, 1 }, fill, user, err);
}
