/* Inside of shk_model: config, weights, device, and the buffers of a pass. */
#ifndef SHK_MODEL_MODEL_H
#define SHK_MODEL_MODEL_H

#include <pthread.h>

#include "model/weights.h"

enum { SHK_MAX_ROPES = 8 };

/* A set of rotary frequencies and its table for the current pass. Spark layers use two, one for each part of a head. */
typedef struct shk_rope {
    size_t half;
    double theta, scale;
    double *freq; /* [half] */
    float *table; /* [T, 2, half] */
} shk_rope;

/* Activations of a pass, device memory. T = SHK_PASS_ROWS; sizes are the largest of any layer. */
typedef struct shk_buffers {
    float *x;              /* [altup or 1, T, d] the residual stream */
    float *n, *y;          /* [T, d] normalised input, output of a slot */
    float *q, *k, *v, *o;  /* [T, heads D], [T, kv D] twice, [T, heads D] */
    float *rx, *ry, *gi, *ga; /* [T, w] */
    float *g, *u;          /* [T, f] */
    shk_active active;     /* [T, f] */
    uint32_t *kept;        /* [T, heads] */
    float *predicted;      /* [altup, T, d] and the rest for Gemma 3n */
    float *activated, *laurel; /* [T, d] */
    float *low;            /* [T, laurel rank] */
    float *routes, *coefs; /* [T, n], [T, n n] */
    float *ple, *ple_proj; /* [T, layers p] */
    float *ple_gate;       /* [T, p] */
    float *last, *logits;  /* [L, d], [L, V] for L rows of logits at once (shk_ops, logit_rows) */
    shk_choice *choice;    /* [L] */
} shk_buffers;

/* Counts of active units, kept while recording: one list a layer. */
typedef struct shk_counts {
    uint32_t *n;
    size_t used, room;
} shk_counts;

struct shk_model {
    shk_config config;
    shk_weights weights;
    shk_tensors tensors; /* of the directory; of the GGUF file they are gguf.tensors */
    shk_gguf gguf;
    char *path;
    bool is_gguf;
    shk_arena *arena;
    shk_tokenizer *tokenizer;
    const shk_ops *ops;
    void *dev;
    void *buffer_block;
    size_t buffer_bytes;
    shk_buffers b;
    shk_rope ropes[SHK_MAX_ROPES];
    size_t n_ropes;
    uint8_t (*layer_rope)[2]; /* [layers] indices into ropes */
    shk_type kv_type; /* of keys and values in sessions */
    bool dense, exact, prepared, coarsened, recording;
    shk_counts *ffn_counts, *attn_counts; /* [layers] */
    uint64_t fingerprint; /* of config and weights, for saved sessions */
    pthread_mutex_t lock; /* one pass at a time */
};

const shk_tensors *shk_model_tensors(const shk_model *m);

/* The weights in the device's own form, unless the model is `exact`. Done once, for the first session: who only looks into a model
 * does not wait for it. The caller holds the lock. */
shk_status shk_model_prepare(shk_model *m, shk_error *err);

/* The coarse copy of the output matrix, where it pays; for the first pass whose logits are wanted in part. */
shk_status shk_model_coarsen(shk_model *m, shk_error *err);
size_t shk_model_coarse_bytes(const shk_model *m); /* 0: it does not pay */

/* Where the results of an output row go: host memory, NULL where one is not asked for. */
typedef struct shk_output {
    float *logits;        /* [vocab] */
    shk_sampler *sampler; /* NULL, or what chooses the next token, */
    int32_t *sampled;     /* and where that goes */
    float *hidden; /* [d] behind the final norm */
    float *active; /* [layers] share of active FFN neurons, -1: all */
} shk_output;

/* One pass: updates the sequences' states and gives the results of its output rows, `out` [pass->n_outputs]. The caller holds the
 * lock. Fails only with SHK_E_NUMERIC, SHK_E_DEVICE, what a sampler says or, while recording, SHK_E_MEMORY. */
shk_status shk_model_forward(shk_model *m, const shk_pass *pass, const shk_output *out, shk_error *err);

/* ---- the pieces of forward: one file a kind. y, n [T, d]; l counts layers ---- */
void shk_mixer_attention(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n);
void shk_mixer_recurrent(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n);
void shk_mlp_forward(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n);
/* Gemma 3n: what comes before the first layer, a layer, what comes after the last. */
void shk_gemma3n_begin(shk_model *m, const shk_pass *pass);
void shk_gemma3n_layer(shk_model *m, const shk_pass *pass, uint32_t l);
void shk_gemma3n_end(shk_model *m, const shk_pass *pass);

/* ---- the state of a session, for session.c ---- */

char *shk_session_state(shk_session *s); /* device memory; a test looks into it */

/* ---- a sampler as forward sees it, in sample.c ---- */

int32_t shk_sampler_vocab(const shk_sampler *s);
/* The logits that it looks at. */
shk_wanted shk_sampler_wants(const shk_sampler *s);
/* What it would do next; valid until it is changed. */
shk_draw shk_sampler_draw(const shk_sampler *s);
/* The draw's random number was used. */
void shk_sampler_drew(shk_sampler *s);
/* [vocab] room for logits, which shk_sampler_sample may be called with. */
float *shk_sampler_room(shk_sampler *s);
/* shk_sampler_sample for logits that have the biases and penalties in them. */
shk_status shk_sampler_choose(shk_sampler *s, const float *logits, int32_t *id, shk_error *err);

/* Whether keys and values can be of the type: heads are whole blocks of it. */
shk_status shk_state_check(const shk_config *c, shk_type kv, const char *path, shk_error *err);
/* Places every layer's state for sequences of up to `context` tokens; returns the bytes in all, SIZE_MAX on overflow. */
size_t shk_state_layout(const shk_config *c, shk_type kv, uint64_t context, shk_state_layer *layers);

/* A block of a state: `heads` groups of `rows` rows of `dim` values. After pos tokens the first min(pos, rows) rows of each group
 * are filled. */
typedef struct shk_region {
    size_t offset;
    shk_type type;
    size_t heads, rows, dim;
} shk_region;
size_t shk_region_row_bytes(const shk_region *r);
/* The regions of a layer; returns how many. */
size_t shk_state_regions(const shk_config *c, uint32_t l, const shk_state_layer *at, shk_region out[3]);
/* Bytes that a state at `pos` fills. */
uint64_t shk_state_bytes(const shk_config *c, shk_type kv, uint64_t pos);
/* The widest span that attention looks back over: all of the context, or the largest window; 0 without attention. */
uint64_t shk_state_reach(const shk_config *c, uint64_t context);
bool shk_config_unbounded(const shk_config *c); /* no layer attends to everything */

#endif
