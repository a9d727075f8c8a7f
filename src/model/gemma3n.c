/* What Gemma 3n adds to the skeleton: AltUp (several streams, one of them computed on), LAuReL (a low-rank residual), and
 * embeddings that enter at each layer. As in the reference implementation of the published checkpoints. */
#include <math.h>

#include "model/model.h"

static float *stream(const shk_model *m, float *x, const shk_pass *pass, size_t i) { return x + i * pass->T * m->config.hidden; }

void shk_gemma3n_begin(shk_model *m, const shk_pass *pass) {
    const shk_config *c = &m->config;
    const shk_buffers *b = &m->b;
    size_t T = pass->T, d = c->hidden, all = (size_t)c->n_layers * c->ple_dim;

    /* per-layer inputs: embedding of the token (of token 0 for ids of other things than text, which the table has not), and a
     * projection of its main embedding */
    m->ops->embed(m->dev, b->ple, &m->weights.ple_embed, pass, (float)sqrt(c->ple_dim));
    m->ops->linear(m->dev, b->ple_proj, b->x, d, &m->weights.ple_model_proj, NULL, T);
    m->ops->scale(m->dev, b->ple_proj, T * all, (float)(1 / sqrt((double)d)));
    m->ops->rmsnorm(m->dev, b->ple_proj, b->ple_proj, m->weights.ple_proj_norm, T * c->n_layers, c->ple_dim, (float)c->eps);
    m->ops->add(m->dev, b->ple, b->ple_proj, T * all);
    m->ops->scale(m->dev, b->ple, T * all, (float)M_SQRT1_2);

    for (size_t i = 1; i < c->altup; i++) {
        m->ops->linear(m->dev, stream(m, b->x, pass, i), b->x, d, &m->weights.altup_proj[i - 1], NULL, T);
        m->ops->match_rms(m->dev, stream(m, b->x, pass, i), b->x, T, d);
    }
}

/* tanh(router(norm(x) / d)): how much each stream takes part. */
static void route(shk_model *m, const shk_pass *pass, const shk_layer *w, const float *x) {
    const shk_config *c = &m->config;
    const shk_buffers *b = &m->b;
    m->ops->rmsnorm(m->dev, b->y, x, w->altup_router_norm, pass->T, c->hidden, (float)c->eps);
    m->ops->scale(m->dev, b->y, pass->T * c->hidden, 1.0f / (float)c->hidden);
    m->ops->linear(m->dev, b->routes, b->y, c->hidden, &w->altup_router, NULL, pass->T);
    m->ops->tanh(m->dev, b->routes, b->routes, pass->T * c->altup);
}

/* activated = the active stream after attention, LAuReL and feed-forward. */
static void compute(shk_model *m, const shk_pass *pass, uint32_t l, const float *active) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_buffers *b = &m->b;
    size_t T = pass->T, d = c->hidden;
    float eps = (float)c->eps, *a = b->activated;

    m->ops->rmsnorm(m->dev, b->n, active, w->pre_mixer_norm, T, d, eps);
    m->ops->linear(m->dev, b->low, b->n, d, &w->laurel_left, NULL, T);
    m->ops->linear(m->dev, b->laurel, b->low, c->laurel_rank, &w->laurel_right, NULL, T);
    m->ops->rmsnorm(m->dev, b->laurel, b->laurel, w->laurel_norm, T, d, eps);
    m->ops->add(m->dev, b->laurel, b->n, T * d);

    shk_mixer_attention(m, pass, l, b->y, b->n);
    m->ops->rmsnorm(m->dev, a, b->y, w->post_mixer_norm, T, d, eps);
    m->ops->add(m->dev, a, active, T * d);
    m->ops->add(m->dev, a, b->laurel, T * d);
    m->ops->scale(m->dev, a, T * d, (float)M_SQRT1_2);

    m->ops->rmsnorm(m->dev, b->n, a, w->pre_mlp_norm, T, d, eps);
    shk_mlp_forward(m, pass, l, b->y, b->n);
    m->ops->rmsnorm(m->dev, b->y, b->y, w->post_mlp_norm, T, d, eps);
    m->ops->add(m->dev, a, b->y, T * d);
}

void shk_gemma3n_layer(shk_model *m, const shk_pass *pass, uint32_t l) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    shk_buffers *b = &m->b;
    size_t T = pass->T, d = c->hidden, p = c->ple_dim;

    route(m, pass, w, stream(m, b->x, pass, c->altup_active));
    m->ops->linear(m->dev, b->coefs, b->routes, c->altup, &w->altup_predict, NULL, T);
    m->ops->altup_predict(m->dev, b->predicted, b->x, b->coefs, c->altup, T, d);
    compute(m, pass, l, stream(m, b->predicted, pass, c->altup_active));
    route(m, pass, w, b->activated);
    m->ops->linear(m->dev, b->coefs, b->routes, c->altup, &w->altup_correct, NULL, T);
    m->ops->altup_correct(m->dev, b->predicted, b->activated, b->coefs, c->altup_active, c->altup, T, d);

    /* the layer's own embedding goes to all streams but the first */
    m->ops->mul_rows(m->dev, b->n, stream(m, b->predicted, pass, c->altup_active), w->altup_scale, T, d);
    m->ops->linear(m->dev, b->ple_gate, b->n, d, &w->ple_gate, NULL, T);
    m->ops->slice(m->dev, b->ple_proj, b->ple, T, (size_t)c->n_layers * p, l * p, p);
    m->ops->gelu_mul(m->dev, b->ple_gate, b->ple_gate, b->ple_proj, T * p);
    m->ops->linear(m->dev, b->y, b->ple_gate, p, &w->ple_proj, NULL, T);
    m->ops->rmsnorm(m->dev, b->y, b->y, w->ple_norm, T, d, (float)c->eps);
    for (size_t i = 1; i < c->altup; i++) m->ops->add(m->dev, stream(m, b->predicted, pass, i), b->y, T * d);

    float *t = b->x;
    b->x = b->predicted;
    b->predicted = t;
}

void shk_gemma3n_end(shk_model *m, const shk_pass *pass) {
    const shk_config *c = &m->config;
    const shk_buffers *b = &m->b;
    size_t T = pass->T, d = c->hidden;
    for (size_t i = 1; i < c->altup; i++) {
        float *unembedded = stream(m, b->predicted, pass, i);
        m->ops->linear(m->dev, unembedded, stream(m, b->x, pass, i), d, &m->weights.altup_unembed[i - 1], NULL, T);
        m->ops->match_rms(m->dev, unembedded, b->x, T, d);
    }
    for (size_t i = 1; i < c->altup; i++) m->ops->add(m->dev, b->x, stream(m, b->predicted, pass, i), T * d);
    m->ops->scale(m->dev, b->x, T * d, 1.0f / (float)c->altup);
}
