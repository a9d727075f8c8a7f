/* The feed-forward kinds: gated (Gemma), topk (Gemma 3n), spark (Spark Transformer, sec. 3). */
#include "model/model.h"

static void gated(shk_model *m, const shk_pass *pass, const shk_layer *w, float *y, const float *n) {
    const shk_buffers *b = &m->b;
    size_t d = m->config.hidden;
    m->ops->linear(m->dev, b->g, n, d, &w->gate, w->gate_bias, pass->T);
    m->ops->linear(m->dev, b->u, n, d, &w->up, w->up_bias, pass->T);
    m->ops->gelu_mul(m->dev, b->g, b->g, b->u, pass->T * w->gate.rows);
    m->ops->linear(m->dev, y, b->g, w->gate.rows, &w->down, w->down_bias, pass->T);
}

/* s = gate x over the whole input (topk), or predictor x over its first dims, the rest going to `up` (spark). */
static void sparse(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_buffers *b = &m->b;
    bool spark = c->layers[l].mlp == SHK_MLP_SPARK;
    const shk_mat *predictor = spark ? &w->predictor : &w->gate;
    const float *rest = spark ? n + c->ffn_rank : n;
    shk_sparsity how = { c->layers[l].active, c->std_ddof, m->dense };
    shk_active active = b->active;
    active.max = predictor->rows;

    m->ops->linear(m->dev, b->g, n, c->hidden, predictor, NULL, pass->T);
    m->ops->sparsify(m->dev, &active, b->g, pass->T, predictor->rows, &how);
    if (w->down_t.data) {
        m->ops->sparse_glu(m->dev, y, &active, rest, c->hidden, &w->up, &w->down_t, pass->T);
    } else {
        m->ops->sparse_up(m->dev, b->g, &active, rest, c->hidden, &w->up, pass->T);
        m->ops->linear(m->dev, y, b->g, predictor->rows, &w->down, NULL, pass->T);
    }
}

void shk_mlp_forward(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n) {
    if (m->config.layers[l].mlp == SHK_MLP_GATED) gated(m, pass, &m->weights.layers[l], y, n);
    else sparse(m, pass, l, y, n);
}
