/* One pass of tokens through a model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model/model.h"

static shk_status append(shk_counts *to, const uint32_t *n, size_t count, shk_error *err) {
    if (to->used + count > to->room) {
        size_t room = to->room * 2 + count;
        uint32_t *grown = shk_realloc(to->n, room, sizeof *grown);
        if (!grown) return shk_fail(err, SHK_E_MEMORY, "no memory to record active units");
        to->n = grown;
        to->room = room;
    }
    for (size_t i = 0; i < count; i++) to->n[to->used++] = n[i];
    return SHK_OK;
}

static shk_status record(shk_model *m, const shk_pass *pass, uint32_t l, shk_error *err) {
    uint32_t n[1024]; /* rows of a pass, or the most heads that a config may have */
    const shk_layer_config *lc = &m->config.layers[l];
    shk_status st = SHK_OK;
    if (lc->mlp != SHK_MLP_GATED) {
        m->ops->download(m->dev, n, m->b.active.n, pass->T * sizeof *n);
        st = append(&m->ffn_counts[l], n, pass->T, err);
    }
    for (size_t t = 0, heads = m->config.heads; !st && lc->mixer == SHK_MIXER_SPARK && t < pass->T; t++) {
        m->ops->download(m->dev, n, m->b.kept + t * heads, heads * sizeof *n);
        st = append(&m->attn_counts[l], n, heads, err);
    }
    return st;
}

/* The share of layer l's neurons that was active at the output rows that ask for it. */
static void share_active(const shk_model *m, const shk_pass *pass, uint32_t l, const shk_output *out) {
    const shk_layer_config *lc = &m->config.layers[l];
    for (size_t i = 0; i < pass->n_outputs; i++) {
        uint32_t n;
        if (!out[i].active) continue;
        out[i].active[l] = -1;
        if (lc->mlp == SHK_MLP_GATED) continue;
        m->ops->download(m->dev, &n, m->b.active.n + pass->outputs[i], sizeof n);
        out[i].active[l] = (float)n / (float)lc->ffn;
    }
}

static void layer(shk_model *m, const shk_pass *pass, uint32_t l) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_buffers *b = &m->b;
    size_t T = pass->T, d = c->hidden;
    float eps = (float)c->eps;

    m->ops->rmsnorm(m->dev, b->n, b->x, w->pre_mixer_norm, T, d, eps);
    if (c->layers[l].mixer == SHK_MIXER_RECURRENT) shk_mixer_recurrent(m, pass, l, b->y, b->n);
    else shk_mixer_attention(m, pass, l, b->y, b->n);
    if (w->post_mixer_norm) m->ops->rmsnorm(m->dev, b->y, b->y, w->post_mixer_norm, T, d, eps);
    m->ops->add(m->dev, b->x, b->y, T * d);

    m->ops->rmsnorm(m->dev, b->n, b->x, w->pre_mlp_norm, T, d, eps);
    shk_mlp_forward(m, pass, l, b->y, b->n);
    if (w->post_mlp_norm) m->ops->rmsnorm(m->dev, b->y, b->y, w->post_mlp_norm, T, d, eps);
    m->ops->add(m->dev, b->x, b->y, T * d);
}

/* What the output rows [from, from + n) ask for, and the choices of a device that makes them. true: no logits but those that are
 * wanted, which are finite. */
static bool head(shk_model *m, const shk_pass *pass, const shk_output *out, size_t from, size_t n) {
    const shk_config *c = &m->config;
    const shk_buffers *b = &m->b;
    const shk_mat *W = &m->weights.output;
    float cap = (float)c->final_softcap;
    shk_wanted wanted[SHK_PASS_ROWS];
    bool some = W->coarse != NULL, any = false;
    for (size_t i = 0; i < n; i++) {
        const shk_output *o = &out[from + i];
        wanted[i] = o->logits ? (shk_wanted){ 0 } : o->sampler ? shk_sampler_wants(o->sampler) : (shk_wanted){ 1, 0 };
        some &= wanted[i].k > 0;
        any |= o->logits || o->sampler;
    }
    m->ops->gather(m->dev, b->last, b->x, pass, from, n, c->hidden);
    m->ops->rmsnorm(m->dev, b->last, b->last, m->weights.final_norm, n, c->hidden, (float)c->eps);
    if (!any) return true;
    if (some && m->ops->linear_best(m->dev, b->logits, b->last, W, cap, wanted, n)) return true;
    m->ops->linear(m->dev, b->logits, b->last, c->hidden, W, NULL, n);
    if (cap > 0) m->ops->softcap(m->dev, b->logits, n * c->vocab, cap);
    if (m->ops->sample) m->ops->sample(m->dev, b->choice, b->logits, pass, from, n, c->vocab);
    return false;
}

static bool all_finite(const float *v, size_t n) {
    enum { LANES = 16 };      /* sums that do not wait for each other */
    float sum[LANES] = { 0 }; /* a NaN or an infinity makes one a NaN */
    size_t i = 0;
    bool finite = true;
    for (; n - i >= LANES; i += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += v[i + (size_t)j] * 0.0f;
    for (; i < n; i++) sum[0] += v[i] * 0.0f;
    for (int j = 0; j < LANES; j++) finite &= sum[j] == 0.0f;
    return finite;
}

/* What each of n output rows says to a device that chooses, and which of them are chosen there (`there`): those whose logits nobody
 * else wants, as far as it has room for their biases. */
static void describe_draws(const shk_model *m, const shk_output *out, size_t n, shk_draw *draws, bool *there) {
    size_t room = SHK_DRAW_BIASES;
    for (size_t i = 0; i < n; i++) {
        draws[i] = (shk_draw){ 0 };
        there[i] = false;
        if (!m->ops->sample || !out[i].sampler || out[i].logits) continue;
        shk_draw d = shk_sampler_draw(out[i].sampler);
        if (d.n_bias > room || d.n_recent > room - d.n_bias) continue;
        if (d.top_k > SHK_DRAW_TOP_K && (uint32_t)d.top_k < m->config.vocab) continue;
        room -= d.n_bias + d.n_recent;
        draws[i] = d;
        there[i] = true;
    }
}

/* Row i's token. c: what the device has found in the row, NULL if it is the host's. */
static shk_status choose(shk_model *m, const shk_output *out, size_t i, const shk_choice *c, bool there, shk_error *err) {
    shk_sampler *s = out->sampler;
    size_t vocab = m->config.vocab;
    const float *logits = m->b.logits + i * vocab;
    if (there && c->id >= 0) {
        *out->sampled = c->id;
        if (c->drawn) shk_sampler_drew(s);
        return SHK_OK;
    }
    if (out->logits) {
        logits = out->logits;
    } else if (c) {
        m->ops->download(m->dev, shk_sampler_room(s), logits, vocab * sizeof *logits);
        logits = shk_sampler_room(s);
    }
    return (there ? shk_sampler_choose : shk_sampler_sample)(s, logits, out->sampled, err);
}

/* Gives n rows to whom they belong. `some`: what `head` has said; `there`: what the device has chosen. */
static shk_status deliver(shk_model *m, const shk_output *out, size_t n, bool some, const bool *there, shk_error *err) {
    shk_choice found[SHK_PASS_ROWS] = { 0 }; /* nothing finite, should the download fail */
    size_t d = m->config.hidden, vocab = m->config.vocab;
    const shk_choice *c = m->ops->sample ? found : NULL;
    bool finite = true, more = false; /* was read after the choices */
    shk_status st = SHK_OK;
    if (c) m->ops->download(m->dev, found, m->b.choice, n * sizeof *found);
    for (size_t i = 0; finite && i < n; i++) {
        const float *logits = m->b.logits + i * vocab;
        if (out[i].hidden) m->ops->download(m->dev, out[i].hidden, m->b.last + i * d, d * sizeof *out[i].hidden);
        if (out[i].hidden) finite = all_finite(out[i].hidden, d);
        if (out[i].logits) m->ops->download(m->dev, out[i].logits, logits, vocab * sizeof *logits);
        more |= out[i].hidden || out[i].logits;
        if (out[i].logits || out[i].sampler) finite &= c ? c[i].finite == 1 : some || all_finite(logits, vocab);
    }
    for (size_t i = 0; finite && i < n; i++) { /* one that has no choice does not keep others from theirs */
        if (!out[i].sampler) continue;
        more |= c && (!there[i] || c[i].id < 0);
        shk_status one = choose(m, &out[i], i, c ? &c[i] : NULL, there[i], st ? NULL : err);
        if (one) *out[i].sampled = -1;
        if (!st) st = one;
    }
    if (finite && !st && more) return m->ops->end(m->dev, true, err);
    if (finite) return st;
    st = m->ops->end(m->dev, true, err); /* it may be the device that has failed */
    if (!st) st = shk_weights_check_finite(shk_model_tensors(m), err);
    return st ? st : shk_fail(err, SHK_E_NUMERIC, "%s: the logits are not finite", m->path);
}

static shk_status body(shk_model *m, const shk_pass *pass, const shk_output *out, shk_error *err) {
    const shk_config *c = &m->config;
    bool altup = c->family == SHK_GEMMA3N;
    double scale = sqrt((double)c->hidden);
    if (shk_families[c->family].embed_scale_bf16) scale = shk_bf16_to_f32(shk_f32_to_bf16((float)scale));

    m->ops->embed(m->dev, m->b.x, &m->weights.embed, pass, (float)scale);
    for (size_t i = 0; i < m->n_ropes; i++) m->ops->rope_table(m->dev, m->ropes[i].table, m->ropes[i].freq, m->ropes[i].half, pass);
    if (altup) shk_gemma3n_begin(m, pass);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (altup) shk_gemma3n_layer(m, pass, l);
        else layer(m, pass, l);
        share_active(m, pass, l, out);
        shk_status st = m->recording ? record(m, pass, l, err) : SHK_OK;
        if (st) return st;
    }
    if (altup && pass->n_outputs) shk_gemma3n_end(m, pass);
    return SHK_OK;
}

shk_status shk_model_forward(shk_model *m, const shk_pass *tokens, const shk_output *out, shk_error *err) {
    shk_pass with_draws = *tokens, *pass = &with_draws;
    shk_draw draws[SHK_PASS_ROWS];
    bool there[SHK_PASS_ROWS];
    size_t n = pass->n_outputs, step = m->ops->logit_rows;
    shk_status st = SHK_OK;
    bool some = false;          /* of the logits are known */
    bool usual = !m->recording; /* a pass whose ops a device may have seen before */
    describe_draws(m, out, n, draws, there);
    pass->draws = draws;
    for (size_t i = 0; i < n; i++) usual &= !out[i].hidden && !out[i].active;
    if (!m->ops->begin(m->dev, pass, m->config.n_layers, usual)) {
        st = body(m, pass, out, err);
        if (!st && n) some = head(m, pass, out, 0, n < step ? n : step);
    }
    bool queued = m->ops->sample && usual; /* the first thing that is waited for is the choices, behind the pass */
    shk_status ended = m->ops->end(m->dev, n > 0 && !queued, st ? NULL : err);
    if (!st) st = ended;
    for (size_t i = 0; !st && i < n; i += step) {
        size_t rows = n - i < step ? n - i : step;
        if (i) some = head(m, pass, out, i, rows);
        st = deliver(m, out + i, rows, some, there + i, err);
    }
    return st;
}
