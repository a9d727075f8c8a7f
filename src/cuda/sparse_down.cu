/* y = sum of h * Vt over the neurons of a sparse layer, for many tokens (sparse_rows.cuh). */
#include "cuda/sparse_rows.cuh"

/* A slice's sums are in l.parts: the last block of these outputs and tokens adds the slices up, unless somebody else will. */
static __device__ __forceinline__ void add_slices(const sparse_layer &l, unsigned first, unsigned width, unsigned token0,
                                                  unsigned tokens, uint32_t *arrived) {
    if (!l.y || !is_last(arrived, l.slices)) return;
    size_t step = (size_t)l.T * l.out_padded;
#pragma unroll 2
    for (unsigned i = threadIdx.x; i < tokens * (width / 4); i += SPARSE_THREADS) {
        unsigned token = token0 + i / (width / 4), at = first + i % (width / 4) * 4;
        if (token >= l.T || at >= l.out) continue;
        const float *from = l.parts + (size_t)token * l.out_padded + at;
        float4 sum = {};
#pragma unroll 8
        for (unsigned s = 0; s < l.slices; s++) {
            float4 v = __ldcg((const float4 *)(const void *)(from + s * step));
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        float *y = l.y + (size_t)token * l.out + at;
        y[0] = sum.x;
        if (at + 1 < l.out) y[1] = sum.y;
        if (at + 2 < l.out) y[2] = sum.z;
        if (at + 3 < l.out) y[3] = sum.w;
    }
}

/* A block takes 128 outputs, NT * 16 tokens and a slice, a warp 32 outputs and half of the tokens. Rows and h come through shared
 * memory, a unit of 64 neurons at a time. */

enum { DOWN_TOKEN = UNIT * 4 + 64 }; /* tokens lie apart so that the lanes of a fragment meet all banks */

template <format F> static __host__ __device__ constexpr unsigned down_stage_bytes(unsigned tokens) {
    return 2 * UNIT * (row_bytes<F>() + 4) + tokens * DOWN_TOKEN;
}

/* STAGES of them are there or on their way. */
template <format F, int NT, int STAGES> __global__ void __launch_bounds__(SPARSE_THREADS) down_pass(sparse_layer l) {
    enum {
        TOKENS = NT * 16,
        ROW = row_bytes<F>(),
        SCALES = 2 * UNIT * ROW,
        H = SCALES + 2 * UNIT * 4,
        STAGE = down_stage_bytes<F>(TOKENS)
    };
    DYNAMIC_SHARED(char, shared, 128);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned half = warp / 4, b = warp / 2 % 2, columns = warp % 2 * NT * 8; /* of outputs, of 64; tokens */
    unsigned slice = blockIdx.y, token0 = blockIdx.z * TOKENS, neuron = neuron_of(lane);
    unsigned begin = unit_of(l, slice), end = unit_of(l, slice + 1);
    in_turn();
    uint32_t space = tensor_address(shared);
    unsigned column = blockIdx.x * 2 + threadIdx.x / 8 % 2; /* what this thread copies of every row */
    bool exists = column < l.out_padded / COLUMNS;
    auto fetch = [&](unsigned unit, unsigned stage) {
        uint32_t at = space + stage * STAGE;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            unsigned r = threadIdx.x / 16 + i * 16, id = unit * UNIT + r;
            bool there = exists && id < l.n;
            copy_piece<F>(at + threadIdx.x / 8 % 2 * (UNIT * ROW), r, l.V + (there ? id : 0) * l.ldv, exists ? column : 0,
                          threadIdx.x % 8, there);
        }
        if (F != SHK_CUDA_BF16 && threadIdx.x < 2 * UNIT) {
            unsigned id = unit * UNIT + threadIdx.x % UNIT, of = blockIdx.x * 2 + threadIdx.x / UNIT;
            bool there = of < l.out_padded / COLUMNS && id < l.n;
            copy_scales<F>(at + SCALES + threadIdx.x * 4, l.V + (there ? id : 0) * l.ldv, there ? of : 0, l.out_padded, there);
        }
#pragma unroll
        for (int i = 0; i < NT; i++) {
            unsigned piece = threadIdx.x + i * SPARSE_THREADS, token = piece / 16;
            bool there = token0 + token < l.T;
            tensor_copy16(at + H + token * DOWN_TOKEN + piece % 16 * 16,
                          l.h + (size_t)(there ? token0 + token : 0) * l.n_padded + unit * UNIT + piece % 16 * 4, there);
        }
    };
    for (unsigned i = 0; i < STAGES - 1; i++) {
        if (begin + i < end) fetch(begin + i, i);
        tensor_copy_group();
    }
    float total[NT][2][4] = {}, c[NT][2][4] = {};
    unsigned stage = 0;
    for (unsigned unit = begin; unit < end; unit++) {
        tensor_copy_wait<STAGES - 2>();
        __syncthreads(); /* this stage is there, and nobody is at the one before any more */
        if (unit + STAGES - 1 < end) fetch(unit + STAGES - 1, stage ? stage - 1 : STAGES - 1);
        tensor_copy_group();
        const char *h = shared + stage * STAGE + H + (columns + g) * DOWN_TOKEN + t * 16;
        uint32_t rows = space + stage * STAGE + half * (UNIT * ROW);
        const uint32_t *scales = (const uint32_t *)(const void *)(shared + stage * STAGE + SCALES) + half * UNIT + 4 * t;
#pragma unroll
        for (unsigned group = 0; group < UNIT / 16; group++) {
            uint32_t a[2][4];
            float d[4];
            unsigned r = group * 16 + neuron;
            for (int j = 0; j < 4; j++) d[j] = F == SHK_CUDA_BF16 ? 1 : scale_of(scales[group * 16 + j], b);
            turned<F>(a, rows + r * ROW, mixed<F>(r), b, lane);
#pragma unroll
            for (int n = 0; n < NT; n++)
                add_products<F>(c[n], a, *(const uint4 *)(const void *)(h + n * 8 * DOWN_TOKEN + group * 64), d);
        }
        stage = stage + 1 < STAGES ? stage + 1 : 0;
#pragma unroll
        for (int i = 0; i < NT * 8; i++)
            total[i / 8][i / 4 % 2][i % 4] += c[i / 8][i / 4 % 2][i % 4], c[i / 8][i / 4 % 2][i % 4] = 0;
    }
#pragma unroll
    for (int i = 0; i < NT * 8; i++) {
        unsigned token = token0 + columns + i / 8 * 8 + 2 * t + i % 2;
        unsigned at = blockIdx.x * 128 + half * COLUMNS + b * 32 + output_of<F>(i / 4 % 2, i / 2 % 2, g);
        if (token < l.T && at < l.out_padded)
            l.parts[((size_t)slice * l.T + token) * l.out_padded + at] = total[i / 8][i / 4 % 2][i % 4];
    }
    add_slices(l, blockIdx.x * 128, 128, token0, TOKENS, l.counters + blockIdx.z * gridDim.x + blockIdx.x);
}

/* ---- on the host ---- */

template <format F> struct down_form {
    enum { WIDE = 1 };
    static constexpr unsigned stage(unsigned tokens) { return down_stage_bytes<F>(tokens); }
    static constexpr int deep(int nt) { return nt == 1 ? 7 : nt == 2 ? 6 : nt == 4 ? 4 : 3; }
    template <int NT, int STAGES> static auto kernel() { return down_pass<F, NT, STAGES>; }
};

template <format F> static void run_down(shk_cuda *cu, const sparse_layer &l) {
    offer_for<down_form<F>>(cu, l.T, [&](auto kernel, unsigned tokens, unsigned bytes) {
        launch(cu, kernel, dim3(blocks_for(l.out, 128), l.slices, blocks_for(l.T, tokens)), SPARSE_THREADS, bytes, l);
    });
}

void cuda_sparse_down(shk_cuda *cu, const sparse_layer &l, format f) {
#define CALL(F) run_down<F>(cu, l)
    BY_TENSOR_FORMAT(f, CALL);
#undef CALL
}

void cuda_sparse_down_setup(shk_cuda *cu) {
    allow_forms<down_form<SHK_CUDA_BF16>>(cu);
    allow_forms<down_form<SHK_CUDA_Q8>>(cu);
    allow_forms<down_form<SHK_CUDA_Q4>>(cu);
}
