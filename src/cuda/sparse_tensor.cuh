/* A sparse layer by tensor cores, where its matrices by rows are bf16, q8 or q4:
 *
 *   g[t, j] = gelu(s - theta), exactly 0 where a neuron is inactive
 *   h[t, j] = g[t, j] * (U[j] . x[t]), 0 where g is; a row's product does not depend on which rows share its tile
 *   y[t] = sum over j of h[t, j] * Vt[j]
 *
 * Few tokens (sparse_few.cu): one kernel, which reads the rows that one of them wants, and one that adds up. Many: choose, up and
 * down, which read whole matrices. A token's result has the same bits either way: sums go over neurons where they are, 16
 * neighbours to a product of tensor cores, and a row that nobody wants may as well be zeros.
 *
 * Order of sums. theta: moments.cuh. up: UP_SLICES of the row, each in order,
 * then they in order. down: a unit of 64 neurons in order; units by slices_of(out) slices, each in order; the slices. */
#ifndef SHK_CUDA_SPARSE_TENSOR_CUH
#define SHK_CUDA_SPARSE_TENSOR_CUH

#include "cuda/moments.cuh"
#include "cuda/tiles.cuh"

/* FEW tokens are the columns of one product. By measurement (docs/RESULTS.md) what they want between them is less work than whole
 * matrices up to there. */
enum { FEW = 8, SPARSE_THREADS = 256, UP_SLICES = 8, UNIT = 64 };
enum { WIDEST = 16384 }; /* neurons and outputs */
static_assert(WIDEST <= MOMENTS_MOST * MOMENTS_TILE, "a block holds the moments of all tiles");

/* A layer's pass. */
typedef struct sparse_layer {
    const char *U, *V;
    size_t ldu, ldv;
    unsigned T, in, in_padded, out, out_padded, n, n_padded;
    const float *scores, *x; /* [T, n]; [T], ldx apart */
    size_t ldx;
    double spread, inverse_n,
        tail;          /* tail: of the scores' tiles (moments.cuh); theta = mean + spread * sqrt(sum of squares); -inf: n <= k */
    uint32_t *counts;  /* [T] of active neurons */
    float *y;          /* NULL: the slices stay apart */
    bool dense, pairs; /* dense: every neuron counts as active; pairs: h is kept as split by bf16 */
    unsigned units, slices;
    uint32_t *h;     /* [T, n_padded] g as f32, then h; of few tokens, where it is the result */
    char *split;     /* many: [T, in_padded] x as hi + lo */
    float *parts;    /* [slices, T, out_padded]; few: [units, T, out_padded] */
    moments *tiles;  /* few: [T, tiles of the scores] */
    uint32_t *found; /* few: [units, T + 1] active neurons; of any token */
    uint32_t *counters;
    device_work *work;
} sparse_layer;

/* Rows of Vt (`v`) that a block of few tokens has room for; 0: too few, or too long an x. */
unsigned cuda_sparse_room(const shk_cuda *cu, const sparse_layer &l, format v);
void cuda_sparse_few(shk_cuda *cu, const sparse_layer &l, const residual_args &after, format u, format v, bool tiles);
void cuda_sparse_up(shk_cuda *cu, const sparse_layer &l, format f);
void cuda_sparse_down(shk_cuda *cu, const sparse_layer &l, format f);
void cuda_sparse_few_setup(shk_cuda *cu);
void cuda_sparse_up_setup(shk_cuda *cu);
void cuda_sparse_down_setup(shk_cuda *cu);

/* The first unit of a slice. */
static __device__ __forceinline__ unsigned unit_of(const sparse_layer &l, unsigned slice) { return slice * l.units / l.slices; }

/* What a neuron's score must be above, from the joined moments of its token's. n <= k keeps all as they are: the soft form has
 * nothing to subtract. A NaN keeps them too, so that it is seen. */
typedef struct threshold {
    float theta, shift;
    bool all;
    __device__ __forceinline__ bool keeps(float s) const { return all || s > theta; }
} threshold;
static __device__ __forceinline__ threshold threshold_of(const sparse_layer &l, const moments &m) {
    bool none = l.spread == -INFINITY;
    float theta = none ? -INFINITY : (float)fma(sqrt(m.squares), l.spread, m.sum * l.inverse_n);
    return threshold{ theta, none ? 0 : theta, !(theta > -INFINITY) };
}

/* A call by one of the formats that have tensor-core kernels. */
#define BY_TENSOR_FORMAT(f, call)                                                                                                  \
    do {                                                                                                                           \
        if ((f) == SHK_CUDA_BF16) call(SHK_CUDA_BF16);                                                                             \
        else if ((f) == SHK_CUDA_Q8) call(SHK_CUDA_Q8);                                                                            \
        else call(SHK_CUDA_Q4);                                                                                                    \
    } while (0)

/* The kernels for many tokens have forms for NT * 16 of them, with stages of shared memory, some of which are on their way: `Form`
 * says how large one is, how many are best where there is room (3 do), and the kernel. Calls go(kernel, tokens, bytes) with the
 * deepest that fits; false: none does. The smallest always is taken to. */
template <typename Form, int NT, typename G> static bool offer(const shk_cuda *cu, G go) {
    constexpr unsigned stage = Form::stage(NT * 16), reserve = 2048;
    constexpr int deep = Form::deep(NT);
    if (deep * stage + reserve <= cu->shared) go(Form::template kernel<NT, deep>(), NT * 16, deep * stage);
    else if (NT > 1 && 3 * stage + reserve > cu->shared) return false;
    else go(Form::template kernel<NT, 3>(), NT * 16, 3 * stage);
    return true;
}

/* The form for T tokens. */
template <typename Form, typename G> static void offer_for(const shk_cuda *cu, unsigned T, G go) {
    if constexpr (Form::WIDE) {
        if (T > 64 && offer<Form, 8>(cu, go)) return;
    }
    if (T > 32 && offer<Form, 4>(cu, go)) return;
    if (T > 16 && offer<Form, 2>(cu, go)) return;
    offer<Form, 1>(cu, go);
}

template <typename Form> static void allow_forms(shk_cuda *cu) {
    auto allow = [&](auto kernel, unsigned, unsigned) { allow_shared(cu, kernel); };
    offer<Form, 1>(cu, allow), offer<Form, 2>(cu, allow), offer<Form, 4>(cu, allow);
    if constexpr (Form::WIDE) offer<Form, 8>(cu, allow);
}

/* h as it is kept: for bf16 weights hi and lo, else f32, since a scale comes first. Nobody's h: 0. */
static __device__ __forceinline__ uint32_t h_of(const sparse_layer &l, float g, float dot) {
    float h = g == 0 ? 0 : g * dot;
    uint32_t hi, lo;
    if (l.pairs) split2(h, 0, &hi, &lo);
    return l.pairs ? hi & 0xffff | lo << 16 : __float_as_uint(h);
}

#endif
