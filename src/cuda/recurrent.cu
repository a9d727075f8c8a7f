/* Convolution, gates and RG-LRU. A block takes some channels of a sequence. */
#include "cuda/weights.cuh"

enum { CHANNELS = 64, TIMES = 8, CHANNEL_THREADS = CHANNELS * TIMES, SCAN = 32 };

__global__ void __launch_bounds__(CHANNEL_THREADS)
    conv1d(float *y, const float *x, const float *c, const float *b, const pass_info *pass, size_t layer, size_t w, size_t taps,
           device_work *work) {
    let_next_start();
    size_t i = blockIdx.x * (size_t)CHANNELS + threadIdx.x % CHANNELS, time = threadIdx.x / CHANNELS;
    const pass_seq *s = &pass->seqs[blockIdx.y];
    float *tail = (float *)(void *)(s->state + s->layers[layer].conv);
    const float *in = x + s->row * w;
    size_t past = taps - 1, n = s->n;
    bool first = s->pos == 0, exists = i < w;
    wait_for_previous();
    for (size_t t = time; exists && t < n; t += TIMES) {
        float sum = b[i];
        for (size_t k = 0; k < taps; k++) {
            float v = t + k >= past ? in[(t + k - past) * w + i] : first ? 0.0f : tail[(t + k) * w + i];
            sum = fmaf(v, c[k * w + i], sum);
        }
        y[(s->row + t) * w + i] = sum;
    }
    __syncthreads();
    if (time || !exists) return;
    for (size_t k = 0; k < past; k++) /* upwards: what is read lies ahead of what is written */
        tail[k * w + i] = n + k >= past ? in[(n + k - past) * w + i] : first ? 0.0f : tail[(n + k) * w + i];
    if (!i) atomicAdd(&work->state_bytes, (unsigned long long)(past * w * sizeof(float)));
}

static __device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* SCAN tokens at a time: what does not depend on the state by all threads, then a thread goes through a channel's. */
__global__ void __launch_bounds__(CHANNEL_THREADS)
    rglru(float *y, const float *x, const float *ia, const float *ra, const float *sl, const pass_info *pass, size_t layer,
          size_t w, device_work *work) {
    __shared__ float a[SCAN][CHANNELS], in[SCAN][CHANNELS];
    let_next_start();
    size_t i = blockIdx.x * (size_t)CHANNELS + threadIdx.x % CHANNELS;
    unsigned channel = threadIdx.x % CHANNELS, time = threadIdx.x / CHANNELS;
    const pass_seq *s = &pass->seqs[blockIdx.y];
    float *state = (float *)(void *)(s->state + s->layers[layer].h);
    bool exists = i < w;
    float lambda = exists ? sl[i] : 0;
    wait_for_previous();
    float h = exists && !time ? state[i] : 0;
    for (size_t t0 = 0; t0 < s->n; t0 += SCAN) {
        unsigned n = s->n - t0 < SCAN ? (unsigned)(s->n - t0) : SCAN;
        for (unsigned t = time; exists && t < n; t += TIMES) {
            size_t at = (s->row + t0 + t) * w + i;
            float log_a = -8 * sigmoid(ra[at]) * lambda, gated = sigmoid(ia[at]) * x[at];
            bool first = s->pos + t0 + t == 0;
            a[t][channel] = first ? 0.0f : expf(log_a);
            in[t][channel] = first ? gated : sqrtf(-expm1f(2 * log_a)) * gated;
        }
        __syncthreads();
        for (unsigned t = 0; exists && !time && t < n; t++) {
            h = s->pos + t0 + t == 0 ? in[t][channel] : fmaf(a[t][channel], h, in[t][channel]); /* h may be anything at first */
            y[(s->row + t0 + t) * w + i] = h;
        }
        __syncthreads();
    }
    if (!exists || time) return;
    state[i] = h;
    if (!i) atomicAdd(&work->state_bytes, (unsigned long long)(w * sizeof(float)));
}

/* A block of threads takes 64 outputs of a diagonal block, eight to a thread; 32 threads share the inputs of each eight. */
enum { GATE_OUTS = 64 };

template <format F>
__global__ void __launch_bounds__(GATE_OUTS / 8 * 32)
    block_linear(float *y, const float *x, const char *W, size_t stride, size_t padded, const float *bias, size_t in, size_t out) {
    __shared__ float sums[32][GATE_OUTS + 1];
    unsigned outs = threadIdx.x % 8, part = threadIdx.x / 8;
    size_t o = blockIdx.x * (size_t)GATE_OUTS + outs * 8, b = blockIdx.y, blocks = gridDim.y, t = blockIdx.z;
    in_turn();
    x += (t * blocks + b) * in;
    float sum[8] = {};
    if (o < padded)
        for (size_t i = part; i < in; i += 32) {
            float v[8];
            load8<F>(v, W + (b * in + i) * stride, padded, o);
            for (int j = 0; j < 8; j++) sum[j] = fmaf(v[j], x[i], sum[j]);
        }
    for (int j = 0; j < 8; j++) sums[part][outs * 8 + j] = sum[j];
    __syncthreads();
    size_t mine = blockIdx.x * (size_t)GATE_OUTS + threadIdx.x;
    if (threadIdx.x >= GATE_OUTS || mine >= out) return;
    float total = bias[b * out + mine];
    for (unsigned p = 0; p < 32; p++) total += sums[p][threadIdx.x];
    y[(t * blocks + b) * out + mine] = total;
}

size_t cuda_run_conv1d(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, conv1d, dim3(blocks_for(op->n[1], CHANNELS), cu->n_seqs), CHANNEL_THREADS, 0, op->y, op->x, op->a, op->b, cu->pass,
           op->n[0], op->n[1], op->n[2], cu->counted);
    return 1;
}

size_t cuda_run_rglru(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, rglru, dim3(blocks_for(op->n[1], CHANNELS), cu->n_seqs), CHANNEL_THREADS, 0, op->y, op->x, op->a, op->b, op->c,
           cu->pass, op->n[0], op->n[1], cu->counted);
    return 1;
}

size_t cuda_run_block_linear(shk_cuda *cu, const cuda_op *op, size_t) {
    const shk_mat *W = &op->W;
    size_t blocks = op->n[0], in = W->rows / blocks;
    dim3 grid(blocks_for(W->cols, GATE_OUTS), (unsigned)blocks, (unsigned)op->n[1]);
#define CALL(F)                                                                                                                    \
    launch(cu, block_linear<F>, grid, GATE_OUTS / 8 * 32, 0, op->y, op->x, (const char *)W->data, W->stride,                       \
           shk_cuda_padded(W->cols), op->b, in, W->cols)
    BY_FORMAT(shk_cuda_format_of(W->type), CALL);
#undef CALL
    return 1;
}
