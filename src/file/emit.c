#include "file/emit.h"

static shk_status put_tensor(const shk_tensor *t, const char *path, shk_writer *w, shk_fill_fn *fill, void *user, shk_error *err) {
    uint64_t begin = shk_writer_offset(w);
    shk_status status = fill(user, t, w, err);
    uint64_t put = shk_writer_offset(w) - begin;
    if (!status && put != t->n_bytes)
        status = shk_fail(err, SHK_E_ARGUMENT, "%s: tensor %s: %ju bytes were given for %zu", path, t->name, (uintmax_t)put,
                          t->n_bytes);
    return status;
}

shk_status shk_emit(const char *path, const shk_tensor *items, size_t n, const shk_emit_format *format, shk_fill_fn *fill,
                    void *user, shk_error *err) {
    shk_writer *w = NULL;
    shk_tensors table = { .path = shk_strdup(path) };
    shk_status status = table.path ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < n && !status; i++) status = shk_tensors_add(&table, &items[i], err);
    if (!status) status = shk_writer_open(&w, path, err);
    if (!status) status = format->put_header(format->user, &table, w, err);
    for (size_t i = 0; i < n && !status; i++) {
        shk_writer_pad(w, format->alignment);
        status = put_tensor(&table.items[i], path, w, fill, user, err);
    }
    if (!status) {
        shk_writer_pad(w, format->alignment);
        status = shk_writer_commit(w, err);
        w = NULL;
    }
    shk_writer_abandon(w);
    shk_tensors_free(&table);
    return status;
}
