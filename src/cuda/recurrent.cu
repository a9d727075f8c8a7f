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

/* h = a h + in: the two of a channel, by its gates before their sigmoids. `first`: the sequence begins here. */
static __device__ __forceinline__ void rglru_factors(float *a, float *in, float x, float ia, float ra, float lambda, bool first) {
    float log_a = -8 * sigmoid(ra) * lambda, gated = sigmoid(ia) * x;
    *a = first ? 0.0f : expf(log_a);
    *in = first ? gated : sqrtf(-expm1f(2 * log_a)) * gated;
}

/* h may be anything at first. */
static __device__ __forceinline__ float rglru_next(float h, float a, float in, bool first) { return first ? in : fmaf(a, h, in); }

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
            rglru_factors(&a[t][channel], &in[t][channel], x[at], ia[at], ra[at], lambda, s->pos + t0 + t == 0);
        }
        __syncthreads();
        for (unsigned t = 0; exists && !time && t < n; t++) {
            h = rglru_next(h, a[t][channel], in[t][channel], s->pos + t0 + t == 0);
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

enum { GATE_THREADS = GATE_OUTS / 8 * 32 };

/* This thread's share of the sums of 8 outputs from o on, of block b: inputs part, part + 32... */
template <format F>
static __device__ __forceinline__ void gate_sums(float sums[32][GATE_OUTS + 1], const float *x, const char *W, size_t stride,
                                                 size_t padded, size_t in, size_t b, size_t o) {
    unsigned outs = threadIdx.x % 8, part = threadIdx.x / 8;
    float sum[8] = {};
#pragma unroll 8
    for (size_t i = part; o < padded && i < in; i += 32) {
        float v[8];
        load8<F>(v, W + (b * in + i) * stride, padded, o);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] = fmaf(v[j], x[i], sum[j]);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) sums[part][outs * 8 + j] = sum[j];
}

static __device__ __forceinline__ float gate_total(const float sums[32][GATE_OUTS + 1], float total, unsigned out) {
#pragma unroll
    for (unsigned p = 0; p < 32; p++) total += sums[p][out];
    return total;
}

template <format F>
__global__ void __launch_bounds__(GATE_THREADS)
    block_linear(float *y, const float *x, const char *W, size_t stride, size_t padded, const float *bias, size_t in, size_t out) {
    __shared__ float sums[32][GATE_OUTS + 1];
    size_t b = blockIdx.y, blocks = gridDim.y, t = blockIdx.z, mine = blockIdx.x * (size_t)GATE_OUTS + threadIdx.x;
    in_turn();
    gate_sums<F>(sums, x + (t * blocks + b) * in, W, stride, padded, in, b, blockIdx.x * (size_t)GATE_OUTS + threadIdx.x % 8 * 8);
    __syncthreads();
    if (threadIdx.x < GATE_OUTS && mine < out)
        y[(t * blocks + b) * out + mine] = gate_total(sums, bias[b * out + mine], threadIdx.x);
}

/* Both gates, the recurrence and the branch that it is multiplied by, for passes with one token of each sequence. */
typedef struct gated_args {
    const char *W[2];
    const float *bias[2];     /* of the input's and the recurrence's gate */
    size_t stride, padded, n; /* n: channels of a block */
    const float *x, *lambda, *branch;
    size_t layer, w;
} gated_args;

template <format F>
__global__ void __launch_bounds__(GATE_THREADS) gated_step(float *y, gated_args g, const pass_info *pass, device_work *work) {
    __shared__ float sums[2][32][GATE_OUTS + 1];
    size_t b = blockIdx.y, t = blockIdx.z, o = blockIdx.x * (size_t)GATE_OUTS + threadIdx.x % 8 * 8,
           mine = blockIdx.x * (size_t)GATE_OUTS + threadIdx.x, channel = b * g.n + mine, at = t * g.w + channel;
    bool ends = threadIdx.x < GATE_OUTS && mine < g.n; /* this thread goes on with a channel */
    const pass_seq *s = &pass->seqs[pass->rows[t].seq];
    float *state = (float *)(void *)(s->state + s->layers[g.layer].h) + channel;
    float lambda = 0, bias[2] = {}, h = 0, x = 0, branch = 0;
    let_next_start();
    for (size_t i = threadIdx.x / 8; o < g.padded && i < g.n; i += 32) /* on their way while the convolution ends */
        for (int k = 0; k < 2; k++) prefetch(g.W[k] + (b * g.n + i) * g.stride + o);
    if (ends) /* of a pass, this alone writes the state */
        lambda = g.lambda[channel], bias[0] = g.bias[0][channel], bias[1] = g.bias[1][channel], h = *state;
    wait_for_previous();
    if (ends) branch = g.branch[at], x = g.x[at];
    for (int k = 0; k < 2; k++) gate_sums<F>(sums[k], g.x + t * g.w + b * g.n, g.W[k], g.stride, g.padded, g.n, b, o);
    __syncthreads();
    if (!ends) return;
    float a, in, ia = gate_total(sums[0], bias[0], threadIdx.x), ra = gate_total(sums[1], bias[1], threadIdx.x);
    rglru_factors(&a, &in, x, ia, ra, lambda, s->pos == 0);
    *state = h = rglru_next(h, a, in, s->pos == 0);
    y[at] = gelu(branch) * h;
    if (!channel) atomicAdd(&work->state_bytes, (unsigned long long)(g.w * sizeof(float)));
}

size_t cuda_run_conv1d(shk_cuda *cu, const cuda_op *op, size_t) {
    unsigned threads = cu->T == cu->n_seqs ? CHANNELS : CHANNEL_THREADS; /* of one time, where a sequence has no more */
    launch(cu, conv1d, dim3(blocks_for(op->n[1], CHANNELS), cu->n_seqs), threads, 0, op->y, op->x, op->a, op->b, cu->pass, op->n[0],
           op->n[1], op->n[2], cu->counted);
    return 1;
}

size_t cuda_run_rglru(shk_cuda *cu, const cuda_op *op, size_t) {
    launch(cu, rglru, dim3(blocks_for(op->n[1], CHANNELS), cu->n_seqs), CHANNEL_THREADS, 0, op->y, op->x, op->a, op->b, op->c,
           cu->pass, op->n[0], op->n[1], cu->counted);
    return 1;
}

/* The two gates, the recurrence and the product with gelu(branch) that follow each other in a recurrent block. What the recurrence
 * alone gives nobody else reads. */
static bool is_gated_step(const shk_cuda *cu, const cuda_op *op, size_t left) {
    const cuda_op *second = op + 1, *rglru = op + 2, *product = op + 3;
    return left > 3 && cu->T == cu->n_seqs && second->kind == OP_BLOCK_LINEAR && rglru->kind == OP_RGLRU &&
           product->kind == OP_GELU_MUL && second->x == op->x && second->n[0] == op->n[0] && second->W.type == op->W.type &&
           second->W.rows == op->W.rows && op->W.cols * op->n[0] == op->W.rows && second->W.cols == op->W.cols &&
           rglru->n[1] == op->W.rows && rglru->x == op->x && rglru->a == op->y && rglru->b == second->y && product->b == rglru->y &&
           product->y == product->a;
}

static void run_gated_step(shk_cuda *cu, const cuda_op *op) {
    const cuda_op *second = op + 1, *rglru = op + 2, *product = op + 3;
    const shk_mat *W = &op->W;
    gated_args g = { { (const char *)W->data, (const char *)second->W.data },
                     { op->b, second->b },
                     W->stride,
                     shk_cuda_padded(W->cols),
                     W->cols,
                     op->x,
                     rglru->c,
                     product->a,
                     rglru->n[0],
                     rglru->n[1] };
    dim3 grid(blocks_for(W->cols, GATE_OUTS), (unsigned)op->n[0], cu->T);
#define CALL(F) launch(cu, gated_step<F>, grid, GATE_THREADS, 0, product->y, g, cu->pass, cu->counted)
    BY_FORMAT(shk_cuda_format_of(W->type), CALL);
#undef CALL
}

size_t cuda_run_block_linear(shk_cuda *cu, const cuda_op *op, size_t left) {
    const shk_mat *W = &op->W;
    if (is_gated_step(cu, op, left)) {
        run_gated_step(cu, op);
        return 4;
    }
    size_t blocks = op->n[0], in = W->rows / blocks;
    dim3 grid(blocks_for(W->cols, GATE_OUTS), (unsigned)blocks, (unsigned)op->n[1]);
#define CALL(F)                                                                                                                    \
    launch(cu, block_linear<F>, grid, GATE_THREADS, 0, op->y, op->x, (const char *)W->data, W->stride, shk_cuda_padded(W->cols),   \
           op->b, in, W->cols)
    BY_FORMAT(shk_cuda_format_of(W->type), CALL);
#undef CALL
    return 1;
}
