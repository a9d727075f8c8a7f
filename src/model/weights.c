/* Finding, checking and placing the tensors of a model. */
#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

typedef struct loader {
    const shk_config *c;
    const shk_tensors *t;
    const char *prefix; /* NULL: GGUF */
    shk_arena *arena;
    shk_error *err;
} loader;

static unsigned squeeze(uint64_t out[SHK_MAX_DIMS], const shk_tensor *t) {
    unsigned n = 0;
    for (unsigned i = 0; i < t->n_dims; i++)
        if (t->shape[i] != 1) out[n++] = t->shape[i];
    if (!n) out[n++] = 1;
    return n;
}

/* The shape, dimensions of 1 aside. Leading dimensions may be given merged or apart ([4, 16] for 64 biases). */
static shk_status check_shape(const loader *l, const shk_tensor *t, const uint64_t *want, unsigned n_want) {
    uint64_t have[SHK_MAX_DIMS], lead_have = 1, lead_want = 1;
    unsigned n = squeeze(have, t), w = n_want;
    char a[96], b[96];
    uint64_t squeezed[SHK_MAX_DIMS];
    w = 0;
    for (unsigned i = 0; i < n_want; i++)
        if (want[i] != 1) squeezed[w++] = want[i];
    if (!w) squeezed[w++] = 1;
    for (unsigned i = 0; i + 1 < n; i++) lead_have *= have[i];
    for (unsigned i = 0; i + 1 < w; i++) lead_want *= squeezed[i];
    bool vector = n == 1 || w == 1; /* one of them is flat: only the number of values counts */
    bool same =
        vector ? lead_have * have[n - 1] == lead_want * squeezed[w - 1] : lead_have == lead_want && have[n - 1] == squeezed[w - 1];
    if (same) return SHK_OK;
    return shk_fail(l->err, SHK_E_FORMAT, "%s: tensor %s has shape %s, the config wants %s", l->t->path, t->name,
                    shk_shape_string(a, sizeof a, t->shape, t->n_dims), shk_shape_string(b, sizeof b, want, n_want));
}

static bool is_float(shk_type type) { return type != SHK_F64 && (type < SHK_I8 || type > SHK_I64); }

static shk_status place_mat(const loader *l, shk_mat *m, const shk_tensor *t, size_t rows, size_t cols, size_t first_row) {
    size_t stride;
    if (!is_float(t->type))
        return shk_fail(l->err, SHK_E_UNSUPPORTED, "%s: tensor %s has type %s, which no matrix may have", l->t->path, t->name,
                        shk_type_of(t->type)->name);
    if (!shk_row_bytes(t->type, cols, &stride) || cols > 1 << 18)
        return shk_fail(l->err, SHK_E_FORMAT, "%s: tensor %s: rows of %zu values cannot be %s", l->t->path, t->name, cols,
                        shk_type_of(t->type)->name);
    *m = (shk_mat){ (const char *)t->data + first_row * stride, t->type, rows, cols, stride };
    return SHK_OK;
}

/* The values as f32, in the arena. */
static float *copy_f32(const loader *l, const shk_tensor *t) {
    float *v = shk_arena_alloc(l->arena, t->n_elem, sizeof *v);
    if (v && t->n_elem) shk_dequant_row(t->type, v, t->data, t->n_elem);
    return v;
}

static shk_status place_vector(const loader *l, const float **out, const shk_tensor *t, const shk_slot *s) {
    if (t->type != SHK_F32 && t->type != SHK_F16 && t->type != SHK_BF16)
        return shk_fail(l->err, SHK_E_UNSUPPORTED, "%s: tensor %s has type %s; a vector must be f32, f16 or bf16", l->t->path,
                        t->name, shk_type_of(t->type)->name);
    float *v = copy_f32(l, t);
    size_t n = t->n_elem;
    if (!v) return shk_fail(l->err, SHK_E_MEMORY, "%s: no memory for tensor %s", l->t->path, t->name);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return shk_fail(l->err, SHK_E_FORMAT, "%s: tensor %s: value %zu is not finite", l->t->path, t->name, i);
    if (s->role == SHK_ROLE_NORM && l->prefix && shk_families[l->c->family].norm_minus_one)
        for (size_t i = 0; i < n; i++) v[i] += 1.0f;
    if (s->role == SHK_ROLE_LAMBDA)
        for (size_t i = 0; i < n; i++) v[i] = (float)(v[i] > 30 ? v[i] : log1p(exp(v[i])));
    *out = v;
    if (s->role != SHK_ROLE_CONV) return SHK_OK;
    size_t taps = l->c->conv_width, w = n / taps;
    float *c = shk_arena_alloc(l->arena, n, sizeof *c);
    if (!c) return shk_fail(l->err, SHK_E_MEMORY, "%s: no memory for tensor %s", l->t->path, t->name);
    for (size_t i = 0; i < w; i++)
        for (size_t k = 0; k < taps; k++) c[k * w + i] = v[i * taps + k];
    *out = c;
    return SHK_OK;
}

/* [d, f] to [f, d], for the types of whole values; the file's pages are not needed afterwards. */
static shk_status transpose(const loader *l, shk_mat *m, const shk_mat *from, const char *name) {
    size_t size = shk_type_of(from->type)->bytes, d = from->rows, f = from->cols, n;
    char *data = shk_mul(&n, d, f) ? shk_arena_alloc(l->arena, n, size) : NULL;
    if (!data) return shk_fail(l->err, SHK_E_MEMORY, "%s: no memory to transpose tensor %s", l->t->path, name);
    enum { TILE = 32 }; /* both sides of a tile stay in the first-level cache */
    for (size_t i0 = 0; i0 < d; i0 += TILE)
        for (size_t j0 = 0; j0 < f; j0 += TILE)
            for (size_t i = i0; i < d && i < i0 + TILE; i++)
                for (size_t j = j0; j < f && j < j0 + TILE; j++)
                    memcpy(data + (j * d + i) * size, (const char *)from->data + i * from->stride + j * size, size);
    *m = (shk_mat){ data, from->type, f, d, d * size };
    return SHK_OK;
}

static shk_status place_down(const loader *l, shk_layer *layer, const shk_tensor *t, int n, bool transposed) {
    size_t d = l->c->hidden, f = l->c->layers[n].ffn;
    if (transposed) return place_mat(l, &layer->down_t, t, f, d, 0);
    shk_mat m;
    shk_status st = place_mat(l, &m, t, d, f, 0);
    bool whole_values = t->type == SHK_F32 || t->type == SHK_F16 || t->type == SHK_BF16;
    if (!st && shk_layer_sparse(l->c, n) && whole_values) return transpose(l, &layer->down_t, &m, t->name);
    layer->down = m; /* of blocks along f: columns cannot be skipped */
    return st;
}

static shk_status place(const loader *l, char *base, const shk_slot *s, int layer) {
    uint64_t shape[SHK_MAX_DIMS];
    char name[160];
    unsigned n_dims = shk_slot_shape(s, l->c, layer, shape);
    int parts = s->role == SHK_ROLE_STACK ? (int)l->c->altup - 1 : 1;
    for (int i = 0; i < parts; i++) {
        uint64_t want[SHK_MAX_DIMS] = { shape[0], shape[1], shape[2], 1 };
        unsigned n_want = n_dims;
        bool transposed = false;
        shk_slot_name(name, sizeof name, s, layer, i, l->prefix);
        const shk_tensor *t = shk_tensors_find(l->t, name);
        if (s->role == SHK_ROLE_DOWN && !l->prefix && shk_layer_sparse(l->c, layer)) {
            char other[160];
            snprintf(other, sizeof other, "blk.%d." SHK_DOWN_T, layer);
            const shk_tensor *tt = shk_tensors_find(l->t, other);
            if (tt) t = tt, transposed = true, want[0] = shape[1], want[1] = shape[0];
        }
        if (s->role == SHK_ROLE_STACK && !l->prefix) want[0] = (uint64_t)parts, want[1] = shape[0], want[2] = shape[1], n_want = 3;
        if (!t) return shk_fail(l->err, SHK_E_FORMAT, "%s: tensor %s is missing", l->t->path, name);
        shk_status st = check_shape(l, t, want, n_want);
        if (st) return st;
        size_t cols = (size_t)shape[n_dims - 1], rows = 1;
        for (unsigned k = 0; k + 1 < n_dims; k++) rows *= (size_t)shape[k];
        switch (s->role) {
        case SHK_ROLE_MAT:
        case SHK_ROLE_PLAIN: st = place_mat(l, (shk_mat *)(void *)(base + s->at), t, rows, cols, 0); break;
        case SHK_ROLE_STACK:
            st = place_mat(l, (shk_mat *)(void *)(base + s->at) + i, t, rows, cols, l->prefix ? 0 : rows * (size_t)i);
            break;
        case SHK_ROLE_DOWN: st = place_down(l, (shk_layer *)(void *)base, t, layer, transposed); break;
        default: st = place_vector(l, (const float **)(void *)(base + s->at), t, s);
        }
        if (st) return st;
    }
    return SHK_OK;
}

shk_status shk_weights_load(shk_weights *w, const shk_config *c, const shk_tensors *t, const char *prefix, shk_arena *arena,
                            shk_error *err) {
    loader l = { c, t, prefix, arena, err };
    memset(w, 0, sizeof *w);
    w->layers = shk_arena_alloc(arena, c->n_layers, sizeof *w->layers);
    if (!w->layers) return shk_fail(err, SHK_E_MEMORY, "%s: no memory for %u layers", t->path, c->n_layers);
    for (int layer = -1; layer < (int)c->n_layers; layer++)
        for (size_t i = 0; i < shk_n_slots; i++) {
            if (!shk_slot_applies(&shk_slots[i], c, layer)) continue;
            shk_status st = place(&l, layer < 0 ? (char *)w : (char *)&w->layers[layer], &shk_slots[i], layer);
            if (st) return st;
        }
    if (!w->output.data) w->output = w->embed;
    return SHK_OK;
}

/* Gathered by rows, or looked up by rows and read by nothing else. So is an output matrix of floats where it can be scanned in two
 * levels: ops.h, linear_best. */
static bool by_rows(const shk_weights *w, const shk_config *c, const shk_ops *ops, int layer, const shk_mat *m) {
    if (layer >= 0) return m == &w->layers[layer].up && shk_layer_sparse(c, layer);
    if (ops->linear_best && m->data == w->output.data && shk_type_of(m->type)->block == 1) return true;
    return m == &w->ple_embed || (m == &w->embed && w->output.data != w->embed.data);
}

static shk_status prepare(shk_weights *w, const shk_config *c, int layer, const shk_slot *s, const shk_ops *ops, void *dev,
                          shk_error *err) {
    void *at = (layer < 0 ? (char *)w : (char *)&w->layers[layer]) + s->at;
    if (s->role >= SHK_ROLE_VEC) {
        size_t n = 1;
        uint64_t shape[SHK_MAX_DIMS];
        for (unsigned i = shk_slot_shape(s, c, layer, shape); i-- > 0;) n *= (size_t)shape[i];
        return ops->place ? ops->place(dev, at, n, err) : SHK_OK;
    }
    if (s->role == SHK_ROLE_PLAIN && !ops->place) return SHK_OK;
    bool rows = s->role == SHK_ROLE_PLAIN;
    if (s->role == SHK_ROLE_DOWN && ops->place && w->layers[layer].down_t.data) at = &w->layers[layer].down_t, rows = true;
    shk_mat *m = at;
    for (int i = 0, n = s->role == SHK_ROLE_STACK ? (int)c->altup - 1 : 1; i < n; i++) {
        m[i].by_rows = rows || by_rows(w, c, ops, layer, m);
        if (!m[i].data || (m[i].by_rows && !ops->place)) continue;
        shk_status st = ops->prepare(dev, &m[i], err);
        if (st) return st;
    }
    return SHK_OK;
}

shk_status shk_weights_prepare(shk_weights *w, const shk_config *c, const shk_ops *ops, void *dev, shk_error *err) {
    bool tied = w->output.data == w->embed.data;
    for (int layer = 0; layer < (int)c->n_layers; layer++)
        w->layers[layer].up.rounded = w->layers[layer].down_t.rounded = shk_layer_sparse(c, layer);
    for (int layer = -1; layer < (int)c->n_layers; layer++)
        for (const shk_slot *s = shk_slots; s < shk_slots + shk_n_slots; s++) {
            shk_status st = shk_slot_applies(s, c, layer) ? prepare(w, c, layer, s, ops, dev, err) : SHK_OK;
            if (st) return st;
        }
    if (tied) w->output = w->embed;
    return SHK_OK;
}

const char *shk_weights_prefix(const shk_tensors *t) {
    static const char *const prefixes[] = { "model.", "model.language_model.", "language_model.model." };
    char name[64];
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(name, sizeof name, "%sembed_tokens.weight", prefixes[i]);
        if (shk_tensors_find(t, name)) return prefixes[i];
    }
    return prefixes[0];
}

shk_status shk_weights_check_finite(const shk_tensors *t, shk_error *err) {
    enum { PIECE = 4096 }; /* a multiple of every block */
    float v[PIECE];
    for (size_t i = 0; i < t->n; i++) {
        const shk_tensor *x = &t->items[i];
        const shk_type_info *info = shk_type_of(x->type);
        if (!is_float(x->type)) continue;
        for (size_t j = 0; j < x->n_elem; j += PIECE) {
            size_t n = x->n_elem - j < PIECE ? x->n_elem - j : PIECE;
            shk_dequant_row(x->type, v, (const char *)x->data + j / info->block * info->bytes, n);
            for (size_t k = 0; k < n; k++)
                if (!isfinite(v[k]))
                    return shk_fail(err, SHK_E_NUMERIC, "%s: tensor %s: value %zu is not finite", t->path, x->name, j + k);
        }
    }
    return SHK_OK;
}
