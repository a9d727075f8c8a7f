/* Training on the GPU: what the files train*.cu share.
 *
 * Ops of the training table are launched as they are called, one after the other on the device's stream; no op waits for another,
 * and cuda_download is where the host does. Activations are floats while products are of f32, and bf16 while they are of bf16:
 * kernels are templates of that type, and compute in f32 either way. A sum over rows has one order: partial sums of fixed pieces
 * of the rows, added in their order by a second kernel; never an atomic addition of floats. `cu->scratch` is free within an op. */
#ifndef SHK_CUDA_TRAIN_CUH
#define SHK_CUDA_TRAIN_CUH

#include <cuda_bf16.h>
#include <initializer_list>

#include "cuda/device.cuh"

typedef __nv_bfloat16 bf16;

/* Calls f with a value of the type that activations have. In f:
 *     using A = decltype(a);   train_launch(cu, kernel<A>, grid, threads, 0, (A *)y, (const A *)x, n); */
template <typename F> static inline void by_act(const shk_cuda *cu, F f) {
    if (cu->bf16) f(bf16{});
    else f(float{});
}

/* The same with the number of values that a thread may move at once: 8, or 1 where a row's length or an address is no multiple.
 *     by_pack(cu, n, { x, y }, [&](auto a, auto pack) { kernel<decltype(a), pack.value> ... }); */
template <int N> struct pack_of {
    static constexpr int value = N;
};
template <typename F>
static inline void by_pack(const shk_cuda *cu, size_t n, std::initializer_list<const void *> pointers, F f) {
    uintptr_t all = n * (cu->bf16 ? 2 : 4);
    for (const void *p : pointers) all |= (uintptr_t)p;
    by_act(cu, [&](auto a) {
        if (all % 16 == 0 && n % 8 == 0) f(a, pack_of<8>{});
        else f(a, pack_of<1>{});
    });
}

/* An ordinary launch, each kernel after the one before it. `shared`: dynamic shared memory, what the device allows. */
template <typename... P, typename... A>
static inline void train_launch(shk_cuda *cu, void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared, A... args) {
    if (shared > 48 << 10)
        cuda_note(cu, cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    launch_as(cu, false, kernel, grid, threads, shared, args...);
}

/* Frees what training has allocated (train.cu). */
void cuda_train_close(shk_cuda *cu);
/* The copy in bf16 of parameters at w; NULL: there is none (train.cu). */
const bf16 *cuda_train_rounded(const shk_cuda *cu, const float *w);

/* to[j] += sum over p < pieces of from[p, j], in one order   from [pieces, n] (train_rows.cu) */
void cuda_train_add_pieces(shk_cuda *cu, float *to, const float *from, size_t pieces, size_t n);

/* ---- the table (ops.h: shk_train_ops) ---- */

/* train.cu */
extern const shk_train_ops shk_cuda_train_ops;
size_t shk_cuda_train_begin(void *dev, shk_type compute);
void shk_cuda_train_refresh(void *dev, const float *w, size_t n);
void shk_cuda_train_zero(void *dev, void *p, size_t bytes);
double shk_cuda_train_sum_squares(void *dev, const float *x, size_t n);
void shk_cuda_train_adamw(void *dev, float *w, float *m, float *v, const float *g, size_t n, const shk_adamw *a);

/* train_embed.cu, train_rows.cu, train_loss.cu */
void shk_cuda_train_embed(void *dev, shk_act *x, const shk_mat *E, const int32_t *tokens, size_t N, float scale);
void shk_cuda_train_embed_grad(void *dev, float *dE, const shk_act *dx, const int32_t *tokens, size_t N, size_t d, float scale);
void shk_cuda_train_rmsnorm(void *dev, shk_act *y, const shk_act *x, const float *w, const shk_act *to, size_t rows, size_t n,
                            float eps);
void shk_cuda_train_rmsnorm_grad(void *dev, shk_act *dx, float *dw, const shk_act *dy, const shk_act *x, const float *w,
                                 size_t rows, size_t n, float eps, bool add);
void shk_cuda_train_add(void *dev, shk_act *y, const shk_act *x, size_t n);
void shk_cuda_train_scale(void *dev, shk_act *x, size_t n, float s);
void shk_cuda_train_gelu_mul(void *dev, shk_act *y, const shk_act *g, const shk_act *u, size_t n);
void shk_cuda_train_gelu_mul_grad(void *dev, shk_act *dg, shk_act *du, shk_act *y, const shk_act *dy, const shk_act *g,
                                  const shk_act *u, size_t n);
void shk_cuda_train_topk_gelu_mul(void *dev, shk_act *y, shk_threshold *th, const shk_act *s, const shk_act *u, size_t N, size_t n,
                                  const shk_sparsity *how);
void shk_cuda_train_topk_gelu_mul_grad(void *dev, shk_act *ds, shk_act *du, shk_act *y, const shk_act *dy,
                                       const shk_threshold *th, const shk_act *s, const shk_act *u, size_t N, size_t n,
                                       const shk_sparsity *how);
void shk_cuda_train_cross_entropy(void *dev, float *loss, shk_act *z, const int32_t *targets, size_t N, size_t V, float cap,
                                  float z_weight, float scale);

/* train_linear.cu */
void shk_cuda_train_linear(void *dev, shk_act *y, const shk_act *x, size_t ldx, const shk_mat *W, const float *b, size_t N);
void shk_cuda_train_linear_grad_x(void *dev, shk_act *dx, size_t ldx, const shk_act *dy, const shk_mat *W, size_t N, bool add);
void shk_cuda_train_linear_grad_w(void *dev, float *dW, float *db, const shk_act *dy, const shk_act *x, size_t ldx, size_t rows,
                                  size_t cols, size_t N);
void shk_cuda_train_block_linear(void *dev, shk_act *y, const shk_act *x, const shk_mat *W, const float *b, size_t blocks,
                                 size_t N);
void shk_cuda_train_block_linear_grad(void *dev, shk_act *dx, float *dW, float *db, const shk_act *dy, const shk_act *x,
                                      const shk_mat *W, size_t blocks, size_t N, bool add);

/* train_attention*.cu */
void shk_cuda_train_rope(void *dev, shk_act *x, const float *table, const shk_batch *b, size_t half, size_t heads, size_t head_dim,
                         size_t offset, bool back);
size_t shk_cuda_train_attention_work(void *dev, const shk_batch *b, const shk_attention *a);
void shk_cuda_train_attention(void *dev, shk_act *o, float *lse, shk_threshold *th, const shk_act *q, const shk_act *k,
                              const shk_act *v, const shk_batch *b, const shk_attention *a, void *work);
void shk_cuda_train_attention_grad(void *dev, shk_act *dq, shk_act *dk, shk_act *dv, const shk_act *dy, const shk_act *o,
                                   const float *lse, const shk_threshold *th, const shk_act *q, const shk_act *k, const shk_act *v,
                                   const shk_batch *b, const shk_attention *a, void *work);

/* train_recurrent.cu */
void shk_cuda_train_conv1d(void *dev, shk_act *y, const shk_act *x, const float *c, const float *bias, const shk_batch *b, size_t w,
                           size_t taps);
void shk_cuda_train_conv1d_grad(void *dev, shk_act *dx, float *dc, float *dbias, const shk_act *dy, const shk_act *x,
                                const float *c, const shk_batch *b, size_t w, size_t taps);
void shk_cuda_train_rglru(void *dev, shk_act *y, const shk_act *x, const shk_act *ia, const shk_act *ra, const float *lambda,
                          const shk_batch *b, size_t w);
void shk_cuda_train_rglru_grad(void *dev, shk_act *dx, shk_act *dia, shk_act *dra, float *dlambda, const shk_act *dy,
                               const shk_act *y, const shk_act *x, const shk_act *ia, const shk_act *ra, const float *lambda,
                               const shk_batch *b, size_t w);

/* ---- for kernels ---- */
#ifdef __CUDACC__

static __device__ __forceinline__ float get(float v) { return v; }
static __device__ __forceinline__ float get(bf16 v) { return __bfloat162float(v); }
static __device__ __forceinline__ void put(float *p, float v) { *p = v; }
static __device__ __forceinline__ void put(bf16 *p, float v) { *p = __float2bfloat16_rn(v); }

static __device__ __forceinline__ void unpack(float v[2], uint32_t w) {
    v[0] = __uint_as_float(w << 16), v[1] = __uint_as_float(w & 0xffff0000u);
}
static __device__ __forceinline__ uint32_t packed(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&v;
}

/* V values as they are in memory: half the registers of floats, where they are bf16. */
template <typename A, int V> struct alignas(V == 1 ? sizeof(A) : 16) pack {
    A v[V];
    __device__ __forceinline__ void read(const A *p) { *this = *(const pack *)(const void *)p; }
    __device__ __forceinline__ float operator[](int i) const { return get(v[i]); }
};

/* V values from p on, 16 bytes at a time; V is 1, or 8 and p is aligned. */
template <int V> static __device__ __forceinline__ void load(float v[V], const float *p) {
    if constexpr (V == 1) v[0] = *p;
    else
        for (int i = 0; i < V; i += 4) {
            float4 w = *(const float4 *)(const void *)(p + i);
            v[i] = w.x, v[i + 1] = w.y, v[i + 2] = w.z, v[i + 3] = w.w;
        }
}
template <int V> static __device__ __forceinline__ void load(float v[V], const bf16 *p) {
    if constexpr (V == 1) v[0] = get(*p);
    else
        for (int i = 0; i < V; i += 8) {
            uint4 w = *(const uint4 *)(const void *)(p + i);
            unpack(v + i, w.x), unpack(v + i + 2, w.y), unpack(v + i + 4, w.z), unpack(v + i + 6, w.w);
        }
}
template <int V> static __device__ __forceinline__ void store(float *p, const float v[V]) {
    if constexpr (V == 1) *p = v[0];
    else
        for (int i = 0; i < V; i += 4) *(float4 *)(void *)(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}
template <int V> static __device__ __forceinline__ void store(bf16 *p, const float v[V]) {
    if constexpr (V == 1) put(p, v[0]);
    else
        for (int i = 0; i < V; i += 8)
            *(uint4 *)(void *)(p + i) = make_uint4(packed(v[i], v[i + 1]), packed(v[i + 2], v[i + 3]), packed(v[i + 4], v[i + 5]),
                                                   packed(v[i + 6], v[i + 7]));
}

#endif
#endif
