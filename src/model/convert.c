/* shk_convert: a loaded model as the source of a new file. */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model/model.h"
#include "model/write.h"
#include "text/tokenizer.h"

static const char *base_of(const shk_model *m, int layer) {
    return layer < 0 ? (const char *)&m->weights : (const char *)&m->weights.layers[layer];
}

static const shk_mat *mat_of(const shk_model *m, const shk_slot *s, int layer, int index) {
    return (const shk_mat *)(const void *)(base_of(m, layer) + s->at) + (s->role == SHK_ROLE_STACK ? index : 0);
}

static const shk_mat *stored(void *user, const shk_slot *s, int layer, int index, bool transposed) {
    const shk_model *m = user;
    const shk_mat *mat = s->role == SHK_ROLE_DOWN && transposed ? &m->weights.layers[layer].down_t : mat_of(m, s, layer, index);
    return mat->data ? mat : NULL;
}

/* Columns [first, first + n) of a stored matrix as rows; first and n are whole blocks. */
static void columns(const shk_mat *m, size_t first, size_t n, float *out) {
    const shk_type_info *type = shk_type_of(m->type);
    float piece[256];
    for (size_t r = 0; r < m->rows; r++)
        for (size_t c = 0; c < n; c += 256) {
            size_t k = n - c < 256 ? n - c : 256;
            shk_dequant_row(m->type, piece, (const char *)m->data + r * m->stride + (first + c) / type->block * type->bytes, k);
            for (size_t i = 0; i < k; i++) out[(c + i) * m->rows + r] = piece[i];
        }
}

static void rows(void *user, const shk_slot *s, int layer, int index, bool transposed, size_t row, size_t n, float *out) {
    const shk_mat *m = stored(user, s, layer, index, transposed);
    if (!m) {
        columns(stored(user, s, layer, index, !transposed), row, n, out);
        return;
    }
    for (size_t i = 0; i < n; i++)
        shk_dequant_row(m->type, out + i * m->cols, (const char *)m->data + (row + i) * m->stride, m->cols);
}

static const shk_tensor *tensor_of(const shk_model *m, const shk_slot *s, int layer) {
    char name[160];
    const shk_tensors *t = shk_model_tensors(m);
    shk_slot_name(name, sizeof name, s, layer, 0, m->is_gguf ? NULL : shk_weights_prefix(t));
    return shk_tensors_find(t, name);
}

/* From the file, not from memory, where some are kept in another form. */
static void vector(void *user, const shk_slot *s, int layer, bool gguf, size_t n, float *out) {
    const shk_model *m = user;
    shk_dequant_row(tensor_of(m, s, layer)->type, out, tensor_of(m, s, layer)->data, n);
    if (s->role != SHK_ROLE_NORM || !shk_families[m->config.family].norm_minus_one) return;
    float shift = (float)gguf - (float)m->is_gguf;
    for (size_t i = 0; i < n; i++) out[i] += shift;
}

static shk_type type(void *user, const shk_slot *s, int layer) {
    const shk_model *m = user;
    if (s->role > SHK_ROLE_STACK) return tensor_of(m, s, layer)->type;
    const shk_mat *mat = mat_of(m, s, layer, 0);
    return mat->data ? mat->type : m->weights.layers[layer].down_t.type;
}

static bool gguf_meta(void *user, shk_gguf_meta *out) {
    const shk_model *m = user;
    bool has_text = false;
    shk_config_to_gguf(&m->config, out, !m->tokenizer);
    for (size_t i = 0; i < m->gguf.n_meta; i++) { /* what a GGUF file says beside its config passes through */
        const char *key = m->gguf.meta[i].key;
        static const char *const general[] = { "general.name", "general.basename", "general.size_label", "general.license",
                                               "general.type" };
        bool pass = strncmp(key, "tokenizer.", 10) == 0 && m->tokenizer;
        has_text |= pass;
        for (size_t j = 0; j < sizeof general / sizeof *general; j++) pass |= strcmp(key, general[j]) == 0;
        if (pass) shk_gguf_put_copy(out, &m->gguf.meta[i]);
    }
    return !m->tokenizer || has_text || shk_tokenizer_to_gguf(m->tokenizer, out);
}

static shk_status directory(void *user, const char *dir, shk_error *err) {
    const shk_model *m = user;
    if (!m->tokenizer) return SHK_OK;
    shk_buffer path = { 0 };
    shk_status st = shk_buffer_printf(&path, "%s/tokenizer.model", dir) ? shk_tokenizer_write_model(m->tokenizer, path.data, err)
                                                                        : shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    shk_buffer_free(&path);
    return st;
}

shk_status shk_convert(const char *in, const char *out, const shk_convert_options *options, shk_error *err) {
    static const shk_convert_options as_it_is;
    shk_model *m;
    shk_model_params params = { .threads = 1 };
    shk_status st = shk_model_load(&m, in, &params, err);
    if (st) return st;
    shk_source source = { m, rows, vector, stored, type, gguf_meta, directory };
    st = shk_model_write(&m->config, &source, out, options ? options : &as_it_is, err);
    shk_model_free(m);
    return st;
}
