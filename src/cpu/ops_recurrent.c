/* Convolution, gates and RG-LRU: sequential over the tokens of a sequence; the convolution is parallel over sequences, the gates
 * over blocks, the RG-LRU over channels. */
#include <string.h>

#include "cpu/device.h"

static float *state_at(const shk_seq *s, size_t offset) { return (float *)(void *)(s->state + offset); }

typedef struct conv_args {
    shk_cpu *cpu;
    float *y;
    const float *x, *c, *b;
    const shk_pass *pass;
    size_t layer, w, taps;
} conv_args;

static void conv1d_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const conv_args *a = ctx;
    for (size_t i = begin; i < end; i++) {
        const shk_seq *s = &a->pass->seqs[i];
        float *tail = state_at(s, s->layers[a->layer].conv);
        if (s->pos == 0) memset(tail, 0, (a->taps - 1) * a->w * sizeof *tail);
        for (size_t t = s->row; t < s->row + s->n; t++)
            a->cpu->k.conv1d_step(a->y + t * a->w, tail, a->x + t * a->w, a->c, a->b, a->w, a->taps);
    }
}

void shk_cpu_conv1d(void *dev, float *y, const float *x, const float *c, const float *b, const shk_pass *pass, size_t layer,
                    size_t w, size_t taps) {
    shk_cpu *cpu = dev;
    conv_args args = { cpu, y, x, c, b, pass, layer, w, taps };
    shk_pool_run(cpu->pool, conv1d_range, &args, pass->n_seqs, 1);
    cpu->work.state_bytes += (double)(pass->n_seqs * (taps - 1) * w * sizeof(float));
}

typedef struct block_args {
    shk_cpu *cpu;
    float *y;
    const float *x;
    const shk_mat *W;
    const float *bias;
    size_t blocks;
} block_args;

static void block_linear_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const block_args *a = ctx;
    size_t in = a->W->rows / a->blocks, out = a->W->cols;
    for (size_t i = begin; i < end; i++) {
        size_t b = i % a->blocks;
        float *y = a->y + i * out;
        memcpy(y, a->bias + b * out, out * sizeof *y);
        a->cpu->k.axpy_rows[a->W->type](y, (const char *)a->W->data + b * in * a->W->stride, a->W->stride, NULL, a->x + i * in, in,
                                        out);
    }
}

void shk_cpu_block_linear(void *dev, float *y, const float *x, const shk_mat *W, const float *bias, size_t blocks, size_t T) {
    shk_cpu *cpu = dev;
    block_args args = { cpu, y, x, W, bias, blocks };
    shk_pool_run(cpu->pool, block_linear_range, &args, T * blocks, 1);
    shk_cpu_note(cpu, W, W->rows, T);
}

typedef struct rglru_args {
    shk_cpu *cpu;
    float *y;
    const float *x, *ia, *ra, *sl;
    const shk_pass *pass;
    size_t layer, w;
} rglru_args;

static void rglru_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rglru_args *a = ctx;
    for (size_t i = 0; i < a->pass->n_seqs; i++) {
        const shk_seq *s = &a->pass->seqs[i];
        float *h = state_at(s, s->layers[a->layer].h);
        for (size_t j = 0; j < s->n; j++) {
            size_t at = (s->row + j) * a->w + begin;
            a->cpu->k.rglru_step(a->y + at, h + begin, a->x + at, a->ia + at, a->ra + at, a->sl + begin, end - begin,
                                 s->pos + j == 0);
        }
    }
}

void shk_cpu_rglru(void *dev, float *y, const float *x, const float *ia, const float *ra, const float *sl, const shk_pass *pass,
                   size_t layer, size_t w) {
    shk_cpu *cpu = dev;
    rglru_args args = { cpu, y, x, ia, ra, sl, pass, layer, w };
    shk_pool_run(cpu->pool, rglru_range, &args, w, pass->T > 4 ? 64 : 1024);
    cpu->work.state_bytes += (double)(pass->n_seqs * w * sizeof(float));
}
