/* The weights of a model, and the one table of their names and shapes. */
#ifndef SHK_MODEL_WEIGHTS_H
#define SHK_MODEL_WEIGHTS_H

#include "file/tensors.h"
#include "model/config.h"
#include "ops.h"

enum { SHK_MAX_ALTUP = 16 };

/* Matrices are used where they lie in the file; vectors are f32 copies, norms with the 1 added. What a layer has not is NULL. */
typedef struct shk_layer {
    const float *pre_mixer_norm, *post_mixer_norm, *pre_mlp_norm, *post_mlp_norm; /* [d] */
    shk_mat q, k, v, o;                  /* [heads D, d] [kv D, d] [kv D, d] [d, heads D] */
    const float *o_bias;                 /* [d] */
    const float *q_norm, *k_norm;        /* [D] */
    shk_mat linear_x, linear_y;          /* [w, d] */
    shk_mat linear_out;                  /* [d, w] */
    shk_mat input_gate, recurrence_gate; /* [blocks * in, out] */
    const float *linear_x_bias, *linear_y_bias, *linear_out_bias, *input_gate_bias, *recurrence_gate_bias; /* [w], out: [d] */
    const float *conv;                   /* [taps, w]: the file has [w, taps] */
    const float *conv_bias;              /* [w] */
    const float *lambda;                 /* [w] softplus(lambda): the file has lambda */
    shk_mat gate, up;                    /* [f, d]; spark's up [f, d - r] */
    shk_mat predictor;                   /* [f, r] */
    shk_mat down;                        /* [d, f], or */
    shk_mat down_t;                      /* [f, d]: sparse kinds, where the file's type allows it */
    const float *gate_bias, *up_bias, *down_bias;
    /* Gemma 3n */
    shk_mat altup_router;                /* [n, d] */
    shk_mat altup_predict, altup_correct; /* [n n, n] [n, n] */
    const float *altup_router_norm, *altup_scale; /* [d] */
    shk_mat laurel_left, laurel_right;   /* [r, d] [d, r] */
    const float *laurel_norm;            /* [d] */
    shk_mat ple_gate, ple_proj;          /* [p, d] [d, p] */
    const float *ple_norm;               /* [d] */
} shk_layer;

typedef struct shk_weights {
    shk_mat embed;           /* [V, d] */
    shk_mat output;          /* [V, d]: embed where they are tied */
    const float *final_norm; /* [d] */
    shk_mat ple_embed;       /* [V', layers p] */
    shk_mat ple_model_proj;  /* [layers p, d] */
    const float *ple_proj_norm; /* [p] */
    shk_mat altup_proj[SHK_MAX_ALTUP - 1], altup_unembed[SHK_MAX_ALTUP - 1]; /* [d, d] */
    shk_layer *layers;
} shk_weights;

typedef enum shk_role {
    SHK_ROLE_MAT,    /* a matrix, of any type */
    SHK_ROLE_PLAIN,  /* a matrix that is never quantized: gates of the recurrence, and very small ones */
    SHK_ROLE_DOWN,   /* a matrix kept transposed for sparse kinds */
    SHK_ROLE_STACK,  /* altup - 1 square matrices; one tensor in GGUF */
    SHK_ROLE_VEC,    /* f32 copy */
    SHK_ROLE_NORM,   /* the same, stored less 1 by some families' safetensors */
    SHK_ROLE_CONV,   /* f32, taps first in memory */
    SHK_ROLE_LAMBDA  /* f32, kept as softplus(lambda) */
} shk_role;

typedef enum shk_dim {
    DIM_1, DIM_VOCAB, DIM_HIDDEN, DIM_FFN, DIM_Q, DIM_KV, DIM_HEAD, DIM_LRU, DIM_BLOCKS, DIM_BLOCK, DIM_TAPS, DIM_RANK, DIM_REST,
    DIM_ONE /* a 1 that other readers look for */, DIM_ALTUP, DIM_ALTUP2, DIM_LAUREL, DIM_PLE, DIM_PLE_ALL, DIM_PLE_VOCAB
} shk_dim;

typedef struct shk_slot {
    unsigned families;      /* bits 1 << shk_family */
    unsigned mixers, mlps;  /* bits of the kinds of layer that have it; both 0: the model itself */
    const char *hf;         /* name in safetensors after "model." (or whole, for "/name") and, for layers, "layers.N." */
    const char *gguf;       /* name in GGUF after, for layers, "blk.N." */
    size_t at;              /* offset in shk_layer or shk_weights: a shk_mat or a const float * */
    shk_role role;
    uint8_t dims[3];        /* shape, outermost first, padded with DIM_1 (0) */
    bool own_kv;            /* only in layers that make their own keys and values */
} shk_slot;

extern const shk_slot shk_slots[];
extern const size_t shk_n_slots;

/* Does the model (layer < 0) or its layer have this tensor? */
bool shk_slot_applies(const shk_slot *s, const shk_config *c, int layer);
/* Its shape, 1 past the dimensions that the table lists; returns their number (at least 1). */
unsigned shk_slot_shape(const shk_slot *s, const shk_config *c, int layer, uint64_t shape[SHK_MAX_DIMS]);
/* Its name in a file; `prefix` is what safetensors put before the names ("model."), NULL for GGUF. `index` counts in a stack. */
void shk_slot_name(char *buf, size_t size, const shk_slot *s, int layer, int index, const char *prefix);
/* The name of a sparse layer's transposed down projection in GGUF. */
#define SHK_DOWN_T "ffn_down_t.weight"
bool shk_layer_sparse(const shk_config *c, int layer);

/* Finds, checks and places every tensor. `prefix` as above. Copies come from the arena. */
shk_status shk_weights_load(shk_weights *w, const shk_config *c, const shk_tensors *t, const char *prefix, shk_arena *arena,
                            shk_error *err);

/* Has the device put what linear reads into its own form (ops.h, prepare). Sparse layers' gathered rows stay as they are. */
shk_status shk_weights_prepare(shk_weights *w, const shk_config *c, const shk_ops *ops, void *dev, shk_error *err);

/* Where safetensors of this model have their names: "model." or what multimodal checkpoints use. */
const char *shk_weights_prefix(const shk_tensors *t);

/* After a NaN in the results: names the first tensor with a value that is not finite. SHK_OK if there is none. */
shk_status shk_weights_check_finite(const shk_tensors *t, shk_error *err);

#endif
