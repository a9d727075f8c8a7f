/* The config as GGUF metadata (docs/FORMAT.md): llama.cpp's keys for the Gemma family, ours beside them for the rest. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "mem.h"
#include "model/config_fields.h"
#include "ops.h"

static const char *key_of(char *buf, size_t size, const shk_config *c, const char *suffix) {
    bool absolute = strncmp(suffix, "tokenizer.", 10) == 0;
    snprintf(buf, size, "%s%s%s", absolute ? "" : shk_families[c->family].gguf, absolute ? "" : ".", suffix);
    return buf;
}

static const shk_meta *find(const shk_config *c, const shk_gguf *g, const char *suffix) {
    char key[128];
    return shk_gguf_find(g, key_of(key, sizeof key, c, suffix));
}

static shk_status read_fields(shk_config *c, const shk_gguf *g, shk_error *err) {
    char key[128];
    for (size_t i = 0; i < shk_config_n_fields; i++) {
        const shk_field *f = &shk_config_fields[i];
        if (!f->gguf || !(f->families & (1u << c->family))) continue;
        const shk_meta *m = shk_gguf_find(g, key_of(key, sizeof key, c, f->gguf));
        double v;
        int64_t whole;
        if (!m || (m->type == SHK_META_ARRAY && f->at == offsetof(shk_config, ffn))) continue;
        if (f->kind == SHK_FIELD_ID && shk_meta_int(m, &whole) && (whole < 0 || whole >= UINT32_MAX)) continue; /* "none" */
        if (shk_meta_int(m, &whole)) v = (double)whole;                                                         /* a bool too */
        else if (!shk_meta_real(m, &v)) return shk_fail(err, SHK_E_FORMAT, "%s: %s is not a number", c->origin, key);
        shk_status st = shk_field_store(c, f, key, v, err);
        if (st) return st;
    }
    return SHK_OK;
}

/* A list of kind names from an array of strings. */
static shk_status read_kinds(shk_config *c, const shk_gguf *g, const char *suffix, bool mlps, shk_error *err) {
    const shk_meta *m = find(c, g, suffix);
    if (!m || m->type != SHK_META_ARRAY || m->elem != SHK_META_STRING || m->n > 1024)
        return shk_fail(err, SHK_E_FORMAT, "%s: %s.%s is not a list of at most 1024 names", c->origin, shk_families[c->family].gguf,
                        suffix);
    char names[1024][24];
    const char *list[1024];
    const uint8_t *at = m->data;
    for (uint64_t i = 0; i < m->n; i++) {
        shk_str s = shk_meta_next_str(&at);
        snprintf(names[i], sizeof names[i], "%.*s", (int)(s.n < 23 ? s.n : 23), s.data);
        list[i] = names[i];
    }
    return shk_config_kinds(c, suffix, list, (size_t)m->n, mlps, err);
}

/* Which layers are local: an array of bools (true: local), a period, or the family's published pattern. */
static shk_status read_pattern(shk_config *c, const shk_gguf *g, shk_error *err) {
    static const int64_t published[SHK_FAMILY_COUNT] = { [SHK_GEMMA] = 1, [SHK_GEMMA2] = 2, [SHK_GEMMA3] = 6, [SHK_GEMMA3N] = 5 };
    const shk_meta *m = find(c, g, "attention.sliding_window_pattern");
    int64_t every = published[c->family], local;
    if (m && m->type != SHK_META_ARRAY && (!shk_meta_int(m, &every) || every < 1 || every > 1024))
        return shk_fail(err, SHK_E_FORMAT, "%s: attention.sliding_window_pattern is not a whole number from 1 to 1024", c->origin);
    bool list = m && m->type == SHK_META_ARRAY;
    if (list && m->n != c->n_layers)
        return shk_fail(err, SHK_E_FORMAT, "%s: attention.sliding_window_pattern has %llu entries for %u layers", c->origin,
                        (unsigned long long)m->n, c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        local = (i + 1) % every != 0;
        if (list && !shk_meta_int_at(m, i, &local))
            return shk_fail(err, SHK_E_FORMAT, "%s: attention.sliding_window_pattern is not a list of bools", c->origin);
        c->layers[i].mixer = local ? SHK_MIXER_LOCAL : SHK_MIXER_GLOBAL;
    }
    return SHK_OK;
}

/* Gemma 3n: widths for each layer, and its sparsity as the normal quantile that multiplies the standard deviation. */
static shk_status read_gemma3n(shk_config *c, const shk_gguf *g, shk_error *err) {
    const shk_meta *sizes = find(c, g, "feed_forward_length"), *scale = find(c, g, "activation_sparsity_scale");
    for (uint32_t i = 0; i < c->n_layers; i++) {
        int64_t n = 0;
        double z = 0;
        bool ok =
            sizes && (sizes->type == SHK_META_ARRAY ? i < sizes->n && shk_meta_int_at(sizes, i, &n) : shk_meta_int(sizes, &n));
        if (!ok || n < 1 || n > 1 << 18)
            return shk_fail(err, SHK_E_FORMAT, "%s: gemma3n.feed_forward_length of layer %u is not a whole number from 1 to %d",
                            c->origin, i, 1 << 18);
        if (scale && (scale->type != SHK_META_ARRAY || i >= scale->n || !shk_meta_real_at(scale, i, &z) || isnan(z)))
            return shk_fail(err, SHK_E_FORMAT, "%s: gemma3n.activation_sparsity_scale has no number for layer %u", c->origin, i);
        c->layers[i].ffn = (uint32_t)n;
        if (n > c->ffn) c->ffn = (uint32_t)n;
        /* layers without sparsity hold -inf (the quantile of 0) or 0 */
        bool sparse = z > 0 && z < 10;
        c->layers[i].mlp = sparse ? SHK_MLP_TOPK : SHK_MLP_GATED;
        c->layers[i].active = sparse ? 0.5 * erfc(z * M_SQRT1_2) * (double)n : 0;
    }
    return SHK_OK;
}

static void shape_defaults(shk_config *c, const shk_gguf *g) {
    const shk_tensor *E = shk_tensors_find(&g->tensors, "token_embd.weight");
    if (!c->vocab && E && E->n_dims == 2 && E->shape[0] <= 1 << 24) c->vocab = (uint32_t)E->shape[0];
    const shk_tensor *laurel = shk_tensors_find(&g->tensors, "blk.0.laurel_l.weight");
    if (c->family == SHK_GEMMA3N && !c->laurel_rank && laurel && laurel->n_dims == 2 && laurel->shape[0] <= 1 << 16)
        c->laurel_rank = (uint32_t)laurel->shape[0];
    const shk_tensor *ple = shk_tensors_find(&g->tensors, "per_layer_token_embd.weight");
    if (c->family == SHK_GEMMA3N && !c->ple_vocab && ple && ple->n_dims == 2 && ple->shape[0] <= 1 << 24)
        c->ple_vocab = (uint32_t)ple->shape[0];
    c->tied = shk_tensors_find(&g->tensors, "output.weight") == NULL;
}

/* What keys mean that a file leaves out: llama.cpp's defaults, on which the files of its early converters rely. */
static shk_config unsaid(shk_family family, const char *origin) {
    bool gemma2 = family == SHK_GEMMA2, gemma3n = family == SHK_GEMMA3N;
    return (shk_config){ .family = family,
                         .origin = origin,
                         .bos = -1,
                         .eos = -1,
                         .pad = -1,
                         .eps = 1e-6,
                         .rope_theta = 10000,
                         .rope_theta_local = 10000,
                         .rope_scale = 1,
                         .rope_fraction = 1,
                         .conv_width = 4,
                         .window = gemma2 ? 4096 : 0,
                         .attn_softcap = gemma2 ? 50 : 0,
                         .final_softcap = gemma2 || gemma3n ? 30 : 0,
                         .altup = gemma3n ? 4 : 0,
                         .post_norms = family != SHK_GEMMA && family != SHK_RECURRENT_GEMMA };
}

/* Rotary embeddings that are not known here must not pass for those that are. */
static shk_status check_rope(shk_config *c, const shk_gguf *g, shk_error *err) {
    const shk_meta *type = find(c, g, "rope.scaling.type"), *dims = find(c, g, "rope.dimension_count");
    shk_str name = { "linear", 6 };
    int64_t n = 0;
    if (dims && (!shk_meta_int(dims, &n) || n != shk_config_rotated(c)))
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: %s.rope.dimension_count is %lld; only %u is supported", c->origin,
                        shk_families[c->family].gguf, (long long)n, shk_config_rotated(c));
    if (type && !shk_meta_str(type, &name))
        return shk_fail(err, SHK_E_FORMAT, "%s: %s.rope.scaling.type is not a string", c->origin, shk_families[c->family].gguf);
    if (name.n == 4 && memcmp(name.data, "none", 4) == 0) c->rope_scale = 1;
    else if (name.n != 6 || memcmp(name.data, "linear", 6) != 0)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: %s.rope.scaling.type \"%.*s\" is not supported (none and linear are)",
                        c->origin, shk_families[c->family].gguf, (int)(name.n < 64 ? name.n : 64), name.data);
    return SHK_OK;
}

shk_status shk_config_from_gguf(shk_config *c, const shk_gguf *g, shk_error *err) {
    *c = unsaid(SHK_FAMILY_COUNT, g->path);
    const shk_meta *arch = shk_gguf_find(g, "general.architecture");
    shk_str name = { "", 0 };
    if (!arch || !shk_meta_str(arch, &name)) return shk_fail(err, SHK_E_FORMAT, "%s: general.architecture is missing", g->path);
    for (int f = 0; f < SHK_FAMILY_COUNT; f++)
        if (strlen(shk_families[f].gguf) == name.n && memcmp(shk_families[f].gguf, name.data, name.n) == 0)
            c->family = (shk_family)f;
    if (c->family == SHK_FAMILY_COUNT)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: general.architecture \"%.*s\" is not supported", g->path,
                        (int)(name.n < 64 ? name.n : 64), name.data);
    *c = unsaid(c->family, g->path);
    shk_status st = read_fields(c, g, err);
    if (st) return st;
    if (c->family == SHK_GEMMA3N && c->n_layers > 20 && !find(c, g, "attention.shared_kv_layers")) c->kv_shared = c->n_layers - 20;
    shape_defaults(c, g);
    if (!c->head_dim && c->heads) c->head_dim = c->hidden / c->heads;
    if (!c->kv_heads) c->kv_heads = c->heads;
    /* llama.cpp derives the largest Gemma 2 and 3 by their layer count; other sizes use the head's width */
    bool largest = (c->family == SHK_GEMMA2 && c->n_layers == 46) || (c->family == SHK_GEMMA3 && c->n_layers == 62);
    if (!(c->q_scalar > 0) && c->heads)
        c->q_scalar = c->family == SHK_GEMMA3N ? 1 : largest ? (double)c->hidden / c->heads : c->head_dim;
    if (c->family == SHK_RECURRENT_GEMMA) c->lru_blocks = c->heads;
    const struct {
        const char *key;
        uint32_t value;
    } needed[] = { { "block_count", c->n_layers },       { "embedding_length", c->hidden },
                   { "attention.head_count", c->heads }, { "attention.key_length", c->head_dim },
                   { "vocab_size", c->vocab },           { "feed_forward_length", c->family == SHK_GEMMA3N ? 1 : c->ffn } };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].value)
            return shk_fail(err, SHK_E_FORMAT, "%s: %s.%s is missing", g->path, shk_families[c->family].gguf, needed[i].key);
    c->layers = shk_calloc(c->n_layers, sizeof *c->layers);
    if (!c->layers) return shk_fail(err, SHK_E_MEMORY, "%s: no memory for %u layers", g->path, c->n_layers);
    if (c->family == SHK_NATIVE || c->family == SHK_RECURRENT_GEMMA) {
        st = read_kinds(c, g, "mixers", false, err);
        if (!st && c->family == SHK_NATIVE) st = read_kinds(c, g, "mlps", true, err);
    } else {
        st = read_pattern(c, g, err);
    }
    if (!st && c->family == SHK_GEMMA3N) st = read_gemma3n(c, g, err);
    if (!st) st = check_rope(c, g, err);
    if (!st) st = shk_config_finish(c, err);
    if (st) shk_config_free(c);
    return st;
}

static void put_kinds(const shk_config *c, shk_gguf_meta *m, const char *suffix, bool mlps) {
    char key[128];
    shk_str names[1024];
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const char *name = mlps ? shk_mlp_names[c->layers[i].mlp] : shk_mixer_names[c->layers[i].mixer];
        names[i] = (shk_str){ name, strlen(name) };
    }
    shk_gguf_put_strs(m, key_of(key, sizeof key, c, suffix), names, c->n_layers);
}

static void put_gemma3n(const shk_config *c, shk_gguf_meta *m) {
    char key[128];
    float scale[1024];
    int32_t sizes[1024];
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const shk_layer_config *l = &c->layers[i];
        sizes[i] = (int32_t)l->ffn;
        scale[i] = (float)(l->active > 0 ? shk_normal_quantile(1 - l->active / l->ffn) : -INFINITY);
    }
    shk_gguf_put_i32s(m, key_of(key, sizeof key, c, "feed_forward_length"), sizes, c->n_layers);
    shk_gguf_put_f32s(m, key_of(key, sizeof key, c, "activation_sparsity_scale"), scale, c->n_layers);
}

void shk_config_to_gguf(const shk_config *c, shk_gguf_meta *m, bool ids) {
    char key[128];
    shk_config absent = unsaid(c->family, NULL);
    shk_gguf_put_str(m, "general.architecture", shk_families[c->family].gguf);
    for (size_t i = 0; i < shk_config_n_fields; i++) {
        const shk_field *f = &shk_config_fields[i];
        if (!f->gguf || !(f->families & (1u << c->family))) continue;
        double v = shk_field_load(c, f);
        /* optional things that this model has not; a GGUF file says so by leaving them out */
        bool optional = f->kind == SHK_FIELD_REAL || f->at == offsetof(shk_config, context);
        if ((f->kind == SHK_FIELD_ID && (!ids || v < 0)) || (optional && v == 0 && shk_field_load(&absent, f) == 0)) continue;
        if (f->at == offsetof(shk_config, rope_scale) && v == 1) continue;
        key_of(key, sizeof key, c, f->gguf);
        if (f->kind == SHK_FIELD_REAL) shk_gguf_put_f32(m, key, (float)v);
        else if (f->kind == SHK_FIELD_BOOL) shk_gguf_put_bool(m, key, v != 0);
        else shk_gguf_put_u32(m, key, (uint32_t)v);
    }
    shk_gguf_put_u32(m, key_of(key, sizeof key, c, "attention.value_length"), c->head_dim);
    if (c->rope_scale != 1) shk_gguf_put_str(m, key_of(key, sizeof key, c, "rope.scaling.type"), "linear");
    if (c->family == SHK_NATIVE || c->family == SHK_RECURRENT_GEMMA) {
        put_kinds(c, m, "mixers", false);
        if (c->family == SHK_NATIVE) put_kinds(c, m, "mlps", true);
    } else if (c->family != SHK_GEMMA) {
        bool local[1024];
        for (uint32_t i = 0; i < c->n_layers; i++) local[i] = c->layers[i].mixer == SHK_MIXER_LOCAL;
        shk_gguf_put_bools(m, key_of(key, sizeof key, c, "attention.sliding_window_pattern"), local, c->n_layers);
    }
    if (c->family == SHK_GEMMA3N) put_gemma3n(c, m);
    if (ids) shk_gguf_put_str(m, "tokenizer.ggml.model", "no_vocab"); /* what llama.cpp calls a file without a tokenizer */
}
