/* Loading a model: from a file to weights in place, a device, and buffers for a pass. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"
#include "text/tokenizer.h"

const shk_tensors *shk_model_tensors(const shk_model *m) { return m->is_gguf ? &m->gguf.tensors : &m->tensors; }

/* ---- files ---- */

static shk_status open_gguf(shk_model *m, shk_error *err) {
    m->is_gguf = true;
    shk_status st = shk_gguf_open(&m->gguf, m->path, err);
    if (!st) st = shk_config_from_gguf(&m->config, &m->gguf, err);
    if (!st) st = shk_tokenizer_from_gguf(&m->tokenizer, &m->gguf, err);
    return st;
}

static shk_status open_directory(shk_model *m, shk_error *err) {
    static const char *const names[] = { "tokenizer.json", "tokenizer.model" };
    shk_buffer path = { 0 };
    shk_status st = SHK_OK;
    if (!shk_buffer_printf(&path, "%s/config.json", m->path)) st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
    char *origin = st ? NULL : shk_arena_strdup(m->arena, path.data); /* outlives the config */
    if (!st && !origin) st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
    if (!st) st = shk_config_read(&m->config, origin, err);
    if (!st) st = shk_safetensors_open_dir(&m->tensors, m->path, err);
    for (size_t i = 0; !st && !m->tokenizer && i < 2; i++) {
        struct stat s;
        path.n = 0;
        if (!shk_buffer_printf(&path, "%s/%s", m->path, names[i])) st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
        else if (stat(path.data, &s) == 0) st = shk_tokenizer_load(&m->tokenizer, path.data, err);
    }
    shk_buffer_free(&path);
    return st;
}

/* ---- rotary frequencies ---- */

static shk_status add_rope(shk_model *m, uint8_t *index, size_t half, double theta, double scale, shk_error *err) {
    for (*index = 0; *index < m->n_ropes; ++*index) {
        const shk_rope *r = &m->ropes[*index];
        if (r->half == half && r->theta == theta && r->scale == scale) return SHK_OK;
    }
    if (m->n_ropes == SHK_MAX_ROPES)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: more than %d kinds of rotary embedding", m->path, SHK_MAX_ROPES);
    shk_rope *r = &m->ropes[m->n_ropes];
    *r = (shk_rope){ half, theta, scale, shk_arena_alloc(m->arena, half, sizeof(double)), NULL };
    if (!r->freq) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
    for (size_t i = 0; i < half; i++) r->freq[i] = pow(theta, -(double)i / (double)half) / scale;
    m->n_ropes++;
    return SHK_OK;
}

static shk_status add_ropes(shk_model *m, shk_error *err) {
    const shk_config *c = &m->config;
    m->layer_rope = shk_arena_alloc(m->arena, c->n_layers, sizeof *m->layer_rope);
    if (!m->layer_rope) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const shk_layer_config *lc = &c->layers[l];
        if (lc->mixer == SHK_MIXER_RECURRENT) continue;
        bool spark = lc->mixer == SHK_MIXER_SPARK;
        size_t rotated = spark ? c->attn_rank : shk_config_rotated(c);
        shk_status st = add_rope(m, &m->layer_rope[l][0], rotated / 2, lc->rope_theta, lc->rope_scale, err);
        if (!st && spark)
            st = add_rope(m, &m->layer_rope[l][1], (c->head_dim - c->attn_rank) / 2, lc->rope_theta, lc->rope_scale, err);
        if (st) return st;
    }
    return SHK_OK;
}

/* ---- buffers ---- */

/* Every buffer with its number of 4-byte values: sized and placed by the same list. */
static size_t place_buffers(shk_model *m, char *base) {
    const shk_config *c = &m->config;
    shk_buffers *b = &m->b;
    size_t T = SHK_PASS_ROWS, d = c->hidden, altup = c->family == SHK_GEMMA3N ? c->altup : 0, streams = altup ? altup : 1;
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    size_t w = shk_config_uses(c, false, SHK_MIXER_RECURRENT) ? c->lru_width : 0;
    struct {
        void *at;
        size_t n;
    } list[64] = {
        { &b->x, streams * T * d },
        { &b->n, T * d },
        { &b->y, T * d },
        { &b->q, T * q },
        { &b->k, T * kv },
        { &b->v, T * kv },
        { &b->o, T * q },
        { &b->rx, T * w },
        { &b->ry, T * w },
        { &b->gi, T * w },
        { &b->ga, T * w },
        { &b->g, T * c->ffn },
        { &b->u, T * c->ffn },
        { &b->active.ids, T * c->ffn },
        { &b->active.value, T * c->ffn },
        { &b->active.n, T },
        { &b->kept, T * c->heads },
        { &b->last, m->ops->logit_rows * d },
        { &b->logits, m->ops->logit_rows * c->vocab },
        { &b->choice, m->ops->sample ? m->ops->logit_rows * sizeof(shk_choice) / 4 : 0 },
        { &b->predicted, altup * T * d },
        { &b->activated, altup ? T * d : 0 },
        { &b->laurel, altup ? T * d : 0 },
        { &b->low, T * c->laurel_rank },
        { &b->routes, T * altup },
        { &b->coefs, T * altup * altup },
        { &b->ple, T * c->n_layers * c->ple_dim },
        { &b->ple_proj, T * c->n_layers * c->ple_dim },
        { &b->ple_gate, T * c->ple_dim },
    };
    size_t n = 0, end = 0;
    while (list[n].at) n++;
    for (size_t i = 0; i < m->n_ropes; i++, n++) {
        list[n].at = &m->ropes[i].table;
        list[n].n = T * 2 * m->ropes[i].half;
    }
    for (size_t i = 0; i < n; i++) {
        if (base) {
            char *p = base + end;
            memcpy(list[i].at, &p, sizeof p);
        }
        end += (list[i].n * 4 + 63) & ~(size_t)63;
    }
    return end;
}

static shk_status make_buffers(shk_model *m, shk_error *err) {
    m->buffer_bytes = place_buffers(m, NULL);
    m->buffer_block = m->ops->alloc(m->dev, m->buffer_bytes);
    if (!m->buffer_block) return shk_fail(err, SHK_E_MEMORY, "%s: no memory for %zu bytes of buffers", m->path, m->buffer_bytes);
    place_buffers(m, m->buffer_block);
    return SHK_OK;
}

/* ---- identity ---- */

static uint64_t mix(uint64_t h, const void *data, size_t n) { /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    return h;
}

/* Of a tensor, pieces from its first byte to its last at even distances; all of a small one. */
static uint64_t mix_tensor(uint64_t h, const shk_tensor *t) {
    enum { PIECES = 8, PIECE = 4096 };
    size_t n = t->n_bytes > (size_t)PIECES * PIECE ? PIECES : 1, bytes = n == 1 ? t->n_bytes : PIECE;
    h = mix(h, &t->type, sizeof t->type);
    for (size_t i = 0; i < n; i++) h = mix(h, (const char *)t->data + (t->n_bytes - bytes) * i / (PIECES - 1), bytes);
    return h;
}

/* Tells models apart that a saved state must not cross: config, tensor types and a sample of every tensor. All of a large model
 * takes as long to read as a prompt. */
static shk_status fingerprint(shk_model *m, shk_error *err) {
    json_t *j = shk_config_to_json(&m->config, NULL);
    char *text = j ? json_dumps(j, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
    uint64_t h = mix(14695981039346656037u, text, strlen(text));
    free(text);
    for (uint32_t l = 0; l < m->config.n_layers; l++) h = mix(h, &m->config.layers[l].window, sizeof(uint32_t));
    const shk_tensors *t = shk_model_tensors(m);
    for (size_t i = 0; i < t->n; i++) h = mix_tensor(h, &t->items[i]);
    m->fingerprint = h;
    return SHK_OK;
}

static shk_status set_kv_type(shk_model *m, const char *name, shk_error *err) {
    if (!shk_type_parse(name, &m->kv_type) || (m->kv_type != SHK_F32 && m->kv_type != SHK_BF16 && m->kv_type != SHK_Q8_0))
        return shk_fail(err, SHK_E_ARGUMENT, "keys and values of type '%s': must be f32, bf16 or q8_0", name);
    return shk_state_check(&m->config, m->kv_type, m->path, err);
}

static shk_status open_device(shk_model *m, const shk_model_params *params, shk_error *err) {
    if (params->device == SHK_DEVICE_CUDA) return shk_cuda_open(&m->ops, &m->dev, err);
    return shk_cpu_open(&m->ops, &m->dev, params->threads, err);
}

static shk_status load(shk_model *m, const shk_model_params *params, shk_error *err) {
    struct stat s;
    if (stat(m->path, &s) != 0) return shk_fail_errno(err, "%s", m->path);
    shk_status st = S_ISDIR(s.st_mode) ? open_directory(m, err) : open_gguf(m, err);
    if (!st) st = set_kv_type(m, params->kv_type ? params->kv_type : "bf16", err);
    if (st) return st;
    m->dense = params->dense != 0;
    m->exact = params->exact != 0;
    for (uint32_t l = 0; l < m->config.n_layers; l++)
        if (m->config.layers[l].window) m->config.layers[l].window += (uint32_t)params->window_extra;
    const shk_tensors *t = shk_model_tensors(m);
    st = shk_weights_load(&m->weights, &m->config, t, m->is_gguf ? NULL : shk_weights_prefix(t), m->arena, err);
    if (!st) st = add_ropes(m, err);
    if (!st) st = open_device(m, params, err);
    if (!st) st = make_buffers(m, err);
    if (!st) st = fingerprint(m, err);
    if (st) return st;
    m->ffn_counts = shk_arena_alloc(m->arena, m->config.n_layers, sizeof *m->ffn_counts);
    m->attn_counts = shk_arena_alloc(m->arena, m->config.n_layers, sizeof *m->attn_counts);
    return m->ffn_counts && m->attn_counts ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", m->path);
}

shk_status shk_model_prepare(shk_model *m, shk_error *err) {
    if (m->prepared || (m->exact && !m->ops->place)) return SHK_OK;
    shk_status st = shk_weights_prepare(&m->weights, &m->config, m->ops, m->dev, err);
    m->prepared = !st;
    return st;
}

size_t shk_model_coarse_bytes(const shk_model *m) {
    return m->exact || !m->ops->coarse_bytes ? 0 : m->ops->coarse_bytes(m->dev, &m->weights.output);
}

shk_status shk_model_coarsen(shk_model *m, shk_error *err) {
    shk_mat *W = &m->weights.output;
    if (m->coarsened || !shk_model_coarse_bytes(m)) return SHK_OK;
    shk_status st = m->ops->coarsen(m->dev, W, err);
    m->coarsened = !st;
    if (W->coarse && !W->packed) shk_map_forget(W->data, W->rows * W->stride); /* few of its rows will be read again */
    return st;
}

shk_status shk_model_load(shk_model **out, const char *path, const shk_model_params *params, shk_error *err) {
    static const shk_model_params none = { 0 };
    if (!params) params = &none;
    *out = NULL;
    if (params->threads < 0 || params->threads > 1024)
        return shk_fail(err, SHK_E_ARGUMENT, "%d threads: must be from 0 to 1024", params->threads);
    if (params->window_extra < 0 || params->window_extra > 1 << 20)
        return shk_fail(err, SHK_E_ARGUMENT, "window_extra %d: must be from 0 to %d", params->window_extra, 1 << 20);
    shk_model *m = shk_calloc(1, sizeof *m);
    if (!m) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", path);
    pthread_mutex_init(&m->lock, NULL);
    m->arena = shk_arena_new();
    m->path = shk_strdup(path);
    shk_status st = m->arena && m->path ? load(m, params, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", path);
    if (st) shk_model_free(m);
    else *out = m;
    return st;
}

void shk_model_free(shk_model *m) {
    if (!m) return;
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        if (m->ffn_counts) free(m->ffn_counts[l].n);
        if (m->attn_counts) free(m->attn_counts[l].n);
    }
    if (m->ops) {
        m->ops->release(m->dev, m->buffer_block, m->buffer_bytes);
        m->ops->close(m->dev);
    }
    shk_tokenizer_free(m->tokenizer);
    shk_config_free(&m->config);
    shk_tensors_free(&m->tensors);
    shk_gguf_free(&m->gguf);
    shk_arena_free(m->arena);
    pthread_mutex_destroy(&m->lock);
    free(m->path);
    free(m);
}

shk_work shk_model_work(const shk_model *m) { return m->ops->work(m->dev); }
const shk_tokenizer *shk_model_tokenizer(const shk_model *m) { return m->tokenizer; }
int32_t shk_model_vocab_size(const shk_model *m) { return (int32_t)m->config.vocab; }
int32_t shk_model_layers(const shk_model *m) { return (int32_t)m->config.n_layers; }
int32_t shk_model_width(const shk_model *m) { return (int32_t)m->config.hidden; }
uint64_t shk_model_fingerprint(const shk_model *m) { return mix(m->fingerprint, &m->kv_type, sizeof m->kv_type); }

uint64_t shk_model_context(const shk_model *m) {
    enum { UNSAID = 8192 }; /* a length that every published model of these families was trained on */
    if (shk_config_unbounded(&m->config)) return 0;
    return m->config.context ? m->config.context : UNSAID;
}

/* ---- recorded counts ---- */

void shk_model_record(shk_model *m, int on) {
    pthread_mutex_lock(&m->lock);
    m->recording = on != 0;
    for (uint32_t l = 0; l < m->config.n_layers; l++) m->ffn_counts[l].used = m->attn_counts[l].used = 0;
    pthread_mutex_unlock(&m->lock);
}

/* Lists of `group` numbers; a group of 0 is the number itself. */
static json_t *counts_json(const shk_model *m, const shk_counts *counts, size_t group) {
    json_t *o = json_object();
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        if (!counts[l].used) continue;
        char key[16];
        json_t *list = json_array();
        for (size_t i = 0; i < counts[l].used; i += group ? group : 1) {
            json_t *row = group ? json_array() : json_integer(counts[l].n[i]);
            for (size_t j = 0; j < group; j++) json_array_append_new(row, json_integer(counts[l].n[i + j]));
            json_array_append_new(list, row);
        }
        snprintf(key, sizeof key, "%u", l);
        json_object_set_new(o, key, list);
    }
    return o;
}

shk_status shk_model_recorded(const shk_model *m, char **json, shk_error *err) {
    json_t *o =
        json_pack("{s:o,s:o}", "ffn", counts_json(m, m->ffn_counts, 0), "attn", counts_json(m, m->attn_counts, m->config.heads));
    *json = o ? json_dumps(o, 0) : NULL;
    json_decref(o);
    return *json ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory for the recorded counts");
}
