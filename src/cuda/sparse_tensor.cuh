/* A sparse layer by tensor cores, where its matrices by rows are bf16, q8 or q4, in three kernels (two for sparse_up):
 *
 *   choose  g[t, j] = gelu(s - theta), exactly 0 where a neuron is inactive; which neurons any token of the pass wants
 *   up      h[t, j] = g[t, j] * (U[j] . x[t]), 0 where g is; a row's product does not depend on which rows share its tile
 *   down    y[t] = sum over j of h[t, j] * Vt[j]
 *
 * A token's result has the same bits whichever tokens are with it and whichever rows are read: sums go over neurons where they are,
 * 16 neighbours to a product of tensor cores, and a row that nobody wants may as well be zeros. So few tokens read the rows that
 * one of them wants, many read whole matrices.
 *
 * Order of sums. up: UP_SLICES of the row, each in order, then they in order. down: the neurons by units of 64 are cut into
 * slices_of(out) slices of DOWN_PARTS parts; a part in order, the parts of a slice, the slices. */
#ifndef SHK_CUDA_SPARSE_TENSOR_CUH
#define SHK_CUDA_SPARSE_TENSOR_CUH

#include "cuda/tiles.cuh"

/* FEW tokens are the columns of one product. With more than WHOLE all rows are read: by measurement (docs/RESULTS.md) a list of
 * what they want between them pays up to there. */
enum { FEW = 8, WHOLE = 8, SPARSE_THREADS = 256, UP_SLICES = 8, DOWN_PARTS = 8, UNIT = 64 };
static_assert(WHOLE <= FEW, "the kernels for many tokens read all rows of Vt");
enum { WIDEST = 16384, FEW_SHARED = 64 * 1024 }; /* neurons and outputs; bytes of x */

/* A layer's pass. */
typedef struct sparse_layer {
    const char *U, *V;
    size_t ldu, ldv;
    unsigned T, in, in_padded, out, out_padded, n, n_padded;
    const float *x;
    size_t ldx;
    float *y;          /* NULL: the slices stay apart */
    bool pairs, whole; /* h is kept as split by bf16; every row is read, there is no list */
    unsigned slices;   /* of the sum over neurons */
    uint32_t *h;       /* [T, n_padded] g as f32, then h; not wanted: 0 */
    uint32_t *active;  /* [T, n_padded / 32] bits */
    uint32_t *wanted;  /* [n_padded / 32] bits: by any token */
    uint32_t *list;    /* [n_padded] the same as ids, ascending */
    uint32_t *listed;  /* how many */
    char *split;       /* [T, in_padded] x as hi + lo */
    float *parts;      /* [slices, T, out_padded] */
    uint32_t *counters;
    device_work *work;
} sparse_layer;

void cuda_sparse_choose(shk_cuda *cu, const sparse_layer &l, const cuda_op *op);
void cuda_sparse_up(shk_cuda *cu, const sparse_layer &l, format f);
void cuda_sparse_down(shk_cuda *cu, const sparse_layer &l, format f);
void cuda_sparse_up_setup(shk_cuda *cu);
void cuda_sparse_down_setup(shk_cuda *cu);

/* Whether `up` is the kernel for few tokens, each of whose blocks makes x anew; else `choose` splits x. */
static __host__ __device__ __forceinline__ bool up_is_few(const sparse_layer &l) {
    return l.T <= FEW && l.T * token_bytes(l.in_padded) <= FEW_SHARED;
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
static __device__ __forceinline__ void put_h(const sparse_layer &l, uint32_t *at, float g, float dot) {
    float h = g == 0 ? 0 : g * dot;
    uint32_t hi, lo;
    if (l.pairs) split2(h, 0, &hi, &lo);
    *at = l.pairs ? hi & 0xffff | lo << 16 : __float_as_uint(h);
}

#endif
