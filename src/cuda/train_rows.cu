/* Training ops of elements and norms, and sums of pieces. What they cost is the memory's bandwidth. */
#include "cuda/train_row.cuh"

/* ---- elements ---- */

template <typename A, int V> static __global__ void add_values(A *y, const A *x, size_t n) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    float a[V], b[V];
    load<V>(a, y + i), load<V>(b, x + i);
    for (int j = 0; j < V; j++) a[j] += b[j];
    store<V>(y + i, a);
}

void shk_cuda_train_add(void *dev, shk_act *y, const shk_act *x, size_t n) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_pack(cu, n, { y, x }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        train_launch(cu, add_values<A, V>, blocks_for(n, 256 * V), 256, 0, (A *)(void *)y, (const A *)(const void *)x, n);
    });
}

template <typename A, int V> static __global__ void scale_values(A *x, size_t n, float s) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    float v[V];
    load<V>(v, x + i);
    for (int j = 0; j < V; j++) v[j] *= s;
    store<V>(x + i, v);
}

void shk_cuda_train_scale(void *dev, shk_act *x, size_t n, float s) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_pack(cu, n, { x }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        train_launch(cu, scale_values<A, V>, blocks_for(n, 256 * V), 256, 0, (A *)(void *)x, n, s);
    });
}

/* ---- sums of pieces ---- */

enum { PIECE_LANES = 32, PIECE_GROUPS = 32 };

static __global__ void __launch_bounds__(PIECE_LANES *PIECE_GROUPS) add_pieces(float *to, const float *from, size_t pieces,
                                                                              size_t n) {
    __shared__ float space[PIECE_GROUPS][PIECE_LANES];
    size_t lane = threadIdx.x % PIECE_LANES, group = threadIdx.x / PIECE_LANES, column = blockIdx.x * PIECE_LANES + lane;
    float sum = 0;
    if (column < n) {
#pragma unroll 8
        for (size_t p = group; p < pieces; p += PIECE_GROUPS) sum += from[p * n + column];
    }
    space[group][lane] = sum;
    __syncthreads();
    if (group || column >= n) return;
    for (int g = 1; g < PIECE_GROUPS; g++) sum += space[g][lane];
    to[column] += sum;
}

void cuda_train_add_pieces(shk_cuda *cu, float *to, const float *from, size_t pieces, size_t n) {
    train_launch(cu, add_pieces, blocks_for(n, PIECE_LANES), PIECE_LANES * PIECE_GROUPS, 0, to, from, pieces, n);
}

/* ---- norms ---- */

template <typename A, int V, int K, bool WARP>
static __global__ void ROW_BOUNDS(WARP)
    rmsnorm_rows(A *y, const A *x, const float *w, const A *to, size_t rows, size_t n, float eps) {
    __shared__ float space[32];
    const row_of_threads<V, K, WARP> r;
    size_t row = blockIdx.x * (size_t)r.rows + r.row;
    if (row >= rows) return;
    float v[K][V], sum = 0;
    r.each(n, [&](int k, size_t j) {
        load<V>(v[k], x + row * n + j);
        for (int i = 0; i < V; i++) sum += v[k][i] * v[k][i];
    });
    float scale = rsqrtf(r.sum(sum, space) / (float)n + eps);
    r.each(n, [&](int k, size_t j) {
        float f[V], t[V];
        if (w) load<V>(f, w + j);
        if (to) load<V>(t, to + row * n + j);
        for (int i = 0; i < V; i++) v[k][i] = fmaf(v[k][i], scale * (w ? f[i] : 1), to ? t[i] : 0);
        store<V>(y + row * n + j, v[k]);
    });
}

void shk_cuda_train_rmsnorm(void *dev, shk_act *y, const shk_act *x, const float *w, const shk_act *to, size_t rows, size_t n,
                            float eps) {
    shk_cuda *cu = (shk_cuda *)dev;
    by_row(cu, n, { y, x, w, to }, [&](auto a, auto pack, auto packs, auto warp, unsigned threads) {
        using A = decltype(a);
        auto kernel = rmsnorm_rows<A, pack.value, packs.value, warp.value>;
        train_launch(cu, kernel, blocks_for(rows, warp.value ? threads / 32 : 1), threads, 0, (A *)(void *)y,
                     (const A *)(const void *)x, w, (const A *)(const void *)to, rows, n, eps);
    });
}

/* Block b has rows [b, b + 1) * piece; what they add to dw goes to dws[b]. */
template <typename A, int V, int K, bool WARP>
static __global__ void __launch_bounds__(WARP ? 256 : 1024, WARP && sizeof(A) == 2 && K < 4 ? 2 : 1)
    rmsnorm_grad_rows(A *__restrict__ dx, float *dws, const A *__restrict__ dy, const A *__restrict__ x,
                      const float *__restrict__ w, size_t rows, size_t n, float eps, size_t piece, bool add) {
    __shared__ float space[32], all[WARP ? 32 * V * K : 1];
    const row_of_threads<V, K, WARP> r;
    size_t last = min((blockIdx.x + (size_t)1) * piece, rows);
    float dw[K][V] = {};
    for (size_t row = blockIdx.x * piece + r.row; row < last; row += r.rows) {
        pack<A, V> v[K], d[K], before[K];
        float squares = 0, dot = 0;
        r.each(n, [&](int k, size_t j) {
            v[k].read(x + row * n + j), d[k].read(dy + row * n + j);
            if (add) before[k].read(dx + row * n + j);
        });
        r.each(n, [&](int k, size_t j) {
            float f[V];
            if (w) load<V>(f, w + j);
            for (int i = 0; i < V; i++) {
                squares += v[k][i] * v[k][i];
                dot += (w ? f[i] : 1) * d[k][i] * v[k][i];
            }
        });
        float scale = rsqrtf(r.sum(squares, space) / (float)n + eps);
        dot = r.sum(dot, space) / (float)n * scale * scale;
        r.each(n, [&](int k, size_t j) {
            float f[V], out[V];
            if (w) load<V>(f, w + j);
            for (int i = 0; i < V; i++) {
                out[i] = (add ? before[k][i] : 0) + scale * ((w ? f[i] : 1) * d[k][i] - v[k][i] * dot);
                dw[k][i] += d[k][i] * v[k][i] * scale;
            }
            store<V>(dx + row * n + j, out);
        });
    }
    if (!dws) return;
    for (unsigned g = 0; g < r.rows; g++) { /* groups of threads in their order */
        if (g == r.row) {
            r.each(n, [&](int k, size_t j) {
                for (int i = 0; i < V; i++) {
                    float sum = dw[k][i] + (WARP && g ? all[j + i] : 0);
                    if (!WARP || g + 1 == r.rows) dws[blockIdx.x * n + j + i] = sum;
                    else all[j + i] = sum;
                }
            });
        }
        __syncthreads();
    }
}

void shk_cuda_train_rmsnorm_grad(void *dev, shk_act *dx, float *dw, const shk_act *dy, const shk_act *x, const float *w,
                                 size_t rows, size_t n, float eps, bool add) {
    shk_cuda *cu = (shk_cuda *)dev;
    const size_t most = 6 * (size_t)cu->sms; /* two at once on each, if rows are short */
    float *dws = dw ? (float *)(void *)cu->scratch : NULL;
    size_t piece = (rows + most - 1) / most;
    if (piece < 8) piece = 8;
    size_t pieces = (rows + piece - 1) / piece;
    by_row(cu, n, { dx, dy, x, w }, [&](auto a, auto pack, auto packs, auto warp, unsigned threads) {
        using A = decltype(a);
        auto kernel = rmsnorm_grad_rows<A, pack.value, packs.value, warp.value>;
        train_launch(cu, kernel, (unsigned)pieces, threads, 0, (A *)(void *)dx, dws, (const A *)(const void *)dy,
                     (const A *)(const void *)x, w, rows, n, eps, piece, add);
    });
    if (dw) cuda_train_add_pieces(cu, dw, dws, pieces, n);
}
