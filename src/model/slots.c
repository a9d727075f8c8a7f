/* The one table of tensors: who has them, what they are called, what shape they have. */
#include <stdio.h>
#include <string.h>

#include "model/config_fields.h"
#include "model/weights.h"

enum {
    POST = G2 | G3 | G3N,
    ATTN = 1 << SHK_MIXER_GLOBAL | 1 << SHK_MIXER_LOCAL | 1 << SHK_MIXER_SPARK, REC = 1 << SHK_MIXER_RECURRENT, ANY = ATTN | REC,
    GATED = 1 << SHK_MLP_GATED | 1 << SHK_MLP_TOPK, SPARK = 1 << SHK_MLP_SPARK, ANY_MLP = GATED | SPARK
};
#define W(field) offsetof(shk_weights, field)
#define L(field) offsetof(shk_layer, field)
#define MAT(field) L(field), SHK_ROLE_MAT
#define VEC(field) L(field), SHK_ROLE_VEC
#define NORM(field) L(field), SHK_ROLE_NORM
#define PLAIN(field) L(field), SHK_ROLE_PLAIN
#define CONV(field) L(field), SHK_ROLE_CONV
#define LAMBDA(field) L(field), SHK_ROLE_LAMBDA
#define DOWN(field) L(field), SHK_ROLE_DOWN
#define TABLE(field) W(field), SHK_ROLE_MAT
#define STACK(field) W(field), SHK_ROLE_STACK
#define BLOCK_MATRIX { DIM_BLOCKS, DIM_BLOCK, DIM_BLOCK }

/* clang-format off: a row is a line */
const shk_slot shk_slots[] = {
    /* the model itself */
    { ALL, 0, 0, "embed_tokens.weight", "token_embd.weight", TABLE(embed), { DIM_VOCAB, DIM_HIDDEN } },
    { ALL, 0, 0, "/lm_head.weight", "output.weight", TABLE(output), { DIM_VOCAB, DIM_HIDDEN } },
    { GEMMAS | SH, 0, 0, "norm.weight", "output_norm.weight", W(final_norm), SHK_ROLE_NORM, { DIM_HIDDEN } },
    { RG, 0, 0, "final_norm.weight", "output_norm.weight", W(final_norm), SHK_ROLE_NORM, { DIM_HIDDEN } },
    { G3N, 0, 0, "embed_tokens_per_layer.weight", "per_layer_token_embd.weight", TABLE(ple_embed), { DIM_PLE_VOCAB, DIM_PLE_ALL } },
    { G3N, 0, 0, "per_layer_model_projection.weight", "per_layer_model_proj.weight",
      TABLE(ple_model_proj), { DIM_PLE_ALL, DIM_HIDDEN } },
    { G3N, 0, 0, "per_layer_projection_norm.weight", "per_layer_proj_norm.weight", W(ple_proj_norm), SHK_ROLE_NORM, { DIM_PLE } },
    { G3N, 0, 0, "altup_projections.%d.weight", "altup_proj.weight", STACK(altup_proj), { DIM_HIDDEN, DIM_HIDDEN } },
    { G3N, 0, 0, "altup_unembed_projections.%d.weight", "altup_unembd_proj.weight",
      STACK(altup_unembed), { DIM_HIDDEN, DIM_HIDDEN } },

    /* norms */
    { GEMMAS, ANY, ANY_MLP, "input_layernorm.weight", "attn_norm.weight", NORM(pre_mixer_norm), { DIM_HIDDEN } },
    { POST, ANY, ANY_MLP, "post_attention_layernorm.weight", "post_attention_norm.weight", NORM(post_mixer_norm), { DIM_HIDDEN } },
    { POST, ANY, ANY_MLP, "pre_feedforward_layernorm.weight", "ffn_norm.weight", NORM(pre_mlp_norm), { DIM_HIDDEN } },
    { POST, ANY, ANY_MLP, "post_feedforward_layernorm.weight", "post_ffw_norm.weight", NORM(post_mlp_norm), { DIM_HIDDEN } },
    { G1, ANY, ANY_MLP, "post_attention_layernorm.weight", "ffn_norm.weight", NORM(pre_mlp_norm), { DIM_HIDDEN } },
    { RG, ANY, ANY_MLP, "temporal_pre_norm.weight", "attn_norm.weight", NORM(pre_mixer_norm), { DIM_HIDDEN } },
    { RG, ANY, ANY_MLP, "channel_pre_norm.weight", "ffn_norm.weight", NORM(pre_mlp_norm), { DIM_HIDDEN } },
    { SH, ANY, ANY_MLP, "pre_mixer_norm.weight", "attn_norm.weight", NORM(pre_mixer_norm), { DIM_HIDDEN } },
    { SH, ANY, ANY_MLP, "post_mixer_norm.weight", "post_attention_norm.weight", NORM(post_mixer_norm), { DIM_HIDDEN } },
    { SH, ANY, ANY_MLP, "pre_mlp_norm.weight", "ffn_norm.weight", NORM(pre_mlp_norm), { DIM_HIDDEN } },
    { SH, ANY, ANY_MLP, "post_mlp_norm.weight", "post_ffw_norm.weight", NORM(post_mlp_norm), { DIM_HIDDEN } },

    /* attention */
    { GEMMAS, ATTN, ANY_MLP, "self_attn.q_proj.weight", "attn_q.weight", MAT(q), { DIM_Q, DIM_HIDDEN } },
    { GEMMAS, ATTN, ANY_MLP, "self_attn.k_proj.weight", "attn_k.weight", MAT(k), { DIM_KV, DIM_HIDDEN }, .own_kv = true },
    { GEMMAS, ATTN, ANY_MLP, "self_attn.v_proj.weight", "attn_v.weight", MAT(v), { DIM_KV, DIM_HIDDEN }, .own_kv = true },
    { GEMMAS, ATTN, ANY_MLP, "self_attn.o_proj.weight", "attn_output.weight", MAT(o), { DIM_HIDDEN, DIM_Q } },
    { G3 | G3N, ATTN, ANY_MLP, "self_attn.q_norm.weight", "attn_q_norm.weight", NORM(q_norm), { DIM_HEAD } },
    { G3 | G3N, ATTN, ANY_MLP, "self_attn.k_norm.weight", "attn_k_norm.weight", NORM(k_norm), { DIM_HEAD }, .own_kv = true },
    { RG, ATTN, ANY_MLP, "temporal_block.q_proj.weight", "attn_q.weight", MAT(q), { DIM_Q, DIM_HIDDEN } },
    { RG, ATTN, ANY_MLP, "temporal_block.k_proj.weight", "attn_k.weight", MAT(k), { DIM_KV, DIM_HIDDEN } },
    { RG, ATTN, ANY_MLP, "temporal_block.v_proj.weight", "attn_v.weight", MAT(v), { DIM_KV, DIM_HIDDEN } },
    { RG, ATTN, ANY_MLP, "temporal_block.o_proj.weight", "attn_output.weight", MAT(o), { DIM_HIDDEN, DIM_Q } },
    { RG, ATTN, ANY_MLP, "temporal_block.o_proj.bias", "attn_output.bias", VEC(o_bias), { DIM_HIDDEN } },
    { SH, ATTN, ANY_MLP, "mixer.q_proj.weight", "attn_q.weight", MAT(q), { DIM_Q, DIM_HIDDEN } },
    { SH, ATTN, ANY_MLP, "mixer.k_proj.weight", "attn_k.weight", MAT(k), { DIM_KV, DIM_HIDDEN } },
    { SH, ATTN, ANY_MLP, "mixer.v_proj.weight", "attn_v.weight", MAT(v), { DIM_KV, DIM_HIDDEN } },
    { SH, ATTN, ANY_MLP, "mixer.o_proj.weight", "attn_output.weight", MAT(o), { DIM_HIDDEN, DIM_Q } },

    /* recurrence */
    { RG, REC, ANY_MLP, "temporal_block.linear_x.weight", "rec_x.weight", MAT(linear_x), { DIM_LRU, DIM_HIDDEN } },
    { RG, REC, ANY_MLP, "temporal_block.linear_x.bias", "rec_x.bias", VEC(linear_x_bias), { DIM_LRU } },
    { RG, REC, ANY_MLP, "temporal_block.linear_y.weight", "rec_y.weight", MAT(linear_y), { DIM_LRU, DIM_HIDDEN } },
    { RG, REC, ANY_MLP, "temporal_block.linear_y.bias", "rec_y.bias", VEC(linear_y_bias), { DIM_LRU } },
    { RG, REC, ANY_MLP, "temporal_block.linear_out.weight", "rec_output.weight", MAT(linear_out), { DIM_HIDDEN, DIM_LRU } },
    { RG, REC, ANY_MLP, "temporal_block.linear_out.bias", "rec_output.bias", VEC(linear_out_bias), { DIM_HIDDEN } },
    { RG, REC, ANY_MLP, "temporal_block.conv_1d.weight", "rec_conv.weight", CONV(conv), { DIM_LRU, DIM_ONE, DIM_TAPS } },
    { RG, REC, ANY_MLP, "temporal_block.conv_1d.bias", "rec_conv.bias", VEC(conv_bias), { DIM_LRU } },
    { RG, REC, ANY_MLP, "temporal_block.rg_lru.input_gate_weight", "rec_gate_i.weight", PLAIN(input_gate), BLOCK_MATRIX },
    { RG, REC, ANY_MLP, "temporal_block.rg_lru.input_gate_bias", "rec_gate_i.bias",
      VEC(input_gate_bias), { DIM_BLOCKS, DIM_BLOCK } },
    { RG, REC, ANY_MLP, "temporal_block.rg_lru.recurrent_gate_weight", "rec_gate_a.weight", PLAIN(recurrence_gate), BLOCK_MATRIX },
    { RG, REC, ANY_MLP, "temporal_block.rg_lru.recurrent_gate_bias", "rec_gate_a.bias",
      VEC(recurrence_gate_bias), { DIM_BLOCKS, DIM_BLOCK } },
    { RG, REC, ANY_MLP, "temporal_block.rg_lru.recurrent_param", "rec_lambda", LAMBDA(lambda), { DIM_LRU } },
    { SH, REC, ANY_MLP, "mixer.linear_x.weight", "rec_x.weight", MAT(linear_x), { DIM_LRU, DIM_HIDDEN } },
    { SH, REC, ANY_MLP, "mixer.linear_x.bias", "rec_x.bias", VEC(linear_x_bias), { DIM_LRU } },
    { SH, REC, ANY_MLP, "mixer.linear_y.weight", "rec_y.weight", MAT(linear_y), { DIM_LRU, DIM_HIDDEN } },
    { SH, REC, ANY_MLP, "mixer.linear_y.bias", "rec_y.bias", VEC(linear_y_bias), { DIM_LRU } },
    { SH, REC, ANY_MLP, "mixer.linear_out.weight", "rec_output.weight", MAT(linear_out), { DIM_HIDDEN, DIM_LRU } },
    { SH, REC, ANY_MLP, "mixer.linear_out.bias", "rec_output.bias", VEC(linear_out_bias), { DIM_HIDDEN } },
    { SH, REC, ANY_MLP, "mixer.conv.weight", "rec_conv.weight", CONV(conv), { DIM_LRU, DIM_TAPS } },
    { SH, REC, ANY_MLP, "mixer.conv.bias", "rec_conv.bias", VEC(conv_bias), { DIM_LRU } },
    { SH, REC, ANY_MLP, "mixer.input_gate.weight", "rec_gate_i.weight", PLAIN(input_gate), BLOCK_MATRIX },
    { SH, REC, ANY_MLP, "mixer.input_gate.bias", "rec_gate_i.bias", VEC(input_gate_bias), { DIM_BLOCKS, DIM_BLOCK } },
    { SH, REC, ANY_MLP, "mixer.recurrence_gate.weight", "rec_gate_a.weight", PLAIN(recurrence_gate), BLOCK_MATRIX },
    { SH, REC, ANY_MLP, "mixer.recurrence_gate.bias", "rec_gate_a.bias", VEC(recurrence_gate_bias), { DIM_BLOCKS, DIM_BLOCK } },
    { SH, REC, ANY_MLP, "mixer.lambda", "rec_lambda", LAMBDA(lambda), { DIM_LRU } },

    /* feed-forward */
    { GEMMAS | SH, ANY, GATED, "mlp.gate_proj.weight", "ffn_gate.weight", MAT(gate), { DIM_FFN, DIM_HIDDEN } },
    { GEMMAS | SH, ANY, GATED, "mlp.up_proj.weight", "ffn_up.weight", MAT(up), { DIM_FFN, DIM_HIDDEN } },
    { GEMMAS | SH, ANY, ANY_MLP, "mlp.down_proj.weight", "ffn_down.weight", DOWN(down), { DIM_HIDDEN, DIM_FFN } },
    { SH, ANY, SPARK, "mlp.predictor.weight", "ffn_predictor.weight", MAT(predictor), { DIM_FFN, DIM_RANK } },
    { SH, ANY, SPARK, "mlp.up_proj.weight", "ffn_up.weight", MAT(up), { DIM_FFN, DIM_REST } },
    { RG, ANY, ANY_MLP, "mlp_block.gate_proj.weight", "ffn_gate.weight", MAT(gate), { DIM_FFN, DIM_HIDDEN } },
    { RG, ANY, ANY_MLP, "mlp_block.gate_proj.bias", "ffn_gate.bias", VEC(gate_bias), { DIM_FFN } },
    { RG, ANY, ANY_MLP, "mlp_block.up_proj.weight", "ffn_up.weight", MAT(up), { DIM_FFN, DIM_HIDDEN } },
    { RG, ANY, ANY_MLP, "mlp_block.up_proj.bias", "ffn_up.bias", VEC(up_bias), { DIM_FFN } },
    { RG, ANY, ANY_MLP, "mlp_block.down_proj.weight", "ffn_down.weight", DOWN(down), { DIM_HIDDEN, DIM_FFN } },
    { RG, ANY, ANY_MLP, "mlp_block.down_proj.bias", "ffn_down.bias", VEC(down_bias), { DIM_HIDDEN } },

    /* Gemma 3n */
    { G3N, ANY, ANY_MLP, "altup.modality_router.weight", "altup_router.weight", PLAIN(altup_router), { DIM_ALTUP, DIM_HIDDEN } },
    { G3N, ANY, ANY_MLP, "altup.router_norm.weight", "altup_router_norm.weight", NORM(altup_router_norm), { DIM_HIDDEN } },
    { G3N, ANY, ANY_MLP, "altup.prediction_coefs.weight", "altup_predict_coef.weight",
      PLAIN(altup_predict), { DIM_ALTUP2, DIM_ALTUP } },
    { G3N, ANY, ANY_MLP, "altup.correction_coefs.weight", "altup_correct_coef.weight",
      PLAIN(altup_correct), { DIM_ALTUP, DIM_ALTUP } },
    { G3N, ANY, ANY_MLP, "altup.correct_output_scale", "altup_correct_scale.weight", VEC(altup_scale), { DIM_HIDDEN } },
    { G3N, ANY, ANY_MLP, "laurel.linear_left.weight", "laurel_l.weight", MAT(laurel_left), { DIM_LAUREL, DIM_HIDDEN } },
    { G3N, ANY, ANY_MLP, "laurel.linear_right.weight", "laurel_r.weight", MAT(laurel_right), { DIM_HIDDEN, DIM_LAUREL } },
    { G3N, ANY, ANY_MLP, "laurel.post_laurel_norm.weight", "laurel_post_norm.weight", NORM(laurel_norm), { DIM_HIDDEN } },
    { G3N, ANY, ANY_MLP, "per_layer_input_gate.weight", "inp_gate.weight", MAT(ple_gate), { DIM_PLE, DIM_HIDDEN } },
    { G3N, ANY, ANY_MLP, "per_layer_projection.weight", "proj.weight", MAT(ple_proj), { DIM_HIDDEN, DIM_PLE } },
    { G3N, ANY, ANY_MLP, "post_per_layer_input_norm.weight", "post_norm.weight", NORM(ple_norm), { DIM_HIDDEN } },
};
/* clang-format on */
const size_t shk_n_slots = sizeof shk_slots / sizeof shk_slots[0];

bool shk_slot_applies(const shk_slot *s, const shk_config *c, int layer) {
    if (!(s->families & 1u << c->family)) return false;
    if (layer < 0) return s->mixers == 0 && (s->at != W(output) || !c->tied) && (s->role != SHK_ROLE_STACK || c->altup > 1);
    const shk_layer_config *l = &c->layers[layer];
    if (!(s->mixers & 1u << l->mixer) || !(s->mlps & 1u << l->mlp)) return false;
    if (s->own_kv && l->kv_layer != (uint32_t)layer) return false;
    bool post = s->at == L(post_mixer_norm) || s->at == L(post_mlp_norm);
    return !post || c->post_norms;
}

static uint64_t dim(uint8_t d, const shk_config *c, int layer) {
    uint32_t ffn = layer < 0 ? c->ffn : c->layers[layer].ffn;
    switch ((shk_dim)d) {
    case DIM_1: case DIM_ONE: return 1;
    case DIM_VOCAB: return c->vocab;
    case DIM_HIDDEN: return c->hidden;
    case DIM_FFN: return ffn;
    case DIM_Q: return (uint64_t)c->heads * c->head_dim;
    case DIM_KV: return (uint64_t)c->kv_heads * c->head_dim;
    case DIM_HEAD: return c->head_dim;
    case DIM_LRU: return c->lru_width;
    case DIM_BLOCKS: return c->lru_blocks;
    case DIM_BLOCK: return c->lru_width / c->lru_blocks;
    case DIM_TAPS: return c->conv_width;
    case DIM_RANK: return c->ffn_rank;
    case DIM_REST: return c->hidden - c->ffn_rank;
    case DIM_ALTUP: return c->altup;
    case DIM_ALTUP2: return (uint64_t)c->altup * c->altup;
    case DIM_LAUREL: return c->laurel_rank;
    case DIM_PLE: return c->ple_dim;
    case DIM_PLE_ALL: return (uint64_t)c->ple_dim * c->n_layers;
    case DIM_PLE_VOCAB: return c->ple_vocab;
    }
    return 0;
}

unsigned shk_slot_shape(const shk_slot *s, const shk_config *c, int layer, uint64_t shape[SHK_MAX_DIMS]) {
    unsigned n = 0;
    for (int i = 0; i < 3 && s->dims[i] != DIM_1; i++) shape[n++] = dim(s->dims[i], c, layer);
    for (unsigned i = n; i < SHK_MAX_DIMS; i++) shape[i] = 1;
    return n;
}

void shk_slot_name(char *buf, size_t size, const shk_slot *s, int layer, int index, const char *prefix) {
    char tail[128];
    if (!prefix) snprintf(tail, sizeof tail, "%s", s->gguf);
    else if (s->role == SHK_ROLE_STACK)
        snprintf(tail, sizeof tail, "%.*s%d%s", (int)(strchr(s->hf, '%') - s->hf), s->hf, index, strchr(s->hf, '%') + 2);
    else snprintf(tail, sizeof tail, "%s", s->hf);
    if (prefix && tail[0] == '/') snprintf(buf, size, "%s", tail + 1);
    else if (layer < 0) snprintf(buf, size, "%s%s", prefix ? prefix : "", tail);
    else if (prefix) snprintf(buf, size, "%slayers.%d.%s", prefix, layer, tail);
    else snprintf(buf, size, "blk.%d.%s", layer, tail);
}

bool shk_layer_sparse(const shk_config *c, int layer) { return c->layers[layer].mlp != SHK_MLP_GATED; }
