/* shk_init: random weights at any size, distributed as training starts from them (docs/MODEL.md; Griffin, sec. 2.4). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model/presets.h"
#include "model/write.h"

typedef struct random_source {
    const shk_config *c;
    uint64_t seed;
} random_source;

/* A value for each place, whatever order they are asked in. */
static uint64_t hash(uint64_t seed, uint64_t i) {
    uint64_t z = seed + i * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Nearly normal, variance 1: the sum of four uniform 16-bit numbers. */
static float normal(uint64_t h) {
    int32_t sum = (int32_t)(h & 0xffff) + (int32_t)(h >> 16 & 0xffff) + (int32_t)(h >> 32 & 0xffff) + (int32_t)(h >> 48);
    return (float)(sum - 2 * 0xffff) * (float)(1.7320508 / 65536);
}

static uint64_t slot_seed(const random_source *r, const shk_slot *s, int layer, int index) {
    char name[160];
    uint64_t h = r->seed;
    shk_slot_name(name, sizeof name, s, layer, index, NULL);
    for (const char *p = name; *p; p++) h = hash(h, (unsigned char)*p);
    return hash(h, (uint64_t)index);
}

static double scale_of(const random_source *r, const shk_slot *s, int layer, double fan_in) {
    bool out = layer >= 0 &&
               (s->at == offsetof(shk_layer, down) || s->at == offsetof(shk_layer, o) || s->at == offsetof(shk_layer, linear_out));
    if (s->role == SHK_ROLE_MAT && layer < 0 && s->dims[1] == DIM_PLE_ALL) fan_in = r->c->ple_dim;
    return out ? sqrt(2.0 / r->c->n_layers / fan_in) : sqrt(1.0 / fan_in);
}

static void rows(void *user, const shk_slot *s, int layer, int index, bool transposed, size_t row, size_t n, float *out) {
    const random_source *r = user;
    uint64_t shape[SHK_MAX_DIMS], seed = slot_seed(r, s, layer, index);
    unsigned dims = shk_slot_shape(s, r->c, layer, shape);
    size_t fan_in = (size_t)shape[dims - 1], cols = transposed ? (size_t)shape[0] : fan_in;
    float scale = (float)scale_of(r, s, layer, (double)fan_in);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < cols; j++)
            out[i * cols + j] = scale * normal(hash(seed, transposed ? j * fan_in + row + i : (row + i) * fan_in + j));
}

static void vector(void *user, const shk_slot *s, int layer, bool gguf, size_t n, float *out) {
    const random_source *r = user;
    uint64_t seed = slot_seed(r, s, layer, 0);
    bool minus_one = !gguf && shk_families[r->c->family].norm_minus_one;
    for (size_t i = 0; i < n; i++) {
        uint64_t h = hash(seed, i);
        if (s->role == SHK_ROLE_NORM) {
            out[i] = minus_one ? 0 : 1;
        } else if (s->role == SHK_ROLE_CONV) {
            out[i] = (float)sqrt(0.01 / 4) * normal(h);
        } else if (s->role == SHK_ROLE_LAMBDA) { /* a^2 uniform in [0.9^2, 0.999^2] */
            double a2 = 0.81 + (0.998001 - 0.81) * (double)(h >> 11) * 0x1p-53;
            out[i] = (float)log(expm1(-0.5 * log(a2)));
        } else {
            out[i] = s->at == offsetof(shk_layer, altup_scale) && layer >= 0 ? 1 : 0;
        }
    }
}

static const shk_mat *stored(void *user, const shk_slot *s, int layer, int index, bool transposed) {
    (void)user, (void)s, (void)layer, (void)index, (void)transposed;
    return NULL;
}

static shk_type type(void *user, const shk_slot *s, int layer) {
    (void)user, (void)s, (void)layer;
    return SHK_BF16;
}

static bool gguf_meta(void *user, shk_gguf_meta *out) {
    const random_source *r = user;
    shk_config_to_gguf(r->c, out, true);
    return true;
}

static shk_status directory(void *user, const char *dir, shk_error *err) {
    (void)user, (void)dir, (void)err;
    return SHK_OK;
}

shk_status shk_init(const char *what, const char *out, const char *to, uint64_t seed, shk_error *err) {
    shk_config c;
    bool found;
    shk_status st = shk_preset_read(&c, what, &found, err);
    if (!st && !found) st = shk_config_read(&c, what, err);
    if (st) return st;
    random_source r = { &c, hash(seed, 1) };
    shk_source source = { &r, rows, vector, stored, type, gguf_meta, directory };
    st = shk_model_write(&c, &source, out, &(shk_convert_options){ .type = to ? to : "bf16" }, err);
    shk_config_free(&c);
    return st;
}
