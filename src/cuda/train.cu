/* The training table of a GPU: what is not rows, products, attention or recurrence. */
#include "cuda/train_state.cuh"

/* ---- parameters ---- */

static __global__ void round_values(bf16 *to, const float *from, size_t n) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i + 8 <= n) {
        float v[8];
        load<8>(v, from + i);
        store<8>(to + i, v);
    } else {
        for (; i < n; i++) put(to + i, from[i]);
    }
}

void cuda_train_round(shk_cuda *cu, bf16 *to, const float *from, size_t n) {
    train_launch(cu, round_values, blocks_for(n, 2048), 256, 0, to, from, n);
}

const bf16 *cuda_train_rounded(const shk_cuda *cu, const float *w) {
    const train_state *s = cu->train;
    return s->rounded && w >= s->w && w < s->w + s->n ? s->rounded + (w - s->w) : NULL;
}

size_t shk_cuda_train_begin(void *dev, shk_type compute) {
    shk_cuda *cu = (shk_cuda *)dev;
    if (compute != SHK_F32 && (compute != SHK_BF16 || cu->major < 8)) return 0; /* no products of bf16 before 8.0 */
    if (!cu->train) {
        train_state *s = (train_state *)shk_calloc(1, sizeof *s);
        if (!s) return 0;
        cu->train = s;
        if (cudaHostAlloc((void **)&s->host, sizeof *s->host, 0) != cudaSuccess ||
            cublasLtCreate(&s->lt) != CUBLAS_STATUS_SUCCESS) {
            cudaGetLastError();
            cuda_train_close(cu);
            return 0;
        }
    }
    cu->bf16 = compute == SHK_BF16;
    return cu->bf16 ? sizeof(bf16) : sizeof(float);
}

void shk_cuda_train_refresh(void *dev, const float *w, size_t n) {
    shk_cuda *cu = (shk_cuda *)dev;
    train_state *s = cu->train;
    if (!cu->bf16) return;
    if (s->w != w || s->n != n) {
        cuda_note(cu, cudaStreamSynchronize(cu->stream));
        cudaFree(s->rounded);
        s->rounded = NULL;
        cuda_note(cu, cudaMalloc(&s->rounded, n * sizeof *s->rounded));
        s->w = w, s->n = n;
    }
    cuda_train_round(cu, s->rounded, w, n);
}

void cuda_train_close(shk_cuda *cu) {
    train_state *s = cu->train;
    if (!s) return;
    cuda_train_close_products(s);
    if (s->lt) cublasLtDestroy(s->lt);
    cudaFree(s->rounded);
    cudaFreeHost(s->host);
    free(s);
    cu->train = NULL;
}

void shk_cuda_train_zero(void *dev, void *p, size_t bytes) {
    shk_cuda *cu = (shk_cuda *)dev;
    if (!cu->broken) cuda_note(cu, cudaMemsetAsync(p, 0, bytes, cu->stream));
}

/* ---- the step ---- */

enum { SQUARES_THREADS = 512, SQUARES_BLOCKS = 1024 };

static __global__ void __launch_bounds__(SQUARES_THREADS) squares_of_pieces(double *sums, const float *x, size_t n) {
    __shared__ double space[32];
    double sum = 0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum, space);
    if (!threadIdx.x) sums[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(SQUARES_BLOCKS) sum_of_pieces(double *sum, const double *sums) {
    __shared__ double space[32];
    double all = block_sum(sums[threadIdx.x], space);
    if (!threadIdx.x) *sum = all;
}

double shk_cuda_train_sum_squares(void *dev, const float *x, size_t n) {
    shk_cuda *cu = (shk_cuda *)dev;
    double *sums = (double *)(void *)cu->scratch, *host = cu->train->host;
    train_launch(cu, squares_of_pieces, SQUARES_BLOCKS, SQUARES_THREADS, 0, sums + 1, x, n);
    train_launch(cu, sum_of_pieces, 1, SQUARES_BLOCKS, 0, sums, sums + 1);
    *host = NAN;
    if (!cu->broken) cuda_note(cu, cudaMemcpyAsync(host, sums, sizeof *host, cudaMemcpyDeviceToHost, cu->stream));
    if (!cu->broken) cuda_note(cu, cudaStreamSynchronize(cu->stream));
    return *host;
}

/* `rounded` may be NULL. */
template <int V>
static __global__ void adamw_values(float *w, float *m, float *v, const float *g, bf16 *rounded, size_t n, shk_adamw a) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    float value[V], first[V], second[V], x[V], b1 = a.beta1, b2 = a.beta2;
    load<V>(value, w + i), load<V>(first, m + i), load<V>(second, v + i), load<V>(x, g + i);
    for (int j = 0; j < V; j++) {
        x[j] *= a.scale;
        first[j] = fmaf(b1, first[j], (1 - b1) * x[j]);
        second[j] = fmaf(b2, second[j], (1 - b2) * x[j] * x[j]);
        float step = first[j] / a.correct1 / (sqrtf(second[j] / a.correct2) + a.eps);
        value[j] -= a.rate * fmaf(a.decay, value[j], step);
    }
    store<V>(w + i, value), store<V>(m + i, first), store<V>(v + i, second);
    if (rounded) store<V>(rounded + i, value);
}

void shk_cuda_train_adamw(void *dev, float *w, float *m, float *v, const float *g, size_t n, const shk_adamw *a) {
    shk_cuda *cu = (shk_cuda *)dev;
    bf16 *rounded = (bf16 *)(uintptr_t)cuda_train_rounded(cu, w);
    by_pack(cu, n, { w, m, v, g, rounded }, [&](auto, auto pack) {
        constexpr int V = decltype(pack)::value;
        train_launch(cu, adamw_values<V>, blocks_for(n, 256 * V), 256, 0, w, m, v, g, rounded, n, *a);
    });
}

const shk_train_ops shk_cuda_train_ops = {
    .logits = 1 << 29,
    .begin = shk_cuda_train_begin,
    .refresh = shk_cuda_train_refresh,
    .zero = shk_cuda_train_zero,
    .embed = shk_cuda_train_embed,
    .embed_grad = shk_cuda_train_embed_grad,
    .linear = shk_cuda_train_linear,
    .linear_grad_x = shk_cuda_train_linear_grad_x,
    .linear_grad_w = shk_cuda_train_linear_grad_w,
    .block_linear = shk_cuda_train_block_linear,
    .block_linear_grad = shk_cuda_train_block_linear_grad,
    .rmsnorm = shk_cuda_train_rmsnorm,
    .add = shk_cuda_train_add,
    .scale = shk_cuda_train_scale,
    .gelu_mul = shk_cuda_train_gelu_mul,
    .rmsnorm_grad = shk_cuda_train_rmsnorm_grad,
    .gelu_mul_grad = shk_cuda_train_gelu_mul_grad,
    .topk_gelu_mul = shk_cuda_train_topk_gelu_mul,
    .topk_gelu_mul_grad = shk_cuda_train_topk_gelu_mul_grad,
    .rope = shk_cuda_train_rope,
    .attention_work = shk_cuda_train_attention_work,
    .attention = shk_cuda_train_attention,
    .attention_grad = shk_cuda_train_attention_grad,
    .conv1d = shk_cuda_train_conv1d,
    .conv1d_grad = shk_cuda_train_conv1d_grad,
    .rglru = shk_cuda_train_rglru,
    .rglru_grad = shk_cuda_train_rglru_grad,
    .cross_entropy = shk_cuda_train_cross_entropy,
    .sum_squares = shk_cuda_train_sum_squares,
    .adamw = shk_cuda_train_adamw,
};
