#include "model/write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/detect.h"
#include "cpu/pool.h"
#include "error.h"
#include "file/writer.h"

/* One tensor of the new file. */
typedef struct item {
    const shk_slot *slot;
    int layer, index; /* index < 0: the whole stack, one after the other */
    bool transposed;
} item;

typedef struct job {
    const shk_config *c;
    const shk_source *source;
    const char *out;
    bool gguf, keep; /* keep: no type was asked for */
    shk_type type;
    uint64_t shard_bytes; /* 0: one file */
    shk_tensor *tensors;
    item *items;
    size_t n, next;
    shk_arena *arena;
    shk_pool *pool;
} job;

static bool is_matrix(const shk_slot *s) { return s->role <= SHK_ROLE_STACK; }
/* The types that values can be written as. */
static const shk_type writable[] = { SHK_F32, SHK_BF16, SHK_F16, SHK_Q8_0, SHK_Q4_0, SHK_Q4_K };

static bool is_writable(shk_type t) {
    for (size_t i = 0; i < sizeof writable / sizeof *writable; i++)
        if (writable[i] == t) return true;
    return false;
}

static bool is_plain(shk_type t) { return t == SHK_F32 || t == SHK_F16 || t == SHK_BF16; }

/* Words are looked up in the embeddings and scored by them: 4 bits would cost more quality there than they save. */
static bool is_embedding(const shk_slot *s, int layer) {
    return layer < 0 && (s->dims[0] == DIM_VOCAB || s->dims[0] == DIM_PLE_VOCAB);
}

static shk_type type_for(const job *j, const shk_slot *s, int layer, size_t cols) {
    shk_type own = j->source->type(j->source->user, s, layer), type = j->keep ? own : j->type;
    if (!is_matrix(s)) return j->gguf ? SHK_F32 : is_plain(type) ? type : SHK_F32;
    if (j->keep) return own;
    if (!is_plain(type) && s->role == SHK_ROLE_PLAIN) return own == SHK_F16 ? own : SHK_BF16;
    if ((type == SHK_Q4_0 || type == SHK_Q4_K) && is_embedding(s, layer)) type = SHK_Q8_0;
    size_t bytes;
    if (type == SHK_Q4_K && !shk_row_bytes(type, cols, &bytes)) type = SHK_Q8_0;
    return shk_row_bytes(type, cols, &bytes) ? type : SHK_BF16;
}

static shk_status add_item(job *j, const shk_slot *s, int layer, int index, shk_error *err) {
    shk_tensor *t = &j->tensors[j->n];
    item *it = &j->items[j->n];
    char name[160];
    uint64_t shape[SHK_MAX_DIMS];
    *it = (item){ s, layer, index, false };
    *t = (shk_tensor){ .n_dims = shk_slot_shape(s, j->c, layer, shape) };
    shk_slot_name(name, sizeof name, s, layer, index, j->gguf ? NULL : "model.");
    if (s->role == SHK_ROLE_DOWN && j->gguf && shk_layer_sparse(j->c, layer)) {
        /* a file that keeps its types keeps its layout, so that blocks need not be made anew */
        it->transposed = !j->keep || j->source->stored(j->source->user, s, layer, 0, true) != NULL;
        if (it->transposed) {
            snprintf(name, sizeof name, "blk.%d." SHK_DOWN_T, layer);
            uint64_t d = shape[0];
            shape[0] = shape[1];
            shape[1] = d;
        }
    }
    if (j->gguf && s->role == SHK_ROLE_CONV) { /* without the dimension of 1 that some checkpoints have in the middle */
        shape[1] = shape[t->n_dims - 1];
        t->n_dims = 2;
    }
    if (index < 0) {
        shape[2] = shape[1];
        shape[1] = shape[0];
        shape[0] = j->c->altup - 1;
        t->n_dims = 3;
    }
    t->n_elem = 1;
    for (unsigned i = 0; i < t->n_dims; i++) t->n_elem *= (size_t)(t->shape[i] = shape[i]);
    for (unsigned i = t->n_dims; i < SHK_MAX_DIMS; i++) t->shape[i] = 1;
    t->type = type_for(j, s, layer, (size_t)t->shape[t->n_dims - 1]);
    t->name = shk_arena_strdup(j->arena, name);
    if (!t->name) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", j->out);
    if (!shk_row_bytes(t->type, t->n_elem, &t->n_bytes))
        return shk_fail(err, SHK_E_ARGUMENT, "%s: tensor %s is too large", j->out, name);
    if (!j->gguf && !is_plain(t->type))
        return shk_fail(err, SHK_E_ARGUMENT, "%s: safetensors cannot hold tensor %s as %s: ask for type f32, bf16 or f16", j->out,
                        name, shk_type_of(t->type)->name);
    j->n++;
    return SHK_OK;
}

static shk_status list_items(job *j, shk_error *err) {
    size_t most = (j->c->n_layers + 1) * (shk_n_slots + SHK_MAX_ALTUP);
    j->tensors = shk_arena_alloc(j->arena, most, sizeof *j->tensors);
    j->items = shk_arena_alloc(j->arena, most, sizeof *j->items);
    if (!j->tensors || !j->items) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", j->out);
    for (int layer = -1; layer < (int)j->c->n_layers; layer++)
        for (size_t i = 0; i < shk_n_slots; i++) {
            const shk_slot *s = &shk_slots[i];
            if (!shk_slot_applies(s, j->c, layer)) continue;
            bool stack = s->role == SHK_ROLE_STACK;
            int parts = stack && !j->gguf ? (int)j->c->altup - 1 : 1;
            for (int k = 0; k < parts; k++) {
                shk_status st = add_item(j, s, layer, stack && j->gguf ? -1 : k, err);
                if (st) return st;
            }
        }
    return SHK_OK;
}

/* ---- values ---- */

enum { ROWS = 256 };

typedef struct fill_args {
    const job *j;
    const item *it;
    const shk_tensor *t;
    int index;
    size_t row, cols, stride;
    float *values; /* [ROWS, cols] */
    char *bytes;
} fill_args;

static void fill_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const fill_args *f = ctx;
    f->j->source->rows(f->j->source->user, f->it->slot, f->it->layer, f->index, f->it->transposed, f->row + begin, end - begin,
                       f->values + begin * f->cols);
    for (size_t i = begin; i < end; i++) shk_quant_row(f->t->type, f->bytes + i * f->stride, f->values + i * f->cols, f->cols);
}

static shk_status fill_matrix(const job *j, const item *it, const shk_tensor *t, int index, size_t rows, size_t cols, shk_writer *w,
                              shk_error *err) {
    fill_args f = { .j = j, .it = it, .t = t, .index = index, .cols = cols };
    const shk_mat *m = j->source->stored(j->source->user, it->slot, it->layer, index, it->transposed);
    shk_row_bytes(t->type, cols, &f.stride);
    if (m && m->type == t->type) {
        for (size_t i = 0; i < rows; i++) shk_writer_put(w, (const char *)m->data + i * m->stride, f.stride);
        return SHK_OK;
    }
    if (!is_writable(t->type))
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: tensor %s: values cannot be written as %s", j->out, t->name,
                        shk_type_of(t->type)->name);
    f.values = shk_calloc(ROWS * cols, sizeof(float));
    f.bytes = shk_calloc(ROWS, f.stride);
    if (f.values && f.bytes)
        for (; f.row < rows; f.row += ROWS) {
            size_t n = rows - f.row < ROWS ? rows - f.row : ROWS;
            /* a transposed source wants whole blocks of its own rows: 256 at a time, on one thread */
            shk_pool_run(j->pool, fill_range, &f, n, it->slot->role == SHK_ROLE_DOWN ? ROWS : 16);
            shk_writer_put(w, f.bytes, n * f.stride);
        }
    shk_status st = f.values && f.bytes ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory for tensor %s", j->out, t->name);
    free(f.values);
    free(f.bytes);
    return st;
}

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    job *j = user;
    const item *it = &j->items[j->next++];
    if (!is_matrix(it->slot)) {
        float *values = shk_calloc(t->n_elem, sizeof *values);
        char *bytes = shk_calloc(1, t->n_bytes);
        bool ok = values && bytes;
        if (ok) {
            j->source->vector(j->source->user, it->slot, it->layer, j->gguf, t->n_elem, values);
            shk_quant_row(t->type, bytes, values, t->n_elem);
            shk_writer_put(w, bytes, t->n_bytes);
        }
        free(values);
        free(bytes);
        return ok ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory for tensor %s", j->out, t->name);
    }
    int parts = it->index < 0 ? (int)t->shape[0] : 1;
    size_t cols = (size_t)t->shape[t->n_dims - 1], rows = t->n_elem / cols / (size_t)parts;
    shk_status st = SHK_OK;
    for (int k = 0; !st && k < parts; k++)
        st = fill_matrix(j, it, t, parts > 1 ? k : it->index < 0 ? 0 : it->index, rows, cols, w, err);
    return st;
}

/* ---- files ---- */

static shk_status write_gguf(job *j, shk_error *err) {
    shk_gguf_meta *meta = shk_gguf_meta_new();
    if (!meta) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", j->out);
    shk_status st = j->source->gguf_meta(j->source->user, meta) ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", j->out);
    if (!st) st = shk_gguf_write(j->out, meta, j->tensors, j->n, fill, j, err);
    shk_gguf_meta_free(meta);
    return st;
}

static const char index_name[] = "model.safetensors.index.json";

/* Files of another model that a reader would prefer to the ones written here. */
static shk_status check_foreign(const char *dir, shk_error *err) {
    static const char *const names[] = { index_name, "tokenizer.json" };
    char path[4096];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (access(path, F_OK) == 0)
            return shk_fail(err, SHK_E_ARGUMENT,
                            "%s: belongs to another model and would be read with this one: write to an empty directory", path);
    }
    return SHK_OK;
}

/* The end of the tensors that go into one file with the one at `first`. */
static size_t shard_end(const job *j, size_t first) {
    size_t end = first;
    for (uint64_t bytes = 8; end < j->n; end++) {
        uint64_t entry = 256 + strlen(j->tensors[end].name); /* more than it takes in the header */
        bytes += j->tensors[end].n_bytes + entry;
        if (j->shard_bytes && end > first && bytes > j->shard_bytes) break;
    }
    return end;
}

static size_t count_shards(const job *j) {
    size_t n = 0;
    for (size_t i = 0; i < j->n; i = shard_end(j, i)) n++;
    return n;
}

/* "model.safetensors", or that of shard k of n */
static void shard_name(char *buf, size_t size, size_t k, size_t n) {
    if (n == 1) snprintf(buf, size, "model.safetensors");
    else snprintf(buf, size, "model-%05zu-of-%05zu.safetensors", k + 1, n);
}

static shk_status write_json(const job *j, const char *name, json_t *root, shk_error *err) {
    char path[4096], *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    snprintf(path, sizeof path, "%s/%s", j->out, name);
    shk_status st = text ? shk_write_file(path, text, strlen(text), err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", j->out);
    json_decref(root);
    free(text);
    return st;
}

/* The files of weights, and the index of several. */
static shk_status write_weights(job *j, shk_error *err) {
    size_t n = count_shards(j), total = 0, k = 0;
    char name[64], path[4096];
    shk_status st = SHK_OK;
    json_t *map = json_object();
    for (size_t i = 0, end; !st && i < j->n; i = end, k++) {
        end = shard_end(j, i);
        shard_name(name, sizeof name, k, n);
        snprintf(path, sizeof path, "%s/%s", j->out, name);
        st = shk_safetensors_write(path, j->tensors + i, end - i, fill, j, err);
        for (size_t t = i; t < end; t++) {
            total += j->tensors[t].n_bytes;
            json_object_set_new(map, j->tensors[t].name, json_string(name));
        }
    }
    if (!st && json_object_size(map) != j->n) st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", j->out);
    if (!st && n > 1) {
        map = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
        return write_json(j, index_name, map, err);
    }
    json_decref(map);
    return st;
}

static void remove_files(const job *j) {
    static const char *const files[] = { "config.json", "tokenizer.model", index_name };
    char path[4096], name[64];
    size_t n = count_shards(j);
    for (size_t i = 0; i < n + sizeof files / sizeof *files; i++) {
        if (i < n) shard_name(name, sizeof name, i, n);
        snprintf(path, sizeof path, "%s/%s", j->out, i < n ? name : files[i - n]);
        unlink(path);
    }
    rmdir(j->out);
}

static shk_status write_directory(job *j, shk_error *err) {
    bool made = mkdir(j->out, 0777) == 0;
    if (!made && errno != EEXIST) return shk_fail_errno(err, "%s", j->out);
    shk_status st = check_foreign(j->out, err);
    if (st) return st;
    if (strlen(j->out) >= 4000) return shk_fail(err, SHK_E_ARGUMENT, "%s: the name is too long", j->out);
    st = write_weights(j, err);
    if (!st) st = j->source->directory(j->source->user, j->out, err);
    const char *dtype = j->type == SHK_F32 ? "float32" : j->type == SHK_F16 ? "float16" : "bfloat16";
    if (!st) st = write_json(j, "config.json", shk_config_to_json(j->c, dtype), err); /* last: a directory without it is no model */
    if (st && made) remove_files(j);
    return st;
}

shk_status shk_model_write(const shk_config *c, const shk_source *source, const char *out, const shk_convert_options *options,
                           shk_error *err) {
    size_t n = strlen(out);
    const char *type = options->type;
    job j = { .c = c, .source = source, .out = out, .gguf = n > 5 && strcmp(out + n - 5, ".gguf") == 0, .keep = !type,
              .shard_bytes = options->shard_bytes };
    if (j.gguf && j.shard_bytes) return shk_fail(err, SHK_E_ARGUMENT, "%s: a GGUF file is not divided: write to a directory", out);
    if (type && (!shk_type_parse(type, &j.type) || !is_writable(j.type)))
        return shk_fail(err, SHK_E_ARGUMENT, "type \"%s\" cannot be written: f32, bf16, f16, q8_0, q4_0 and q4_k can", type);
    shk_status st = shk_pool_new(&j.pool, shk_cpu_count(), err);
    if (st) return st;
    if (!type) j.type = source->type(source->user, &shk_slots[0], -1);
    j.arena = shk_arena_new();
    st = j.arena ? list_items(&j, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", out);
    if (!st) st = j.gguf ? write_gguf(&j, err) : write_directory(&j, err);
    shk_arena_free(j.arena);
    shk_pool_free(j.pool);
    return st;
}
