/* shk_model_describe: what a model is, in numbers (docs/FORMAT.md, "info"). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model/model.h"
#include "text/tokenizer.h"

typedef struct totals {
    double parameters, flops, flops_skipping, bytes, bytes_skipping;
    json_int_t embedding, output, mixers, mlps, other, all;
} totals;

/* The share of a layer's neurons whose rows a step reads. */
static double share_read(const shk_model *m, const shk_slot *s, int layer) {
    if (layer < 0 || m->config.layers[layer].mlp == SHK_MLP_GATED) return 1;
    bool up = s->at == offsetof(shk_layer, up), down = s->at == offsetof(shk_layer, down) && m->weights.layers[layer].down_t.data;
    return up || down ? m->config.layers[layer].active / m->config.layers[layer].ffn : 1;
}

static void count_slot(const shk_model *m, const shk_slot *s, int layer, totals *t) {
    uint64_t shape[SHK_MAX_DIMS];
    unsigned n_dims = shk_slot_shape(s, &m->config, layer, shape);
    double n = s->role == SHK_ROLE_STACK ? m->config.altup - 1.0 : 1;
    for (unsigned i = 0; i < n_dims; i++) n *= (double)shape[i];
    bool table = layer < 0 && (s->at == offsetof(shk_weights, embed) || s->at == offsetof(shk_weights, ple_embed));
    bool output = layer < 0 && (m->config.tied ? s->at == offsetof(shk_weights, embed) : s->at == offsetof(shk_weights, output));
    double bytes = 4 * n;
    if (s->role <= SHK_ROLE_STACK) {
        const char *base = layer < 0 ? (const char *)&m->weights : (const char *)&m->weights.layers[layer];
        const shk_mat *mat = (const shk_mat *)(const void *)(base + s->at);
        if (!mat->data && s->role == SHK_ROLE_DOWN) mat = &m->weights.layers[layer].down_t;
        if (!mat->data) return;
        bytes = (double)mat->rows * (double)mat->stride * n / ((double)mat->rows * (double)mat->cols);
        if (!table || output) { /* of an embedding table a step reads one row */
            double share = share_read(m, s, layer);
            t->flops += 2 * n;
            t->flops_skipping += 2 * n * share;
            t->bytes += bytes;
            t->bytes_skipping += bytes * share;
        }
    }
    t->parameters += n;
    t->all += (json_int_t)bytes;
    if (table) t->embedding += (json_int_t)bytes;
    else if (output) t->output += (json_int_t)bytes;
    else if (layer < 0) t->other += (json_int_t)bytes;
    else if (strncmp(s->gguf, "ffn_", 4) == 0 && s->role <= SHK_ROLE_STACK) t->mlps += (json_int_t)bytes;
    else if (strncmp(s->gguf, "attn_", 5) == 0 || strncmp(s->gguf, "rec_", 4) == 0) t->mixers += (json_int_t)bytes;
    else t->other += (json_int_t)bytes;
}

static json_t *layers_json(const shk_config *c) {
    json_t *list = json_array();
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const shk_layer_config *lc = &c->layers[l];
        json_t *o = json_pack("{s:s,s:s,s:I}", "mixer", shk_mixer_names[lc->mixer], "mlp", shk_mlp_names[lc->mlp], "ffn",
                              (json_int_t)lc->ffn);
        if (lc->mlp != SHK_MLP_GATED) json_object_set_new(o, "ffn_k", json_real(lc->active));
        if (lc->mixer == SHK_MIXER_RECURRENT) {
            json_object_set_new(o, "width", json_integer(c->lru_width));
        } else {
            json_object_set_new(o, "heads", json_integer(c->heads));
            json_object_set_new(o, "kv_heads", json_integer(c->kv_heads));
            json_object_set_new(o, "head_dim", json_integer(c->head_dim));
        }
        if (lc->window) json_object_set_new(o, "window", json_integer(lc->window));
        if (lc->mixer == SHK_MIXER_SPARK) json_object_set_new(o, "attn_k", json_real(c->attn_k));
        if (lc->kv_layer != l) json_object_set_new(o, "kv_layer", json_integer(lc->kv_layer));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *types_json(const shk_tensors *t) {
    json_t *o = json_object();
    for (size_t i = 0; i < t->n; i++) {
        const char *name = shk_type_of(t->items[i].type)->name;
        json_int_t had = json_integer_value(json_object_get(o, name));
        json_object_set_new(o, name, json_integer(had + (json_int_t)t->items[i].n_bytes));
    }
    return o;
}

shk_status shk_model_describe(const shk_model *m, char **json, shk_error *err) {
    const shk_config *c = &m->config;
    totals t = { 0 };
    for (int layer = -1; layer < (int)c->n_layers; layer++)
        for (size_t i = 0; i < shk_n_slots; i++)
            if (shk_slot_applies(&shk_slots[i], c, layer)) count_slot(m, &shk_slots[i], layer, &t);
    json_t *state = json_object();
    static const uint64_t at[] = { 1024, 32768, 1048576 };
    for (size_t i = 0; i < 3; i++) {
        char key[24];
        snprintf(key, sizeof key, "%llu", (unsigned long long)at[i]);
        json_object_set_new(state, key, json_integer((json_int_t)shk_state_bytes(c, m->kv_type, at[i])));
    }
    shk_str name = { shk_families[c->family].gguf, strlen(shk_families[c->family].gguf) };
    const shk_meta *title = m->is_gguf ? shk_gguf_find(&m->gguf, "general.name") : NULL;
    if (title) shk_meta_str(title, &name);
    json_t *o =
        json_pack("{s:s,s:o*,s:I,s:I,s:o,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:I},s:o,s:I,s:s,s:o,s:I,s:{s:f,s:f,s:f,s:f},s:o}", "family",
                  shk_families[c->family].gguf, "name", json_stringn(name.data, name.n), "vocab", (json_int_t)c->vocab, "hidden",
                  (json_int_t)c->hidden, "layers", layers_json(c), "parameters", (json_int_t)t.parameters, "bytes", "embedding",
                  t.embedding, "output", t.output, "mixers", t.mixers, "mlps", t.mlps, "other", t.other, "total", t.all, "types",
                  types_json(shk_model_tensors(m)), "context", (json_int_t)shk_model_context(m), "kv_type",
                  shk_type_of(m->kv_type)->name, "state_bytes", state, "copy_bytes",
                  (json_int_t)shk_model_coarse_bytes(m), "per_token", "flops_dense", t.flops, "flops_skipping",
                  t.flops_skipping, "bytes_dense", t.bytes, "bytes_skipping", t.bytes_skipping, "tokenizer",
                  m->tokenizer ? json_pack("{s:s,s:I}", "kind", shk_tokenizer_kind(m->tokenizer), "size",
                                           (json_int_t)shk_tokenizer_vocab_size(m->tokenizer))
                               : json_null());
    *json = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(o);
    return *json ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
}
