#include "model/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "mem.h"
#include "model/config_fields.h"

const shk_family_info shk_families[SHK_FAMILY_COUNT] = {
    [SHK_GEMMA] = { "gemma", NULL, "GemmaForCausalLM", "gemma", true, false },
    [SHK_GEMMA2] = { "gemma2", NULL, "Gemma2ForCausalLM", "gemma2", true, false },
    [SHK_GEMMA3] = { "gemma3_text", "gemma3", "Gemma3ForCausalLM", "gemma3", true, false },
    [SHK_GEMMA3N] = { "gemma3n_text", "gemma3n", "Gemma3nForCausalLM", "gemma3n", false, false },
    [SHK_RECURRENT_GEMMA] = { "recurrent_gemma", NULL, "RecurrentGemmaForCausalLM", "recurrentgemma", true, true },
    [SHK_NATIVE] = { "sparkhawk", NULL, NULL, "sparkhawk", true, false },
};

const char *const shk_mixer_names[SHK_MIXER_COUNT] = { "global", "local", "spark", "recurrent" };
const char *const shk_mlp_names[SHK_MLP_COUNT] = { "gated", "topk", "spark" };

#define AT(field) offsetof(shk_config, field)

const shk_field shk_config_fields[] = {
    { SHK_FIELD_U32, AT(vocab), "vocab_size", NULL, "vocab_size", 1, 1 << 24, ALL },
    { SHK_FIELD_U32, AT(hidden), "hidden_size", NULL, "embedding_length", 1, 1 << 16, ALL },
    { SHK_FIELD_U32, AT(n_layers), "num_hidden_layers", NULL, "block_count", 1, 1024, ALL },
    { SHK_FIELD_U32, AT(ffn), "intermediate_size", NULL, "feed_forward_length", 1, 1 << 18, ALL & ~G3N },
    { SHK_FIELD_U32, AT(heads), "num_attention_heads", NULL, "attention.head_count", 1, 1024, ALL },
    { SHK_FIELD_U32, AT(kv_heads), "num_key_value_heads", NULL, "attention.head_count_kv", 1, 1024, ALL },
    { SHK_FIELD_U32, AT(head_dim), "head_dim", NULL, "attention.key_length", 1, 4096, ALL },
    { SHK_FIELD_U32, AT(window), "sliding_window", "attention_window_size", "attention.sliding_window", 0, 1 << 24, ALL & ~G1 },
    { SHK_FIELD_U32, AT(context), "max_position_embeddings", NULL, "context_length", 0, 1u << 30, ALL & ~RG },
    { SHK_FIELD_REAL, AT(eps), "rms_norm_eps", NULL, "attention.layer_norm_rms_epsilon", 0, 1, ALL },
    { SHK_FIELD_REAL, AT(rope_theta), "rope_theta", NULL, "rope.freq_base", 1, 1e12, ALL },
    { SHK_FIELD_REAL, AT(rope_theta_local), "rope_local_base_freq", NULL, "rope.freq_base_swa", 1, 1e12, G3 | G3N },
    { SHK_FIELD_REAL, AT(rope_scale), NULL, NULL, "rope.scaling.factor", 1e-3, 1e6, ALL },
    { SHK_FIELD_REAL, AT(rope_fraction), "rope_fraction", "partial_rotary_factor", "rope.fraction", 0, 1, RG | SH },
    { SHK_FIELD_REAL, AT(q_scalar), "query_pre_attn_scalar", NULL, "attention.query_pre_attn_scalar", 1e-6, 1e6, G2 | G3 | SH },
    { SHK_FIELD_REAL, AT(attn_softcap), "attn_logit_softcapping", NULL, "attn_logit_softcapping", 0, 1e6, G2 | G3 | SH },
    { SHK_FIELD_REAL, AT(final_softcap), "final_logit_softcapping", "logits_soft_cap", "final_logit_softcapping", 0, 1e6,
      ALL & ~G1 },
    { SHK_FIELD_BOOL, AT(post_norms), "post_norms", NULL, "post_norms", 0, 1, SH },
    { SHK_FIELD_BOOL, AT(tied), "tie_word_embeddings", NULL, NULL, 0, 1, ALL },
    { SHK_FIELD_U32, AT(std_ddof), "std_ddof", NULL, "sparsity.std_ddof", 0, 1, SH },
    { SHK_FIELD_U32, AT(lru_width), "lru_width", NULL, "recurrent.width", 0, 1 << 18, RG | SH },
    { SHK_FIELD_U32, AT(lru_blocks), "lru_blocks", NULL, "recurrent.block_count", 0, 1 << 16, SH },
    { SHK_FIELD_U32, AT(conv_width), "conv1d_width", NULL, "recurrent.conv_width", 0, 64, RG | SH },
    { SHK_FIELD_U32, AT(ffn_rank), "spark_ffn_rank", NULL, "sparsity.ffn_rank", 0, 1 << 16, SH },
    { SHK_FIELD_REAL, AT(ffn_k), "spark_ffn_k", NULL, "sparsity.ffn_k", 0, 1 << 18, SH },
    { SHK_FIELD_REAL, AT(topk_k), "topk_ffn_k", NULL, "sparsity.topk_k", 0, 1 << 18, SH },
    { SHK_FIELD_U32, AT(attn_rank), "spark_attn_rank", NULL, "sparsity.attention_rank", 0, 4096, SH },
    { SHK_FIELD_REAL, AT(attn_k), "spark_attn_k", NULL, "sparsity.attention_k", 0, 1 << 24, SH },
    { SHK_FIELD_U32, AT(altup), "altup_num_inputs", NULL, "altup.num_inputs", 1, 16, G3N },
    { SHK_FIELD_U32, AT(altup_active), "altup_active_idx", NULL, "altup.active_idx", 0, 15, G3N },
    { SHK_FIELD_U32, AT(ple_dim), "hidden_size_per_layer_input", NULL, "embedding_length_per_layer_input", 1, 1 << 16, G3N },
    { SHK_FIELD_U32, AT(ple_vocab), "vocab_size_per_layer_input", NULL, "vocab_size_per_layer_input", 1, 1 << 24, G3N },
    { SHK_FIELD_U32, AT(laurel_rank), "laurel_rank", NULL, "laurel_rank", 1, 1 << 16, G3N },
    { SHK_FIELD_U32, AT(kv_shared), "num_kv_shared_layers", NULL, "attention.shared_kv_layers", 0, 1024, G3N },
    { SHK_FIELD_ID, AT(bos), "bos_token_id", NULL, "tokenizer.ggml.bos_token_id", 0, 1 << 24, ALL },
    { SHK_FIELD_ID, AT(eos), "eos_token_id", NULL, "tokenizer.ggml.eos_token_id", 0, 1 << 24, ALL },
    { SHK_FIELD_ID, AT(pad), "pad_token_id", NULL, "tokenizer.ggml.padding_token_id", 0, 1 << 24, ALL },
};
const size_t shk_config_n_fields = sizeof shk_config_fields / sizeof shk_config_fields[0];

shk_status shk_field_store(shk_config *c, const shk_field *f, const char *name, double value, shk_error *err) {
    bool whole = f->kind != SHK_FIELD_REAL;
    if (!(value >= f->min && value <= f->max) || (whole && value != floor(value)))
        return shk_fail(err, SHK_E_FORMAT, "%s: %s is %g, which is not %s from %g to %g", c->origin, name, value,
                        whole ? "a whole number" : "a number", f->min, f->max);
    char *at = (char *)c + f->at;
    switch (f->kind) {
    case SHK_FIELD_U32: *(uint32_t *)(void *)at = (uint32_t)value; break;
    case SHK_FIELD_REAL: *(double *)(void *)at = value; break;
    case SHK_FIELD_BOOL: *(bool *)(void *)at = value != 0; break;
    case SHK_FIELD_ID: *(int32_t *)(void *)at = (int32_t)value; break;
    }
    return SHK_OK;
}

double shk_field_load(const shk_config *c, const shk_field *f) {
    const char *at = (const char *)c + f->at;
    switch (f->kind) {
    case SHK_FIELD_U32: return *(const uint32_t *)(const void *)at;
    case SHK_FIELD_REAL: return *(const double *)(const void *)at;
    case SHK_FIELD_BOOL: return *(const bool *)(const void *)at;
    case SHK_FIELD_ID: return *(const int32_t *)(const void *)at;
    }
    return 0;
}

shk_status shk_config_kinds(shk_config *c, const char *field, const char *const *list, size_t n, bool mlps, shk_error *err) {
    static const struct {
        const char *name;
        uint32_t mixer;
    } spellings[] = { /* of the published configs */
        { "full_attention", SHK_MIXER_GLOBAL }, { "sliding_attention", SHK_MIXER_LOCAL }, { "attention", SHK_MIXER_LOCAL },
    };
    bool cut = c->family == SHK_RECURRENT_GEMMA; /* its reference cuts a longer list */
    if (n == 0 || (n > c->n_layers && !cut))
        return shk_fail(err, SHK_E_FORMAT, "%s: %s has %zu entries for %u layers", c->origin, field, n, c->n_layers);
    for (size_t i = 0; i < c->n_layers; i++) {
        const char *name = list[i % n];
        uint32_t count = mlps ? (uint32_t)SHK_MLP_COUNT : (uint32_t)SHK_MIXER_COUNT, kind = count;
        for (uint32_t j = 0; j < count; j++)
            if (strcmp(name, mlps ? shk_mlp_names[j] : shk_mixer_names[j]) == 0) kind = j;
        for (size_t j = 0; !mlps && j < sizeof spellings / sizeof *spellings; j++)
            if (strcmp(name, spellings[j].name) == 0) kind = spellings[j].mixer;
        if (kind == count)
            return shk_fail(err, SHK_E_UNSUPPORTED, "%s: %s[%zu] is \"%s\", a kind of layer that is not known", c->origin, field,
                            i % n, name);
        if (mlps) c->layers[i].mlp = kind;
        else c->layers[i].mixer = kind;
    }
    return SHK_OK;
}

bool shk_config_uses(const shk_config *c, bool mlp, uint32_t kind) {
    for (uint32_t i = 0; i < c->n_layers; i++)
        if ((mlp ? c->layers[i].mlp : c->layers[i].mixer) == kind) return true;
    return false;
}

/* A field must lie in a range that follows from the other fields and from the kinds of layers present. */
static shk_status within(const shk_config *c, const char *name, double value, double min, double max, shk_error *err) {
    if (value >= min && value <= max) return SHK_OK;
    return shk_fail(err, SHK_E_FORMAT, "%s: %s is %g; with the other fields as they are it must be from %g to %g", c->origin, name,
                    value, min, max);
}

static shk_status check_kinds(const shk_config *c, shk_error *err) {
    shk_status st = SHK_OK;
    if (shk_config_uses(c, false, SHK_MIXER_LOCAL)) st = within(c, "sliding_window", c->window, 1, 1 << 24, err);
    if (!st && shk_config_uses(c, false, SHK_MIXER_RECURRENT)) {
        st = within(c, "lru_width", c->lru_width, 1, 1 << 18, err);
        if (!st) st = within(c, "lru_blocks", c->lru_blocks, 1, c->lru_width, err);
        if (!st && c->lru_width % c->lru_blocks)
            st = shk_fail(err, SHK_E_FORMAT, "%s: lru_width %u is no multiple of its %u blocks", c->origin, c->lru_width,
                          c->lru_blocks);
        if (!st) st = within(c, "conv1d_width", c->conv_width, 2, 64, err);
    }
    if (!st && shk_config_uses(c, false, SHK_MIXER_SPARK)) {
        st = within(c, "spark_attn_rank", c->attn_rank, 2, c->head_dim - 2.0, err);
        if (!st && (c->attn_rank % 2 || c->head_dim % 2))
            st = shk_fail(err, SHK_E_FORMAT, "%s: spark_attn_rank %u and head_dim %u must be even", c->origin, c->attn_rank,
                          c->head_dim);
        if (!st) st = within(c, "spark_attn_k", c->attn_k, 1, 1 << 24, err);
    }
    if (!st && shk_config_uses(c, true, SHK_MLP_SPARK)) {
        st = within(c, "spark_ffn_rank", c->ffn_rank, 1, c->hidden - 1.0, err);
        if (!st) st = within(c, "spark_ffn_k", c->ffn_k, 1, c->ffn, err);
    }
    if (!st && shk_config_uses(c, true, SHK_MLP_TOPK) && c->family == SHK_NATIVE)
        st = within(c, "topk_ffn_k", c->topk_k, 1, c->ffn, err);
    return st;
}

/* Keys and values of the last layers come from the last earlier layer of the same kind (Gemma 3n). */
static shk_status share_kv(shk_config *c, shk_error *err) {
    if (c->kv_shared >= c->n_layers) return within(c, "num_kv_shared_layers", c->kv_shared, 0, c->n_layers - 1.0, err);
    uint32_t own = c->n_layers - c->kv_shared;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        uint32_t from = i;
        if (i >= own) {
            for (from = own; from-- > 0;)
                if (c->layers[from].mixer == c->layers[i].mixer) break;
            if (from == UINT32_MAX)
                return shk_fail(err, SHK_E_FORMAT,
                                "%s: layer %u shares keys and values, but none of the first %u layers is of its kind", c->origin, i,
                                own);
        }
        c->layers[i].kv_layer = from;
    }
    return SHK_OK;
}

/* The least bit more: a fraction that went through an f32 must not lose a dimension. */
uint32_t shk_config_rotated(const shk_config *c) { return (uint32_t)(c->head_dim * c->rope_fraction + 1e-3); }

shk_status shk_config_finish(shk_config *c, shk_error *err) {
    shk_status st = check_kinds(c, err);
    if (st) return st;
    if (c->heads % c->kv_heads)
        return shk_fail(err, SHK_E_FORMAT, "%s: %u attention heads cannot share %u key-value heads", c->origin, c->heads,
                        c->kv_heads);
    if (shk_config_rotated(c) % 2)
        return shk_fail(err, SHK_E_FORMAT, "%s: %g of head_dim %u is not an even number of rotated dimensions", c->origin,
                        c->rope_fraction, c->head_dim);
    if (c->family == SHK_GEMMA3N && c->altup_active >= c->altup)
        return within(c, "altup_active_idx", c->altup_active, 0, c->altup - 1.0, err);
    bool two_bases = c->family == SHK_GEMMA3 || c->family == SHK_GEMMA3N;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        shk_layer_config *l = &c->layers[i];
        bool local = l->mixer == SHK_MIXER_LOCAL;
        l->window = local ? c->window : 0;
        l->rope_theta = two_bases && local ? c->rope_theta_local : c->rope_theta;
        l->rope_scale = two_bases && local ? 1.0 : c->rope_scale;
        if (!l->ffn) l->ffn = c->ffn;
        if (l->mlp == SHK_MLP_SPARK) l->active = c->ffn_k;
        if (l->mlp == SHK_MLP_TOPK && c->family == SHK_NATIVE) l->active = c->topk_k;
    }
    return share_kv(c, err);
}

void shk_config_free(shk_config *c) {
    free(c->layers);
    memset(c, 0, sizeof *c);
}
