#include "file/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "error.h"

enum { MAX_TENSORS = 1 << 20 };

/* ---- the index over the names: open addressing, at most half full; a bucket holds an item's number plus 1 ---- */

/* Keyed by the kernel's random bytes for this process, lest a file choose names that collide. */
static uint64_t hash(const char *name) {
    uint64_t h;
    memcpy(&h, (const void *)getauxval(AT_RANDOM), sizeof h);
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The bucket of `name`, or the empty one where it belongs. */
static uint32_t *bucket_of(const shk_tensors *t, const char *name) {
    size_t i = hash(name) & (t->n_buckets - 1);
    while (t->buckets[i] && strcmp(t->items[t->buckets[i] - 1].name, name)) i = (i + 1) & (t->n_buckets - 1);
    return &t->buckets[i];
}

const shk_tensor *shk_tensors_find(const shk_tensors *t, const char *name) {
    if (t->n == 0) return NULL;
    uint32_t i = *bucket_of(t, name);
    return i ? &t->items[i - 1] : NULL;
}

/* Room for twice the items, in a new index. */
static bool grow(shk_tensors *t) {
    size_t room = t->n_buckets ? t->n_buckets : 128;
    shk_tensor *items = shk_realloc(t->items, room, sizeof *items);
    if (!items) return false;
    t->items = items;
    uint32_t *buckets = shk_calloc(2 * room, sizeof *buckets);
    if (!buckets) return false;
    free(t->buckets);
    t->buckets = buckets, t->n_buckets = 2 * room;
    for (size_t i = 0; i < t->n; i++) *bucket_of(t, t->items[i].name) = (uint32_t)(i + 1);
    return true;
}

/* ---- the table ---- */

bool shk_name_valid(const char *name, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)name[i] < 0x20 || name[i] == 0x7f) return false;
    return n > 0;
}

bool shk_tensor_measure(shk_tensor *t) {
    size_t n_elem = 1, rows = 1, row = 1;
    for (unsigned i = 0; i < t->n_dims; i++) {
        if (t->shape[i] > SIZE_MAX || !shk_mul(&n_elem, n_elem, (size_t)t->shape[i])) return false;
        rows *= row; /* divides n_elem */
        row = (size_t)t->shape[i];
    }
    size_t row_bytes, n_bytes;
    if (!shk_row_bytes(t->type, row, &row_bytes) || !shk_mul(&n_bytes, rows, row_bytes)) return false;
    t->n_elem = n_elem, t->n_bytes = n_bytes;
    return true;
}

shk_status shk_tensors_add(shk_tensors *t, const shk_tensor *tensor, shk_error *err) {
    shk_tensor new = *tensor;
    char shape[96];
    if (!shk_name_valid(new.name, strlen(new.name)))
        return shk_fail(err, SHK_E_FORMAT, "%s: a tensor's name is empty or has control characters: \"%s\"", t->path, new.name);
    if (t->n == MAX_TENSORS) return shk_fail(err, SHK_E_UNSUPPORTED, "%s: more than %d tensors", t->path, MAX_TENSORS);
    for (unsigned i = new.n_dims; i < SHK_MAX_DIMS; i++) new.shape[i] = 1;
    if (!shk_tensor_measure(&new))
        return shk_fail(err, SHK_E_FORMAT, "%s: tensor %s: a shape of %s is too large or does not divide into blocks of %s",
                        t->path, new.name, shk_shape_string(shape, sizeof shape, new.shape, new.n_dims),
                        shk_type_of(new.type)->name);
    if (2 * t->n == t->n_buckets && !grow(t)) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its tensors", t->path);
    uint32_t *bucket = bucket_of(t, new.name);
    if (*bucket) return shk_fail(err, SHK_E_FORMAT, "%s: there are two tensors %s", t->path, new.name);
    new.name = shk_strdup(new.name);
    if (!new.name) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its tensors", t->path);
    t->items[t->n++] = new;
    *bucket = (uint32_t)t->n;
    return SHK_OK;
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)(*(shk_tensor *const *)a)->data, y = (uintptr_t)(*(shk_tensor *const *)b)->data;
    return (x > y) - (x < y);
}

shk_status shk_tensors_check_overlap(const shk_tensors *t, shk_error *err) {
    const shk_tensor **sorted = shk_calloc(t->n, sizeof *sorted);
    if (!sorted) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its tensors", t->path);
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].n_bytes) sorted[n++] = &t->items[i];
    qsort(sorted, n, sizeof *sorted, by_address);
    shk_status status = SHK_OK;
    for (size_t i = 1; i < n && status == SHK_OK; i++)
        if ((uintptr_t)sorted[i]->data - (uintptr_t)sorted[i - 1]->data < sorted[i - 1]->n_bytes)
            status = shk_fail(err, SHK_E_FORMAT, "%s: tensors %s and %s overlap", t->path, sorted[i - 1]->name, sorted[i]->name);
    free(sorted);
    return status;
}

bool shk_tensors_own(shk_tensors *t, shk_map *map) {
    shk_map *maps = shk_realloc(t->maps, t->n_maps + 1, sizeof *maps);
    if (!maps) return false;
    t->maps = maps;
    t->maps[t->n_maps++] = *map;
    *map = (shk_map){ 0 };
    return true;
}

void shk_tensors_free(shk_tensors *t) {
    for (size_t i = 0; i < t->n; i++) free((char *)(uintptr_t)t->items[i].name);
    for (size_t i = 0; i < t->n_maps; i++) shk_map_close(&t->maps[i]);
    free(t->items);
    free(t->buckets);
    free(t->maps);
    free(t->path);
    *t = (shk_tensors){ 0 };
}

const char *shk_shape_string(char *buf, size_t size, const uint64_t *shape, unsigned n_dims) {
    char text[SHK_MAX_DIMS * sizeof ", 18446744073709551615" + 2] = "[", *end = text + 1;
    for (unsigned i = 0; i < n_dims && i < SHK_MAX_DIMS; i++) end += sprintf(end, i ? ", %ju" : "%ju", (uintmax_t)shape[i]);
    snprintf(buf, size, "%s]", text);
    return buf;
}
