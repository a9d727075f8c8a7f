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

/* Slots of a layer's rings: the window of a pass's first token when the last one is in. */
static size_t ring_of(const shk_layer_config *l, uint64_t context) {
    if (!l->window) return (size_t)context;
    uint64_t ring = (uint64_t)l->window + SHK_PASS_ROWS - 1 + SHK_ATTENTION_CHUNK - 1;
    ring -= ring % SHK_ATTENTION_CHUNK;
    return (size_t)(context && context < ring ? context : ring);
}

/* Dims of a key's first part: all of it but for spark attention. */
static size_t first_part(const shk_config *c, uint32_t l) {
    return c->layers[l].mixer == SHK_MIXER_SPARK ? c->attn_rank : c->head_dim;
}

shk_status shk_state_check(const shk_config *c, shk_type kv, const char *path, shk_error *err) {
    for (uint32_t l = 0; l < c->n_layers; l++) {
        size_t part = first_part(c, l), bytes;
        if (c->layers[l].mixer == SHK_MIXER_RECURRENT) continue;
        if (!shk_row_bytes(kv, part, &bytes) || !shk_row_bytes(kv, c->head_dim - part, &bytes))
            return shk_fail(err, SHK_E_UNSUPPORTED, "%s: layer %u: keys of %zu and %zu values are no whole blocks of %s", path, l,
                            part, c->head_dim - part, shk_type_of(kv)->name);
    }
    return SHK_OK;
}

/* Takes space for rows of a type; false on overflow. */
static bool take(size_t *at, size_t *end, shk_type type, size_t heads, size_t rows, size_t dim) {
    size_t row, n;
    if (!shk_row_bytes(type, dim, &row) || !shk_mul(&n, heads, rows) || !shk_mul(&n, n, row) || !shk_add(&n, n, 63)) return false;
    *at = *end;
    return shk_add(end, *end, n & ~(size_t)63);
}

size_t shk_state_layout(const shk_config *c, shk_type kv, uint64_t context, shk_state_layer *layers) {
    size_t end = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const shk_layer_config *lc = &c->layers[l];
        shk_state_layer *s = &layers[l];
        *s = (shk_state_layer){ .type = kv };
        bool ok = true;
        if (lc->mixer == SHK_MIXER_RECURRENT) {
            ok =
                take(&s->h, &end, SHK_F32, 1, 1, c->lru_width) && take(&s->conv, &end, SHK_F32, 1, c->conv_width - 1, c->lru_width);
        } else if (lc->kv_layer == l) {
            size_t part = first_part(c, l);
            s->ring = ring_of(lc, context);
            ok = take(&s->k, &end, kv, c->kv_heads, s->ring, part) &&
                 take(&s->k2, &end, kv, c->kv_heads, s->ring, c->head_dim - part) &&
                 take(&s->v, &end, kv, c->kv_heads, s->ring, c->head_dim);
        }
        if (!ok) return SIZE_MAX;
    }
    for (uint32_t l = 0; l < c->n_layers; l++)
        if (c->layers[l].kv_layer != l) layers[l] = layers[c->layers[l].kv_layer];
    return end;
}

size_t shk_region_row_bytes(const shk_region *r) {
    size_t n = 0;
    shk_row_bytes(r->type, r->dim, &n); /* held when the state was laid out */
    return n;
}

size_t shk_state_regions(const shk_config *c, uint32_t l, const shk_state_layer *at, shk_region out[3]) {
    const shk_layer_config *lc = &c->layers[l];
    if (lc->mixer == SHK_MIXER_RECURRENT) {
        out[0] = (shk_region){ at->h, SHK_F32, 1, 1, c->lru_width };
        out[1] = (shk_region){ at->conv, SHK_F32, 1, 1, (size_t)(c->conv_width - 1) * c->lru_width };
        return 2;
    }
    if (lc->kv_layer != l) return 0;
    size_t part = first_part(c, l), n = 0;
    out[n++] = (shk_region){ at->k, at->type, c->kv_heads, at->ring, part };
    if (part < c->head_dim) out[n++] = (shk_region){ at->k2, at->type, c->kv_heads, at->ring, c->head_dim - part };
    out[n++] = (shk_region){ at->v, at->type, c->kv_heads, at->ring, c->head_dim };
    return n;
}

uint64_t shk_state_bytes(const shk_config *c, shk_type kv, uint64_t pos) {
    uint64_t total = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        shk_region r[3];
        shk_state_layer at = { .type = kv, .ring = ring_of(&c->layers[l], 0) };
        if (!at.ring) at.ring = SIZE_MAX; /* grows with the sequence */
        size_t n = shk_state_regions(c, l, &at, r);
        for (size_t i = 0; i < n; i++)
            total += r[i].heads * (uint64_t)(pos < r[i].rows ? pos : r[i].rows) * shk_region_row_bytes(&r[i]);
    }
    return total;
}
