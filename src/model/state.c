/* Where the parts of a session's state lie. */
#include "mem.h"
#include "model/model.h"

bool shk_config_unbounded(const shk_config *c) {
    for (uint32_t l = 0; l < c->n_layers; l++)
        if (c->layers[l].mixer == SHK_MIXER_GLOBAL || c->layers[l].mixer == SHK_MIXER_SPARK) return false;
    return true;
}

uint64_t shk_state_reach(const shk_config *c, uint64_t context) {
    uint64_t reach = shk_config_unbounded(c) ? 0 : context;
    for (uint32_t l = 0; l < c->n_layers; l++)
        if (c->layers[l].window > reach) reach = c->layers[l].window;
    return reach;
}

/* Slots of a layer's rings. Where other layers read them too, a whole pass is in them before the last reader's turn. */
static size_t ring_of(const shk_config *c, const shk_layer_config *l, uint64_t context) {
    if (!l->window) return (size_t)context;
    uint64_t ring = (uint64_t)l->window + (c->kv_shared ? SHK_PASS_ROWS : SHK_ATTENTION_CHUNK) - 1;
    return (size_t)(context && context < ring ? context : ring);
}

/* Takes space for rows of f32; false on overflow. */
static bool take(size_t *at, size_t *end, size_t heads, size_t rows, size_t dim) {
    size_t n;
    if (!shk_mul(&n, heads, rows) || !shk_mul(&n, n, dim) || !shk_mul(&n, n, sizeof(float)) || !shk_add(&n, n, 63)) return false;
    *at = *end;
    return shk_add(end, *end, n & ~(size_t)63);
}

size_t shk_state_layout(const shk_config *c, uint64_t context, shk_state_layer *layers) {
    size_t end = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const shk_layer_config *lc = &c->layers[l];
        shk_state_layer *s = &layers[l];
        *s = (shk_state_layer){ 0 };
        bool ok = true;
        if (lc->mixer == SHK_MIXER_RECURRENT) {
            ok = take(&s->h, &end, 1, 1, c->lru_width) && take(&s->conv, &end, 1, c->conv_width - 1, c->lru_width);
        } else if (lc->kv_layer == l) {
            size_t rank = lc->mixer == SHK_MIXER_SPARK ? c->attn_rank : c->head_dim;
            s->ring = ring_of(c, lc, context);
            ok = take(&s->k, &end, c->kv_heads, s->ring, rank) && take(&s->k2, &end, c->kv_heads, s->ring, c->head_dim - rank) &&
                 take(&s->v, &end, c->kv_heads, s->ring, c->head_dim);
        }
        if (!ok) return SIZE_MAX;
    }
    for (uint32_t l = 0; l < c->n_layers; l++)
        if (c->layers[l].kv_layer != l) layers[l] = layers[c->layers[l].kv_layer];
    return end;
}

size_t shk_state_regions(const shk_config *c, uint32_t l, const shk_state_layer *at, shk_region out[3]) {
    const shk_layer_config *lc = &c->layers[l];
    size_t f = sizeof(float);
    if (lc->mixer == SHK_MIXER_RECURRENT) {
        out[0] = (shk_region){ at->h, 1, 1, c->lru_width * f };
        out[1] = (shk_region){ at->conv, 1, 1, (size_t)(c->conv_width - 1) * c->lru_width * f };
        return 2;
    }
    if (lc->kv_layer != l) return 0;
    size_t rank = lc->mixer == SHK_MIXER_SPARK ? c->attn_rank : c->head_dim, n = 0;
    out[n++] = (shk_region){ at->k, c->kv_heads, at->ring, rank * f };
    if (rank < c->head_dim) out[n++] = (shk_region){ at->k2, c->kv_heads, at->ring, (c->head_dim - rank) * f };
    out[n++] = (shk_region){ at->v, c->kv_heads, at->ring, c->head_dim * f };
    return n;
}

uint64_t shk_state_bytes(const shk_config *c, uint64_t pos) {
    uint64_t total = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        shk_region r[3];
        shk_state_layer at = { .ring = ring_of(c, &c->layers[l], 0) };
        if (!at.ring) at.ring = SIZE_MAX; /* grows with the sequence */
        size_t n = shk_state_regions(c, l, &at, r);
        for (size_t i = 0; i < n; i++) total += r[i].heads * (uint64_t)(pos < r[i].rows ? pos : r[i].rows) * r[i].row_bytes;
    }
    return total;
}
