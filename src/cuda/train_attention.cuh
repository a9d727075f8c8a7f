/* Attention over whole batches: what the kernels on tensor cores (train_attention_tensor.cu) and those for everything else
 * (train_attention.cu) share. Both go through tiles of queries and keys and keep no more of the T x T scores than a tile. Backward
 * computes them again, once where a block owns queries (dq) and once where it owns keys (dk, dv): so each sum is made by one block,
 * in one order. */
#ifndef SHK_CUDA_TRAIN_ATTENTION_CUH
#define SHK_CUDA_TRAIN_ATTENTION_CUH

#include "cuda/train.cuh"
#include "cuda/train_maths.cuh"

/* The arguments of ops.h by the same names. */
template <typename A> struct train_attend {
    A *o, *dq, *dk, *dv;
    float *lse;
    shk_threshold *th;
    const A *q, *k, *v, *dy, *y; /* y: what forward gave as o */
    float *delta;                /* [N, heads] dy . y */
    const int32_t *first;
    int T, heads, kv_heads, dim, window, rank;
    float cap, inverse_cap; /* 0: none */
    double target;
    unsigned ddof;
    unsigned B;
};

/* train_attention_tensor.cu; false: this is not for tensor cores, and nothing was launched */
bool cuda_train_attend_tensor(shk_cuda *cu, const train_attend<bf16> &g, bool back);

#ifdef __CUDACC__

/* A query sees keys [low, low + span]; one that does not exist sees none. Neither bound falls from a query to the next. */
struct train_sight {
    int low;
    unsigned span;
};
static __device__ __forceinline__ int train_lowest(int first, int window, int t) {
    return window && t + 1 - window > first ? t + 1 - window : first;
}
static __device__ __forceinline__ train_sight train_sight_of(int first, int window, int t, int T) {
    if (t >= T) return train_sight{ 1 << 30, 0 };
    int low = train_lowest(first, window, t);
    return train_sight{ low, (unsigned)(t - low) };
}
static __device__ __forceinline__ bool train_sees(train_sight s, int key) { return (unsigned)(key - s.low) <= s.span; }

/* Rows of q (also o, dy, dq) and of k (also v, dk, dv) of a sequence. */
template <typename A> static __device__ __forceinline__ size_t train_q_at(const train_attend<A> &g, int b, int t, int head) {
    return (((size_t)b * g.T + t) * g.heads + head) * g.dim;
}
template <typename A> static __device__ __forceinline__ size_t train_k_at(const train_attend<A> &g, int b, int t, int kv) {
    return (((size_t)b * g.T + t) * g.kv_heads + kv) * g.dim;
}
template <typename A> static __device__ __forceinline__ size_t train_row_at(const train_attend<A> &g, int b, int t, int head) {
    return ((size_t)b * g.T + t) * g.heads + head;
}

/* Of n scores of which the sum and the sum of squares are known. */
static __device__ shk_threshold train_threshold(double sum, double squares, unsigned n, double k, unsigned ddof) {
    if ((double)n <= k || n <= ddof) return shk_threshold{ 0, 0, -INFINITY, 0 };
    double mean = sum / n, rest = squares - sum * mean, std = sqrt((rest > 0 ? rest : 0) / (n - ddof));
    return shk_threshold{ (float)mean, (float)std, (float)(mean + std * normcdfinv(1 - k / n)), 0 };
}

/* With p the softmax, f = softplus(s2) (1 without spark) and w = p f:
 *   ds2 = dw p sigmoid(s2);  ds = p (dw f - delta) (1 - (s / cap)^2) */
struct train_slope {
    float w, ds, ds2;
};
template <bool SPARK, bool FAST>
static __device__ __forceinline__ train_slope train_back(float s, float s2, float dw, float lse, float delta, float inverse_cap) {
    float p = train_exp<FAST>(s - lse), f = SPARK ? train_softplus<FAST>(s2) : 1, part = s * inverse_cap;
    return train_slope{ p * f, p * (dw * f - delta) * (1 - part * part), SPARK ? dw * p * train_sigmoid<FAST>(s2) : 0 };
}

#endif
#endif
