/* A model for training: whole batches forward and backward through the train ops of a device (ops.h). */
#ifndef SHK_TRAIN_NET_H
#define SHK_TRAIN_NET_H

#include "train/params.h"

/* What a layer's forward leaves for its backward: device memory. */
typedef struct shk_acts {
    shk_act *mixer_in, *mixer_out, *mid; /* [N, d] normalised input, output before its norm, residual stream behind the mixer */
    shk_act *mlp_in, *mlp_out;           /* [N, d] */
    shk_act *q_raw, *k_raw;              /* [N, heads D], [N, kv D] before their norms, if they have any */
    shk_act *q, *k, *v, *o;              /* [N, heads D], [N, kv D] twice, [N, heads D] */
    float *lse;                          /* [N, heads] */
    shk_threshold *kept;                 /* [N, heads] */
    shk_act *branch, *line, *conv;       /* [N, w] before the GELU; linear_x's output; the convolution's */
    shk_act *ia, *ra, *h;                /* [N, w] */
    shk_act *s, *u;                      /* [N, f] */
    shk_threshold *active;               /* [N] */
} shk_acts;

/* Gradients, and what is made anew when it is needed. One set for all layers. */
typedef struct shk_scratch {
    shk_act *dx;                     /* [N, d] of the residual stream */
    shk_act *dy, *dn;                /* [N, d] of a slot's output, of its input */
    shk_act *dq, *dk, *dv, *dout;    /* as q, k, v, o */
    void *work;                      /* of attention */
    shk_act *gated, *dgated, *dbranch, *dline, *dia, *dra; /* [N, w] */
    shk_act *a, *da, *ds;            /* [N, f] a: s and u together */
    shk_act *last;                   /* [N, d] behind the final norm */
    shk_act *logits;                 /* [rows, V] */
    float *loss;                     /* [N] */
} shk_scratch;

typedef struct shk_net_options {
    size_t B, T;
    bool bf16;      /* products of bf16 factors */
    bool recompute; /* keep only the residual stream of each layer, and run each layer again before its backward */
    size_t shards;  /* the array of parameters is divisible by that many; 0: 1 */
} shk_net_options;

typedef struct shk_net {
    shk_model *m; /* its config, device and rotary frequencies */
    const shk_config *c;
    const shk_ops *ops;
    const shk_train_ops *t;
    void *dev;
    size_t act; /* bytes of a shk_act */
    shk_params params;
    float *w, *g; /* parameters and gradients, device memory */
    shk_weights W, G;
    shk_net_options options;
    size_t N, rows;     /* rows of a batch; of logits at once */
    shk_batch batch;
    float *ropes[SHK_MAX_ROPES]; /* [T, 2, half] */
    float *q_ropes[SHK_MAX_ROPES]; /* times the scale of queries, for heads that are rotated whole */
    char *stream;       /* [layers + 1, N, d] activations: the residual stream before each layer */
    shk_acts *acts;     /* [layers] */
    shk_scratch s;
    float *host_loss;   /* [N] */
    struct block { void *p; size_t bytes; } block, params_block; /* what was allocated */
} shk_net;

/* Takes m over, also on failure. */
shk_status shk_net_new(shk_net **out, shk_model *m, const shk_net_options *options, shk_error *err);
void shk_net_free(shk_net *n); /* NULL is allowed */

/* One batch: host arrays [B T], as shk_batch has them. *sum: of the losses of the rows that have a target. With `train`, the
 * gradients of scale * (sum + z_weight * sum of (log sum exp of the logits)^2) are added to n->g. */
shk_status shk_net_run(shk_net *n, const int32_t *tokens, const int32_t *targets, const int32_t *first, bool train, float z_weight,
                       float scale, double *sum, shk_error *err);
/* The same in two halves: a device of its own computes between them, and the caller may do something else. */
shk_status shk_net_start(shk_net *n, const int32_t *tokens, const int32_t *targets, const int32_t *first, bool train,
                         float z_weight, float scale, shk_error *err);
shk_status shk_net_finish(shk_net *n, double *sum, shk_error *err);

/* The p-th activation from x on. */
static inline shk_act *shk_act_at(const shk_net *n, const shk_act *x, size_t p) {
    return (shk_act *)(void *)((char *)x + p * n->act);
}

/* ---- the pieces: in, out, dy and din [N, d]; backward adds to n->G ---- */
void shk_net_attention(shk_net *n, uint32_t l, shk_act *out, const shk_act *in);
void shk_net_attention_grad(shk_net *n, uint32_t l, shk_act *din, const shk_act *dy, const shk_act *in);
void shk_net_recurrent(shk_net *n, uint32_t l, shk_act *out, const shk_act *in);
void shk_net_recurrent_grad(shk_net *n, uint32_t l, shk_act *din, const shk_act *dy, const shk_act *in);
void shk_net_mlp(shk_net *n, uint32_t l, shk_act *out, const shk_act *in);
void shk_net_mlp_grad(shk_net *n, uint32_t l, shk_act *din, const shk_act *dy, const shk_act *in);

/* The gradient that belongs to a parameter: G has the form of the weights, whose fields are read only. */
static inline float *shk_grad(const void *p) { return (float *)p; }

#endif
