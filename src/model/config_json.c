/* config.json: read and written. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "mem.h"
#include "model/config_fields.h"

/* What a published config.json may leave out: the defaults of its family's reference implementation. */
static const char *const defaults[SHK_FAMILY_COUNT] = {
    [SHK_GEMMA] =
        "{'vocab_size':256000,'hidden_size':3072,'intermediate_size':24576,'num_hidden_layers':28,'num_attention_heads':16,"
        "'num_key_value_heads':16,'head_dim':256,'max_position_embeddings':8192,'rms_norm_eps':1e-6,'rope_theta':10000}",
    [SHK_GEMMA2] =
        "{'vocab_size':256000,'hidden_size':2304,'intermediate_size':9216,'num_hidden_layers':26,'num_attention_heads':8,"
        "'num_key_value_heads':4,'head_dim':256,'max_position_embeddings':8192,'rms_norm_eps':1e-6,'rope_theta':10000,"
        "'query_pre_attn_scalar':256,'sliding_window':4096,'final_logit_softcapping':30,'attn_logit_softcapping':50}",
    [SHK_GEMMA3] =
        "{'vocab_size':262208,'hidden_size':2304,'intermediate_size':9216,'num_hidden_layers':26,'num_attention_heads':8,"
        "'num_key_value_heads':4,'head_dim':256,'max_position_embeddings':131072,'rms_norm_eps':1e-6,'rope_theta':1000000,"
        "'rope_local_base_freq':10000,'query_pre_attn_scalar':256,'sliding_window':4096,'sliding_window_pattern':6}",
    [SHK_GEMMA3N] =
        "{'vocab_size':262400,'vocab_size_per_layer_input':262144,'hidden_size':2048,'hidden_size_per_layer_input':256,"
        "'intermediate_size':16384,'num_hidden_layers':35,'num_attention_heads':8,'num_key_value_heads':2,'head_dim':256,"
        "'max_position_embeddings':32768,'rms_norm_eps':1e-6,'rope_theta':1000000,'rope_local_base_freq':10000,"
        "'sliding_window':512,'sliding_window_pattern':5,'final_logit_softcapping':30,'altup_active_idx':0,"
        "'altup_num_inputs':4,'num_kv_shared_layers':15,'laurel_rank':64}",
    [SHK_RECURRENT_GEMMA] = "{'vocab_size':256000,'hidden_size':2560,'intermediate_size':15360,'num_hidden_layers':26,"
                            "'num_attention_heads':10,'attention_window_size':2048,'conv1d_width':4,'logits_soft_cap':30,"
                            "'rms_norm_eps':1e-6,'rope_theta':10000,'partial_rotary_factor':0.5,"
                            "'block_types':['recurrent','recurrent','attention']}",
    [SHK_NATIVE] = "{'rms_norm_eps':1e-6,'rope_theta':10000,'rope_fraction':1,'post_norms':true,'conv1d_width':4,"
                   "'mixers':['global'],'mlps':['gated']}",
};

static json_t *parse_defaults(shk_family family) {
    char *text = shk_strdup(defaults[family]);
    for (char *p = text; p && *p; p++)
        if (*p == '\'') *p = '"';
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return j;
}

typedef struct reader {
    shk_config *c;
    const json_t *root, *defaults;
    shk_error *err;
} reader;

/* The value of a key, the family's default where it is absent; NULL where that is absent too. */
static const json_t *get(const reader *r, const char *key) {
    const json_t *v = json_object_get(r->root, key);
    return v ? v : json_object_get(r->defaults, key);
}

static shk_status read_field(const reader *r, const shk_field *f) {
    const char *key = r->c->family == SHK_RECURRENT_GEMMA && f->json_rg ? f->json_rg : f->json;
    const json_t *v = key ? get(r, key) : NULL;
    if (json_is_null(v) && f->min > 0) v = json_object_get(r->defaults, key); /* null is "none" where there can be none */
    if (!v || json_is_null(v)) return SHK_OK;
    if (f->kind == SHK_FIELD_ID && json_is_array(v)) v = json_array_get(v, 0); /* several end tokens: the first */
    if (f->kind == SHK_FIELD_BOOL && json_is_boolean(v)) return shk_field_store(r->c, f, key, json_is_true(v), r->err);
    if (f->kind == SHK_FIELD_ID && json_is_integer(v) && json_integer_value(v) < 0) return SHK_OK;
    if (!json_is_number(v)) return shk_fail(r->err, SHK_E_FORMAT, "%s: %s is not a number", r->c->origin, key);
    return shk_field_store(r->c, f, key, json_number_value(v), r->err);
}

/* A list of strings, each no longer than any kind's name needs. */
static shk_status read_kinds(const reader *r, const char *key, bool mlps) {
    const json_t *v = get(r, key);
    const char *names[1024];
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n > 1024)
        return shk_fail(r->err, SHK_E_FORMAT, "%s: %s is not a list of at most 1024 names", r->c->origin, key);
    for (size_t i = 0; i < n; i++) {
        names[i] = json_string_value(json_array_get(v, i));
        if (!names[i]) return shk_fail(r->err, SHK_E_FORMAT, "%s: %s[%zu] is not a string", r->c->origin, key, i);
    }
    return shk_config_kinds(r->c, key, names, n, mlps, r->err);
}

/* layer_types, or what older files have instead. */
static shk_status read_layer_types(const reader *r) {
    shk_config *c = r->c;
    if (c->family == SHK_GEMMA) return SHK_OK; /* all global */
    const json_t *types = json_object_get(r->root, "layer_types");
    if (json_is_array(types) && json_array_size(types) != c->n_layers)
        return shk_fail(r->err, SHK_E_FORMAT, "%s: layer_types has %zu entries for %u layers", c->origin, json_array_size(types),
                        c->n_layers);
    if (types && !json_is_null(types)) return read_kinds(r, "layer_types", false);
    const json_t *v = json_object_get(r->root, "_sliding_window_pattern");
    if (!json_is_integer(v)) v = get(r, "sliding_window_pattern");
    json_int_t every = c->family == SHK_GEMMA2 ? 2 : json_integer_value(v);
    if (every < 1 || every > 1024)
        return shk_fail(r->err, SHK_E_FORMAT, "%s: sliding_window_pattern is not a whole number from 1 to 1024", c->origin);
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].mixer = (i + 1) % every ? SHK_MIXER_LOCAL : SHK_MIXER_GLOBAL;
    return SHK_OK;
}

static shk_status real_key(const reader *r, const json_t *object, const char *key, double *out) {
    const json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return SHK_OK;
    if (!json_is_number(v) || !(json_number_value(v) > 0) || json_number_value(v) > 1e12)
        return shk_fail(r->err, SHK_E_FORMAT, "%s: %s is not a positive number", r->c->origin, key);
    *out = json_number_value(v);
    return SHK_OK;
}

/* One rope description: {"rope_theta", "rope_type": "default" | "linear", "factor", "partial_rotary_factor"}. */
static shk_status read_rope_object(const reader *r, const json_t *o, double *theta, double *scale) {
    const char *type = json_string_value(json_object_get(o, "rope_type"));
    if (!type) type = json_string_value(json_object_get(o, "type"));
    shk_status st = real_key(r, o, "rope_theta", theta);
    if (!st && type && strcmp(type, "linear") == 0)
        st = json_is_number(json_object_get(o, "factor"))
                 ? real_key(r, o, "factor", scale)
                 : shk_fail(r->err, SHK_E_FORMAT, "%s: rope_type \"linear\" has no factor", r->c->origin);
    else if (!st && type && strcmp(type, "default") != 0)
        st = shk_fail(r->err, SHK_E_UNSUPPORTED, "%s: rope_type \"%s\" is not supported (default and linear are)", r->c->origin,
                      type);
    return st;
}

static shk_status read_rope(const reader *r) {
    shk_config *c = r->c;
    const json_t *p = json_object_get(r->root, "rope_parameters");
    double none = 1.0;
    shk_status st = SHK_OK;
    if (json_is_object(json_object_get(p, "full_attention"))) {
        st = read_rope_object(r, json_object_get(p, "full_attention"), &c->rope_theta, &c->rope_scale);
        if (!st) st = read_rope_object(r, json_object_get(p, "sliding_attention"), &c->rope_theta_local, &none);
        if (!st && none != 1.0)
            st = shk_fail(r->err, SHK_E_UNSUPPORTED, "%s: rope_parameters: sliding_attention is scaled, which is not supported",
                          c->origin);
    } else if (json_is_object(p)) {
        st = read_rope_object(r, p, &c->rope_theta, &c->rope_scale);
        if (!st && c->family == SHK_RECURRENT_GEMMA) st = real_key(r, p, "partial_rotary_factor", &c->rope_fraction);
    }
    const json_t *s = json_object_get(r->root, "rope_scaling"); /* the older spelling */
    if (!st && json_is_object(s)) st = read_rope_object(r, s, &c->rope_theta, &c->rope_scale);
    if (!st && !(c->rope_fraction > 0 && c->rope_fraction <= 1))
        st = shk_fail(r->err, SHK_E_FORMAT, "%s: the rotated fraction %g of a head is not in (0, 1]", c->origin, c->rope_fraction);
    return st;
}

/* Gemma 3n: a width for each layer or one for all; the share of neurons that its top-k leaves inactive. */
static shk_status read_gemma3n(const reader *r) {
    shk_config *c = r->c;
    const json_t *sizes = get(r, "intermediate_size"), *pattern = json_object_get(r->root, "activation_sparsity_pattern");
    if (json_is_null(pattern)) pattern = NULL;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const json_t *size = json_is_array(sizes) ? json_array_get(sizes, i) : sizes;
        json_int_t n = json_integer_value(size);
        if (n < 1 || n > 1 << 18)
            return shk_fail(r->err, SHK_E_FORMAT, "%s: intermediate_size of layer %u is not a whole number from 1 to %d", c->origin,
                            i, 1 << 18);
        c->layers[i].ffn = (uint32_t)n;
        if (c->layers[i].ffn > c->ffn) c->ffn = c->layers[i].ffn;
        const json_t *share = json_is_array(pattern) ? json_array_get(pattern, i) : pattern;
        if (json_is_array(pattern) && !share)
            return shk_fail(r->err, SHK_E_FORMAT, "%s: activation_sparsity_pattern has no entry for layer %u", c->origin, i);
        /* the published default: the first ten layers at 0.95, where there are more */
        double s = share ? json_number_value(share) : c->n_layers > 10 && i < 10 ? 0.95 : 0;
        if (!(s >= 0 && s < 1) || (share && !json_is_number(share)))
            return shk_fail(r->err, SHK_E_FORMAT, "%s: activation_sparsity_pattern[%u] is not a number in [0, 1)", c->origin, i);
        c->layers[i].mlp = s > 0 ? SHK_MLP_TOPK : SHK_MLP_GATED;
        c->layers[i].active = s > 0 ? (1 - s) * (double)n : 0;
    }
    return SHK_OK;
}

static shk_status refuse(const reader *r) {
    const json_t *v;
    static const char *const activations[] = { "hidden_activation", "hidden_act" };
    for (size_t i = 0; i < 2; i++) {
        const char *name = json_string_value(json_object_get(r->root, activations[i]));
        bool known = !name || strcmp(name, "gelu_pytorch_tanh") == 0;
        if (!known && !(i == 1 && strcmp(name, "gelu") == 0)) /* the older key said "gelu" and meant the tanh form */
            return shk_fail(r->err, SHK_E_UNSUPPORTED, "%s: %s \"%s\" is not supported (gelu_pytorch_tanh is)", r->c->origin,
                            activations[i], name);
    }
    static const char *const flags[] = { "attention_bias", "use_bidirectional_attention" };
    for (size_t i = 0; i < 2; i++)
        if ((v = json_object_get(r->root, flags[i])) && json_is_true(v))
            return shk_fail(r->err, SHK_E_UNSUPPORTED, "%s: %s is true, which is not supported", r->c->origin, flags[i]);
    return SHK_OK;
}

static shk_status read_family(shk_config *c, const json_t *root, shk_error *err) {
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (!type) return shk_fail(err, SHK_E_FORMAT, "%s: model_type is missing", c->origin);
    for (int f = 0; f < SHK_FAMILY_COUNT; f++)
        if (strcmp(type, shk_families[f].model_type) == 0 || (shk_families[f].also && strcmp(type, shk_families[f].also) == 0)) {
            c->family = (shk_family)f;
            return SHK_OK;
        }
    return shk_fail(err, SHK_E_UNSUPPORTED, "%s: model_type \"%s\" is not supported", c->origin, type);
}

static shk_status read_layers(const reader *r) {
    shk_config *c = r->c;
    shk_status st = SHK_OK;
    if (c->family == SHK_NATIVE) {
        st = read_kinds(r, "mixers", false);
        if (!st) st = read_kinds(r, "mlps", true);
    } else if (c->family == SHK_RECURRENT_GEMMA) {
        st = read_kinds(r, json_object_get(r->root, "_block_types") ? "_block_types" : "block_types", false);
    } else {
        st = read_layer_types(r);
    }
    if (!st && c->family == SHK_GEMMA3N) st = read_gemma3n(r);
    return st;
}

static shk_status read_all(const reader *r) {
    shk_config *c = r->c;
    shk_status st = refuse(r);
    for (size_t i = 0; !st && i < shk_config_n_fields; i++)
        if (shk_config_fields[i].families & (1u << c->family)) st = read_field(r, &shk_config_fields[i]);
    if (st) return st;
    const struct {
        const char *name;
        uint32_t value;
    } needed[] = { { "vocab_size", c->vocab },
                   { "hidden_size", c->hidden },
                   { "num_hidden_layers", c->n_layers },
                   { "num_attention_heads", c->heads },
                   { "intermediate_size", c->family == SHK_GEMMA3N ? 1 : c->ffn } };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].value) return shk_fail(r->err, SHK_E_FORMAT, "%s: %s is missing", c->origin, needed[i].name);
    if (!c->head_dim) c->head_dim = c->hidden / c->heads;
    if (!c->head_dim) return shk_fail(r->err, SHK_E_FORMAT, "%s: head_dim is missing", c->origin);
    if (!c->kv_heads) c->kv_heads = c->family == SHK_RECURRENT_GEMMA ? 1 : c->heads;
    if (c->family == SHK_GEMMA3N) c->q_scalar = 1; /* its heads are normalised instead */
    if (!(c->q_scalar > 0)) c->q_scalar = c->head_dim;
    if (c->family == SHK_RECURRENT_GEMMA) {
        if (c->ffn % 2) return shk_fail(r->err, SHK_E_FORMAT, "%s: intermediate_size %u is odd", c->origin, c->ffn);
        c->ffn /= 2; /* the published field counts gate and up together */
        c->lru_blocks = c->heads;
    }
    if (!c->lru_width) c->lru_width = c->hidden;
    if (!c->lru_blocks) c->lru_blocks = c->heads;
    c->layers = shk_calloc(c->n_layers, sizeof *c->layers);
    if (!c->layers) return shk_fail(r->err, SHK_E_MEMORY, "%s: no memory for %u layers", c->origin, c->n_layers);
    st = read_rope(r);
    if (!st) st = read_layers(r);
    if (!st) st = shk_config_finish(c, r->err);
    return st;
}

shk_status shk_config_from_json(shk_config *c, const json_t *root, const char *origin, shk_error *err) {
    *c = (shk_config){ .origin = origin, .bos = -1, .eos = -1, .pad = -1, .rope_scale = 1, .rope_fraction = 1, .tied = true };
    if (!json_is_object(root)) return shk_fail(err, SHK_E_FORMAT, "%s: not a JSON object", origin);
    shk_status st = read_family(c, root, err);
    if (st) return st;
    if (c->family != SHK_NATIVE && c->family != SHK_RECURRENT_GEMMA) c->post_norms = c->family != SHK_GEMMA;
    const json_t *text = json_object_get(root, "text_config"); /* the text part of a multimodal model */
    reader r = { c, json_is_object(text) ? text : root, parse_defaults(c->family), err };
    st = r.defaults ? read_all(&r) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", origin);
    json_decref((json_t *)r.defaults);
    if (st) shk_config_free(c);
    return st;
}

shk_status shk_config_read(shk_config *c, const char *path, shk_error *err) {
    shk_map map = { 0 };
    shk_status st = shk_map_open(&map, path, err);
    memset(c, 0, sizeof *c);
    if (st) return st;
    json_error_t je;
    json_t *root = NULL;
    if (map.size > 16u << 20) st = shk_fail(err, SHK_E_FORMAT, "%s: %zu bytes is too large for a config", path, map.size);
    else if (!(root = json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES, &je)))
        st = shk_fail(err, SHK_E_FORMAT, "%s:%d: %s", path, je.line, je.text);
    if (!st) st = shk_config_from_json(c, root, path, err);
    json_decref(root);
    shk_map_close(&map);
    return st;
}

/* ---- writing ---- */

/* The kinds of all layers, cut to the shortest list that repeats to them. */
static json_t *kinds_json(const shk_config *c, const char *const *names, bool mlps, bool shorten) {
    uint32_t period = c->n_layers;
    for (uint32_t p = 1; shorten && p < c->n_layers && period == c->n_layers; p++) {
        uint32_t i = p;
        while (i < c->n_layers && (mlps ? c->layers[i].mlp == c->layers[i % p].mlp : c->layers[i].mixer == c->layers[i % p].mixer))
            i++;
        if (i == c->n_layers) period = p;
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < period; i++)
        json_array_append_new(list, json_string(names[mlps ? c->layers[i].mlp : c->layers[i].mixer]));
    return list;
}

static void write_layers(const shk_config *c, json_t *o) {
    static const char *const published[SHK_MIXER_COUNT] = { "full_attention", "sliding_attention", "", "recurrent" };
    static const char *const recurrent[SHK_MIXER_COUNT] = { "full_attention", "attention", "", "recurrent" };
    switch (c->family) {
    case SHK_NATIVE:
        json_object_set_new(o, "mixers", kinds_json(c, shk_mixer_names, false, true));
        json_object_set_new(o, "mlps", kinds_json(c, shk_mlp_names, true, true));
        break;
    case SHK_RECURRENT_GEMMA: json_object_set_new(o, "block_types", kinds_json(c, recurrent, false, true)); break;
    case SHK_GEMMA: break;
    default: json_object_set_new(o, "layer_types", kinds_json(c, published, false, false));
    }
    if (c->family != SHK_GEMMA3N) return;
    json_t *sizes = json_array(), *shares = json_array();
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const shk_layer_config *l = &c->layers[i];
        json_array_append_new(sizes, json_integer(l->ffn));
        /* to 7 digits: what it was before it went through an f32 */
        json_array_append_new(shares, json_real(l->active > 0 ? round((1 - l->active / l->ffn) * 1e7) / 1e7 : 0));
    }
    json_object_set_new(o, "intermediate_size", sizes);
    json_object_set_new(o, "activation_sparsity_pattern", shares);
    json_object_set_new(o, "altup_correct_scale", json_true());
    json_object_set_new(o, "altup_coef_clip", json_real(120));
}

json_t *shk_config_to_json(const shk_config *c, const char *dtype) {
    const shk_family_info *info = &shk_families[c->family];
    json_t *o = json_object();
    json_object_set_new(o, "model_type", json_string(info->model_type));
    if (info->architecture) json_object_set_new(o, "architectures", json_pack("[s]", info->architecture));
    if (dtype) json_object_set_new(o, "torch_dtype", json_string(dtype));
    for (size_t i = 0; i < shk_config_n_fields; i++) {
        const shk_field *f = &shk_config_fields[i];
        const char *key = c->family == SHK_RECURRENT_GEMMA && f->json_rg ? f->json_rg : f->json;
        if (!key || !(f->families & (1u << c->family))) continue;
        double v = shk_field_load(c, f);
        bool none = (f->kind == SHK_FIELD_ID && v < 0) || (v == 0 && strstr(key, "cap"));
        if (f->at == offsetof(shk_config, context) && v == 0) continue;
        bool whole = f->at == offsetof(shk_config, q_scalar) && v == floor(v); /* transformers insists on an integer */
        if (c->family == SHK_RECURRENT_GEMMA && f->at == offsetof(shk_config, ffn)) v *= 2;
        json_object_set_new(o, key,
                            none                        ? json_null()
                            : f->kind == SHK_FIELD_BOOL ? json_boolean(v != 0)
                            : f->kind == SHK_FIELD_REAL && !whole ? json_real(v)
                                                                  : json_integer((json_int_t)v));
    }
    if (c->family != SHK_NATIVE) json_object_set_new(o, "hidden_activation", json_string("gelu_pytorch_tanh"));
    if (c->rope_scale != 1)
        json_object_set_new(o, "rope_scaling", json_pack("{s:s,s:f}", "rope_type", "linear", "factor", c->rope_scale));
    write_layers(c, o);
    return o;
}
