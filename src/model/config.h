/* What a model is: one structure for every family and every file it may come from. */
#ifndef SHK_MODEL_CONFIG_H
#define SHK_MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>

#include "file/gguf.h"

typedef enum shk_family {
    SHK_GEMMA, SHK_GEMMA2, SHK_GEMMA3, SHK_GEMMA3N, SHK_RECURRENT_GEMMA, SHK_NATIVE, SHK_FAMILY_COUNT
} shk_family;

typedef enum shk_mixer { SHK_MIXER_GLOBAL, SHK_MIXER_LOCAL, SHK_MIXER_SPARK, SHK_MIXER_RECURRENT, SHK_MIXER_COUNT } shk_mixer;
typedef enum shk_mlp { SHK_MLP_GATED, SHK_MLP_TOPK, SHK_MLP_SPARK, SHK_MLP_COUNT } shk_mlp;

typedef struct shk_layer_config {
    uint32_t mixer, mlp;  /* shk_mixer, shk_mlp */
    uint32_t window;      /* of a local mixer; 0 otherwise */
    uint32_t ffn;         /* neurons */
    double active;        /* target number of active neurons; 0: all */
    double rope_theta;    /* base of its rotary frequencies */
    double rope_scale;    /* positions are divided by this */
    uint32_t kv_layer;    /* whose keys and values it attends to: its own index, but for shared ones (Gemma 3n) */
} shk_layer_config;

typedef struct shk_config {
    shk_family family;
    const char *origin; /* the file it was read from, for messages; not owned */

    uint32_t vocab, hidden, n_layers, ffn, heads, kv_heads, head_dim, window, context;
    double eps, rope_theta, rope_theta_local, rope_scale, rope_fraction, q_scalar, attn_softcap, final_softcap;
    bool post_norms, tied, attn_bias;
    int32_t bos, eos, pad; /* -1: none */
    uint32_t std_ddof;

    uint32_t lru_width, lru_blocks, conv_width;                    /* recurrent */
    uint32_t ffn_rank, attn_rank;                                  /* spark: width of the predictors' input */
    double ffn_k, topk_k, attn_k;                                  /* targets of statistical top-k */
    uint32_t altup, altup_active, ple_dim, ple_vocab, laurel_rank; /* Gemma 3n */
    uint32_t kv_shared;                                            /* Gemma 3n: how many last layers share keys and values */

    shk_layer_config *layers; /* [n_layers] */
} shk_config;

/* One for each family. */
typedef struct shk_family_info {
    const char *model_type;      /* of config.json */
    const char *also;            /* another spelling, or NULL */
    const char *architecture;    /* config.json "architectures"; NULL: native */
    const char *gguf;            /* general.architecture */
    bool norm_minus_one;         /* safetensors store norm weights less 1 */
    bool embed_scale_bf16;       /* sqrt(hidden) is rounded to bf16 */
} shk_family_info;
extern const shk_family_info shk_families[SHK_FAMILY_COUNT];
extern const char *const shk_mixer_names[SHK_MIXER_COUNT]; /* "global", ... */
extern const char *const shk_mlp_names[SHK_MLP_COUNT];

/* From a parsed config.json, a config.json file, or a GGUF file's metadata. `origin` names the source in messages and must outlive
 * the config. Every field is checked against its range and against the others. shk_config_free releases it. */
shk_status shk_config_from_json(shk_config *c, const json_t *root, const char *origin, shk_error *err);
shk_status shk_config_read(shk_config *c, const char *path, shk_error *err);
shk_status shk_config_from_gguf(shk_config *c, const shk_gguf *g, shk_error *err);
void shk_config_free(shk_config *c); /* a zeroed one is allowed */

/* The other way: a config.json in the family's published layout, or GGUF metadata. NULL: no memory. */
json_t *shk_config_to_json(const shk_config *c, const char *dtype);
/* `ids`: also the special tokens' ids, which a tokenizer's metadata would give otherwise. */
void shk_config_to_gguf(const shk_config *c, shk_gguf_meta *m, bool ids);

/* Has any layer this kind of mixer, or of MLP? */
bool shk_config_uses(const shk_config *c, bool mlp, uint32_t kind);

/* Derives what the files leave implicit and checks the whole: used by the readers. */
shk_status shk_config_finish(shk_config *c, shk_error *err);
/* Dimensions of a head that the rotary embedding turns. */
uint32_t shk_config_rotated(const shk_config *c);
/* A list of n names repeated to n_layers: used by the readers. */
shk_status shk_config_kinds(shk_config *c, const char *field, const char *const *list, size_t n, bool mlps, shk_error *err);

#endif
