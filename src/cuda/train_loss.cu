/* Training ops of nonlinear functions: GELU with a threshold or without, and the loss. */
#include "cuda/train_row.cuh"

/* What the precision of an activation allows. */
static __device__ __forceinline__ float exponential(float v, float) { return expf(v); }
static __device__ __forceinline__ float exponential(float v, bf16) { return __expf(v); }
static __device__ __forceinline__ float hyperbolic(float v, float) { return tanhf(v); }
static __device__ __forceinline__ float hyperbolic(float v, bf16) { return fast_tanh(v); }
static __device__ __forceinline__ float divided(float a, float b, float) { return a / b; }
static __device__ __forceinline__ float divided(float a, float b, bf16) { return __fdividef(a, b); }

/* With z = sqrt(2/pi) (v + 0.044715 v^3) and s = 1 / (1 + exp(-2 z)):  gelu = v s,  gelu' = s + 2 v s (1 - s) z'. Where exp
 * overflows, s is 0. */
template <typename A> static __device__ __forceinline__ float gelu_of(float v, float *slope) {
    const float c = 0.79788456080286535588f;
    float square = v * v, s = divided(1, 1 + exponential(-2 * c * v * fmaf(0.044715f, square, 1), A(0)), A(0));
    if (slope) *slope = fmaf(2 * v * s * (1 - s), c * fmaf(3 * 0.044715f, square, 1), s);
    return v * s;
}

template <typename A, int V> static __global__ void gelu_mul_values(A *y, const A *g, const A *u, size_t n) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    float a[V], b[V];
    load<V>(a, g + i);
    if (u) load<V>(b, u + i);
    for (int j = 0; j < V; j++) a[j] = gelu_of<A>(a[j], NULL) * (u ? b[j] : 1);
    store<V>(y + i, a);
}

void shk_cuda_train_gelu_mul(void *dev, shk_act *y, const shk_act *g, const shk_act *u, size_t n) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_pack(cu, n, { y, g, u }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        train_launch(cu, gelu_mul_values<A, V>, blocks_for(n, 256 * V), 256, 0, (A *)(void *)y, (const A *)(const void *)g,
                     (const A *)(const void *)u, n);
    });
}

template <typename A, int V>
static __global__ void gelu_mul_grad_values(A *dg, A *du, A *y, const A *dy, const A *g, const A *u, size_t n) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    float d[V], a[V], b[V];
    load<V>(d, dy + i), load<V>(a, g + i), load<V>(b, u + i);
    for (int j = 0; j < V; j++) {
        float slope, value = gelu_of<A>(a[j], &slope);
        a[j] = d[j] * b[j] * slope;
        d[j] *= value, b[j] *= value;
    }
    store<V>(dg + i, a), store<V>(du + i, d), store<V>(y + i, b);
}

void shk_cuda_train_gelu_mul_grad(void *dev, shk_act *dg, shk_act *du, shk_act *y, const shk_act *dy, const shk_act *g,
                                  const shk_act *u, size_t n) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_pack(cu, n, { dg, du, y, dy, g, u }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        train_launch(cu, gelu_mul_grad_values<A, V>, blocks_for(n, 256 * V), 256, 0, (A *)(void *)dg, (A *)(void *)du,
                     (A *)(void *)y, (const A *)(const void *)dy, (const A *)(const void *)g, (const A *)(const void *)u, n);
    });
}

/* ---- the statistical threshold ---- */

/* theta = mean + std quantile; -inf: all are active */
template <typename A, int V, int K, bool WARP>
static __global__ void ROW_BOUNDS(WARP)
    topk_gelu_mul_rows(A *y, shk_threshold *th, const A *s, const A *u, size_t rows, size_t n, unsigned ddof, float quantile) {
    __shared__ float space[32];
    const row_of_threads<V, K, WARP> r;
    size_t row = blockIdx.x * (size_t)r.rows + r.row;
    if (row >= rows) return;
    bool all = quantile == -INFINITY;
    float v[K][V], sum = 0, squares = 0, active = 0, mean = 0, std = 0;
    r.each(n, [&](int k, size_t j) {
        load<V>(v[k], s + row * n + j);
        for (int i = 0; i < V; i++) sum += v[k][i];
    });
    if (!all) {
        mean = r.sum(sum, space) / (float)n;
        r.each(n, [&](int k, size_t) {
            for (int i = 0; i < V; i++) squares += (v[k][i] - mean) * (v[k][i] - mean);
        });
        std = sqrtf(r.sum(squares, space) / (float)(n - ddof));
    }
    float theta = all ? -INFINITY : fmaf(std, quantile, mean);
    r.each(n, [&](int k, size_t j) {
        float b[V];
        load<V>(b, u + row * n + j);
        for (int i = 0; i < V; i++) {
            float x = v[k][i], above = all ? x : x - theta;
            active += x > theta;
            v[k][i] = x <= theta ? 0 : gelu_of<A>(above, NULL) * b[i];
        }
        store<V>(y + row * n + j, v[k]);
    });
    active = r.sum(active, space);
    if (!r.lane) th[row] = shk_threshold{ mean, std, theta, active };
}

static float quantile_of(const shk_sparsity *how, size_t n) {
    bool all = (double)n <= how->k || n <= how->ddof;
    return all ? -INFINITY : (float)shk_normal_quantile(1 - how->k / (double)n);
}

void shk_cuda_train_topk_gelu_mul(void *dev, shk_act *y, shk_threshold *th, const shk_act *s, const shk_act *u, size_t N, size_t n,
                                  const shk_sparsity *how) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_row(cu, n, { y, s, u }, [&](auto a, auto pack, auto packs, auto warp, unsigned threads) {
        using A = decltype(a);
        auto kernel = topk_gelu_mul_rows<A, pack.value, packs.value, warp.value>;
        train_launch(cu, kernel, blocks_for(N, warp.value ? threads / 32 : 1), threads, 0, (A *)(void *)y, th,
                     (const A *)(const void *)s, (const A *)(const void *)u, N, n, how->ddof, quantile_of(how, n));
    });
}

/* What theta gets is less the sum over the active. */
template <typename A, int V, int K, bool WARP>
static __global__ void ROW_BOUNDS(WARP)
    topk_gelu_mul_grad_rows(A *ds, A *du, A *y, const A *dy, const shk_threshold *th, const A *s, const A *u, size_t rows, size_t n,
                            unsigned ddof, float quantile) {
    __shared__ float space[32];
    const row_of_threads<V, K, WARP> r;
    size_t row = blockIdx.x * (size_t)r.rows + r.row;
    if (row >= rows) return;
    const shk_threshold t = th[row];
    bool all = t.theta == -INFINITY;
    float v[K][V], d[K][V], sum = 0;
    r.each(n, [&](int k, size_t j) {
        float b[V], g[V];
        load<V>(v[k], s + row * n + j), load<V>(b, u + row * n + j), load<V>(g, dy + row * n + j);
        for (int i = 0; i < V; i++) {
            bool active = !(v[k][i] <= t.theta);
            float slope, value = gelu_of<A>(all ? v[k][i] : v[k][i] - t.theta, &slope);
            d[k][i] = active ? g[i] * b[i] * slope : 0;
            g[i] = active ? g[i] * value : 0;
            b[i] = active ? b[i] * value : 0;
            sum += d[k][i];
        }
        store<V>(du + row * n + j, g), store<V>(y + row * n + j, b);
    });
    float each = 0, slope = 0;
    if (!all) {
        sum = r.sum(sum, space);
        each = sum / (float)n;
        slope = t.std > 0 ? sum * quantile / ((float)(n - ddof) * t.std) : 0;
    }
    r.each(n, [&](int k, size_t j) {
        for (int i = 0; i < V && !all; i++) d[k][i] -= fmaf(slope, v[k][i] - t.mean, each);
        store<V>(ds + row * n + j, d[k]);
    });
}

void shk_cuda_train_topk_gelu_mul_grad(void *dev, shk_act *ds, shk_act *du, shk_act *y, const shk_act *dy,
                                       const shk_threshold *th, const shk_act *s, const shk_act *u, size_t N, size_t n,
                                       const shk_sparsity *how) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_row(cu, n, { ds, du, y, dy, s, u }, [&](auto a, auto pack, auto packs, auto warp, unsigned threads) {
        using A = decltype(a);
        auto kernel = topk_gelu_mul_grad_rows<A, pack.value, packs.value, warp.value>;
        train_launch(cu, kernel, blocks_for(N, warp.value ? threads / 32 : 1), threads, 0, (A *)(void *)ds, (A *)(void *)du,
                     (A *)(void *)y, (const A *)(const void *)dy, th, (const A *)(const void *)s, (const A *)(const void *)u, N, n,
                     how->ddof, quantile_of(how, n));
    });
}

/* ---- the loss ---- */

enum { LOSS_THREADS = 512 };

/* A block a row, in two passes, of which the second finds the row in the L2 cache. */
template <typename A, int V>
static __global__ void __launch_bounds__(LOSS_THREADS) cross_entropy_rows(float *loss, A *logits, const int32_t *targets, size_t n,
                                                                          float cap, float z_weight, float scale) {
    __shared__ float space[32];
    A *z = logits + blockIdx.x * n;
    int32_t target = targets[blockIdx.x];
    float v[V];
    if (target < 0) {
        for (int i = 0; i < V; i++) v[i] = 0;
        for (size_t j = threadIdx.x * V; j < n; j += LOSS_THREADS * V) store<V>(z + j, v);
        if (!threadIdx.x) loss[blockIdx.x] = 0;
        return;
    }
    const float inverse = cap > 0 ? 1 / cap : 0;
    auto capped = [&](float x) { return cap > 0 ? cap * hyperbolic(x * inverse, A(0)) : x; };
    float of_target = capped(get(z[target])), most = -INFINITY, sum = 0;
    for (size_t j = threadIdx.x * V; j < n; j += LOSS_THREADS * V) {
        load<V>(v, z + j);
        float before = most;
        for (int i = 0; i < V; i++) v[i] = capped(v[i]), most = fmaxf(most, v[i]);
        if (before < most) sum *= exponential(before - most, A(0));
        for (int i = 0; i < V; i++) sum += exponential(v[i] - most, A(0));
    }
    float top = block_max(most, space);
    sum = block_sum(most == -INFINITY && sum == 0 ? 0 : sum * exponential(most - top, A(0)), space);
    float lse = top + logf(sum), factor = scale * (1 + 2 * z_weight * lse);
    if (!threadIdx.x) loss[blockIdx.x] = lse - of_target;
    for (size_t j = threadIdx.x * V; j < n; j += LOSS_THREADS * V) {
        load<V>(v, z + j);
        for (int i = 0; i < V; i++) {
            float x = capped(v[i]), part = x * inverse, slope = 1 - part * part;
            v[i] = slope * (factor * exponential(x - lse, A(0)) - ((int32_t)(j + i) == target ? scale : 0));
        }
        store<V>(z + j, v);
    }
}

void shk_cuda_train_cross_entropy(void *dev, float *loss, shk_act *z, const int32_t *targets, size_t N, size_t V, float cap,
                                  float z_weight, float scale) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_pack(cu, V, { z }, [&](auto a, auto pack) {
        using A = decltype(a);
        train_launch(cu, cross_entropy_rows<A, decltype(pack)::value>, (unsigned)N, LOSS_THREADS, 0, loss, (A *)(void *)z, targets,
                     V, cap, z_weight, scale);
    });
}
