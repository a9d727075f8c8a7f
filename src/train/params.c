#include "train/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file/safetensors.h"
#include "file/writer.h"

bool shk_param_decays(const shk_param *p) { return p->slot->role <= SHK_ROLE_STACK; }

shk_status shk_params_list(shk_params *p, shk_model *m, shk_error *err) {
    const shk_config *c = &m->config;
    if (c->family == SHK_GEMMA3N)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: models of the family %s cannot be trained", m->path,
                        shk_families[c->family].model_type);
    const char *prefix = m->is_gguf ? "model." : shk_weights_prefix(&m->tensors);
    *p = (shk_params){ .c = c, .items = shk_arena_alloc(m->arena, (c->n_layers + 1) * shk_n_slots, sizeof *p->items) };
    if (!p->items) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
    for (int layer = -1; layer < (int)c->n_layers; layer++)
        for (size_t i = 0; i < shk_n_slots; i++) {
            const shk_slot *s = &shk_slots[i];
            if (!shk_slot_applies(s, c, layer)) continue;
            shk_param *it = &p->items[p->n++];
            char name[160];
            shk_slot_name(name, sizeof name, s, layer, 0, prefix);
            *it = (shk_param){ .slot = s, .layer = layer, .name = shk_arena_strdup(m->arena, name), .at = p->size, .n = 1 };
            if (!it->name) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
            it->n_dims = shk_slot_shape(s, c, layer, it->shape);
            for (unsigned d = 0; d < it->n_dims; d++) it->n *= (size_t)it->shape[d]; /* the file has as many: no overflow */
            it->minus_one = s->role == SHK_ROLE_NORM && shk_families[c->family].norm_minus_one;
            p->size += (it->n + SHK_PARAM_ALIGN - 1) / SHK_PARAM_ALIGN * SHK_PARAM_ALIGN;
        }
    return SHK_OK;
}

shk_status shk_params_bind(const shk_params *p, shk_weights *w, float *array, shk_arena *arena, shk_error *err) {
    memset(w, 0, sizeof *w);
    w->layers = shk_arena_alloc(arena, p->c->n_layers, sizeof *w->layers);
    if (!w->layers) return shk_fail(err, SHK_E_MEMORY, "no memory for %u layers", p->c->n_layers);
    for (size_t i = 0; i < p->n; i++) {
        const shk_param *it = &p->items[i];
        char *field = (it->layer < 0 ? (char *)w : (char *)&w->layers[it->layer]) + it->slot->at;
        float *values = array + it->at;
        size_t cols = (size_t)it->shape[it->n_dims - 1];
        shk_mat m = { values, SHK_F32, it->n / cols, cols, cols * sizeof(float) };
        if (shk_param_decays(it)) memcpy(field, &m, sizeof m);
        else memcpy(field, &values, sizeof values);
    }
    if (!w->output.data) w->output = w->embed;
    return SHK_OK;
}

/* [rows, cols] to [cols, rows] */
static void transpose(float *to, const float *from, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) to[j * rows + i] = from[i * cols + j];
}

/* From a file's form to the array's. `transposed`: the tensor is [cols, rows]. */
static shk_status read_tensor(const shk_param *it, float *to, const shk_tensor *t, bool transposed, float shift, shk_error *err) {
    bool conv = it->slot->role == SHK_ROLE_CONV;
    float *values = conv || transposed ? shk_calloc(it->n, sizeof *values) : to;
    if (!values) return shk_fail(err, SHK_E_MEMORY, "no memory for tensor %s", it->name);
    shk_dequant_row(t->type, values, t->data, it->n);
    size_t cols = (size_t)it->shape[it->n_dims - 1], rows = it->n / cols;
    if (conv) transpose(to, values, rows, cols);
    else if (transposed) transpose(to, values, cols, rows);
    for (size_t i = 0; shift != 0 && i < it->n; i++) to[i] += shift;
    if (values != to) free(values);
    return SHK_OK;
}

shk_status shk_params_read(const shk_params *p, float *array, const shk_model *m, shk_error *err) {
    const shk_tensors *t = shk_model_tensors(m);
    shk_status st = SHK_OK;
    for (size_t i = 0; !st && i < p->n; i++) {
        const shk_param *it = &p->items[i];
        char name[160];
        shk_slot_name(name, sizeof name, it->slot, it->layer, 0, m->is_gguf ? NULL : shk_weights_prefix(t));
        const shk_tensor *found = shk_tensors_find(t, name);
        bool transposed = !found; /* the model is loaded, so what is not there is there in its other form */
        if (transposed) {
            snprintf(name, sizeof name, "blk.%d." SHK_DOWN_T, it->layer);
            found = shk_tensors_find(t, name);
        }
        st = read_tensor(it, array + it->at, found, transposed, it->minus_one && !m->is_gguf ? 1 : 0, err);
    }
    return st;
}

/* ---- files of parameters ---- */

typedef struct write_args {
    const shk_params *p;
    const shk_param_source *sources;
    const struct place {
        const shk_param *param;
        const shk_param_source *source;
    } *places;
    size_t next;
} write_args;

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    write_args *a = user;
    const shk_param *it = a->places[a->next].param;
    const shk_param_source *source = a->places[a->next++].source;
    const float *from = source->array + it->at;
    float shift = it->minus_one && source->weights ? -1 : 0;
    bool conv = it->slot->role == SHK_ROLE_CONV;
    if (!conv && shift == 0) {
        shk_writer_put(w, from, t->n_bytes);
        return SHK_OK;
    }
    float *values = shk_calloc(it->n, sizeof *values);
    if (!values) return shk_fail(err, SHK_E_MEMORY, "no memory for tensor %s", it->name);
    size_t taps = (size_t)it->shape[it->n_dims - 1];
    if (conv) transpose(values, from, taps, it->n / taps);
    else memcpy(values, from, it->n * sizeof *values);
    for (size_t i = 0; shift != 0 && i < it->n; i++) values[i] += shift;
    shk_writer_put(w, values, t->n_bytes);
    free(values);
    return SHK_OK;
}

static bool has(const shk_param_source *s, const shk_param *it) { return !s->only_norms || it->minus_one; }

shk_status shk_params_write(const shk_params *p, const char *path, const shk_param_source *sources, size_t n, shk_error *err) {
    shk_tensor *items = shk_calloc(p->n * n, sizeof *items);
    struct place *places = shk_calloc(p->n * n, sizeof *places);
    size_t count = 0;
    char *names = shk_calloc(p->n * n, 192);
    shk_status st = items && places && names ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", path);
    for (size_t k = 0; !st && k < n; k++)
        for (size_t i = 0; i < p->n; i++) {
            const shk_param *it = &p->items[i];
            if (!has(&sources[k], it)) continue;
            char *name = names + count * 192;
            snprintf(name, 192, "%s%s", sources[k].prefix, it->name);
            shk_tensor *t = &items[count];
            *t = (shk_tensor){ .name = name, .type = SHK_F32, .n_dims = it->n_dims };
            memcpy(t->shape, it->shape, sizeof t->shape);
            shk_tensor_measure(t);
            places[count++] = (struct place){ it, &sources[k] };
        }
    write_args args = { p, sources, places, 0 };
    if (!st) st = shk_safetensors_write(path, items, count, fill, &args, err);
    free(items);
    free(places);
    free(names);
    return st;
}

shk_status shk_params_restore(const shk_params *p, const char *path, const shk_param_source *sources, size_t n, shk_error *err) {
    shk_tensors t;
    shk_status st = shk_safetensors_open(&t, path, err);
    if (st) return st;
    for (size_t k = 0; !st && k < n; k++)
        for (size_t i = 0; !st && i < p->n; i++) {
            const shk_param *it = &p->items[i];
            if (!has(&sources[k], it)) continue;
            char name[192];
            snprintf(name, sizeof name, "%s%s", sources[k].prefix, it->name);
            const shk_tensor *found = shk_tensors_find(&t, name);
            if (!found || found->type != SHK_F32 || found->n_elem != it->n)
                st = shk_fail(err, SHK_E_FORMAT, "%s: tensor %s is missing, or not %zu values of f32", path, name, it->n);
            else st = read_tensor(it, (float *)sources[k].array + it->at, found, false, it->minus_one && sources[k].weights, err);
        }
    shk_tensors_free(&t);
    return st;
}

size_t shk_params_not_finite(const shk_params *p, const float *array, const shk_param **which) {
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = 0; j < p->items[i].n; j++)
            if (!isfinite(array[p->items[i].at + j])) {
                *which = &p->items[i];
                return j;
            }
    return SIZE_MAX;
}
