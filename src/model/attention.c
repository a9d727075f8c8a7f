/* Global, local and spark attention (docs/MODEL.md; Spark Transformer, sec. 4; Griffin, sec. 2.3). */
#include <math.h>

#include "model/model.h"

static void rope(shk_model *m, const shk_pass *pass, uint32_t l, float *x, size_t heads) {
    const shk_config *c = &m->config;
    bool spark = c->layers[l].mixer == SHK_MIXER_SPARK;
    for (int part = 0; part < (spark ? 2 : 1); part++) {
        const shk_rope *r = &m->ropes[m->layer_rope[l][part]];
        m->ops->rope(m->dev, x, r->table, r->half, pass->T, heads, c->head_dim, part ? c->attn_rank : 0);
    }
}

/* In three stages, the products first: they read the same input, of which a device may make use. */
static void projections(shk_model *m, const shk_pass *pass, uint32_t l, const float *n, bool new_keys) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_buffers *b = &m->b;
    size_t T = pass->T, D = c->head_dim;
    float eps = (float)c->eps;
    m->ops->linear(m->dev, b->q, n, c->hidden, &w->q, NULL, T);
    if (new_keys) {
        m->ops->linear(m->dev, b->k, n, c->hidden, &w->k, NULL, T);
        m->ops->linear(m->dev, b->v, n, c->hidden, &w->v, NULL, T);
    }
    if (w->q_norm) m->ops->rmsnorm(m->dev, b->q, b->q, w->q_norm, T * c->heads, D, eps);
    if (new_keys && w->k_norm) m->ops->rmsnorm(m->dev, b->k, b->k, w->k_norm, T * c->kv_heads, D, eps);
    if (new_keys && c->family == SHK_GEMMA3N) m->ops->rmsnorm(m->dev, b->v, b->v, NULL, T * c->kv_heads, D, eps);
    m->ops->scale(m->dev, b->q, T * w->q.rows, (float)(1 / sqrt(c->q_scalar)));
    rope(m, pass, l, b->q, c->heads);
    if (new_keys) rope(m, pass, l, b->k, c->kv_heads);
}

void shk_mixer_attention(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_layer_config *lc = &c->layers[l];
    shk_attention a = { .heads = c->heads,
                        .kv_heads = c->kv_heads,
                        .head_dim = c->head_dim,
                        .window = lc->window,
                        .softcap = (float)c->attn_softcap,
                        .layer = lc->kv_layer,
                        .write = lc->kv_layer == l };

    projections(m, pass, l, n, a.write);
    if (lc->mixer == SHK_MIXER_SPARK) {
        a.rank = c->attn_rank;
        a.k = c->attn_k;
        a.ddof = c->std_ddof;
        m->ops->spark_attention(m->dev, m->b.o, m->b.kept, m->b.q, m->b.k, m->b.v, pass, &a);
    } else {
        m->ops->attention(m->dev, m->b.o, m->b.q, m->b.k, m->b.v, pass, &a);
    }
    m->ops->linear(m->dev, y, m->b.o, w->o.cols, &w->o, w->o_bias, pass->T);
}
