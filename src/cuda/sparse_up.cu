/* h = g * (U x) of many tokens of a sparse layer (sparse_tensor.cuh). */
#include "cuda/sparse_tensor.cuh"

/* x is split before; a block takes 128 neurons and NT * 16 tokens, a warp 32 and half of them. Rows and tokens come through shared
 * memory, a group of 64 values at a time. */

enum { UP_ROWS = 128, UP_TOKEN = 256 + 64 };

/* Rows lie apart so that the lanes of a fragment meet all banks. */
template <format F> static __host__ __device__ constexpr unsigned up_row_bytes() {
    return fragment<F>::BYTES + (F == SHK_CUDA_BF16 ? 64 : 0);
}
template <format F> static __host__ __device__ constexpr unsigned up_stage_bytes(unsigned tokens) {
    return UP_ROWS * (up_row_bytes<F>() + 4) + tokens * UP_TOKEN;
}

/* STAGES of them are there or on their way. */
template <format F, int NT, int STAGES> __global__ void __launch_bounds__(SPARSE_THREADS) up_pass(sparse_layer l) {
    enum {
        TOKENS = NT * 16,
        PIECES = fragment<F>::BYTES / 16, /* of a row's group */
        COPIES = UP_ROWS * PIECES / SPARSE_THREADS,
        ROW = up_row_bytes<F>(),
        STAGE = up_stage_bytes<F>(TOKENS)
    };
    DYNAMIC_SHARED(char, shared, 128);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned groups = l.in_padded / 64, token0 = blockIdx.y * TOKENS, base = blockIdx.x * UP_ROWS;
    unsigned rows = warp / 2 * 32, columns = warp % 2 * NT * 8; /* of this warp, in the block's */
    in_turn();
    auto row_of = [&](unsigned r) { return base + r < l.n ? base + r : 0; };
    const char *from[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        unsigned at = threadIdx.x + i * SPARSE_THREADS;
        from[i] = l.U + row_of(at / PIECES) * l.ldu + at % PIECES * 16;
    }
    const char *scales = l.U + row_of(threadIdx.x % UP_ROWS) * l.ldu + (F == SHK_CUDA_Q8 ? l.in_padded : l.in_padded / 2);
    const char *x = l.split + (size_t)token0 * l.in_padded * 4;
    uint32_t to = tensor_address(shared);
    auto fetch = [&](unsigned group, unsigned stage) {
        uint32_t start = to + stage * STAGE;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            unsigned at = threadIdx.x + i * SPARSE_THREADS, row = at / PIECES;
            tensor_copy16(start + row * ROW + at % PIECES * 16, from[i] + group * fragment<F>::BYTES, base + row < l.n);
        }
        start += UP_ROWS * ROW;
        if (F != SHK_CUDA_BF16 && threadIdx.x < UP_ROWS) tensor_copy4(start + threadIdx.x * 4, scales + group * 4, true);
        start += UP_ROWS * 4;
#pragma unroll
        for (int i = 0; i < NT; i++) {
            unsigned at = threadIdx.x + i * SPARSE_THREADS, token = at / 16, piece = at % 16 * 16;
            bool there = token0 + token < l.T;
            tensor_copy16(start + token * UP_TOKEN + piece, x + (size_t)(there ? token : 0) * l.in_padded * 4 + group * 256 + piece,
                          there);
        }
    };
    for (unsigned i = 0; i < STAGES - 1; i++) {
        if (i < groups) fetch(i, i);
        tensor_copy_group();
    }
    float total[2][NT][4] = {}, c[2][NT][4] = {};
    unsigned stage = 0, slice = 0, border = 0;
    /* goes on to one that ends after k groups */
    auto next_slice = [&](unsigned k) {
        while (slice < UP_SLICES && (border = ++slice * groups / UP_SLICES) <= k) {}
    };
    next_slice(0);
    for (unsigned k = 0; k < groups; k++) {
        tensor_copy_wait<STAGES - 2>();
        __syncthreads(); /* this stage is there, and nobody is at the one before any more */
        if (k + STAGES - 1 < groups) fetch(k + STAGES - 1, stage ? stage - 1 : STAGES - 1);
        tensor_copy_group();
        const char *start = shared + stage * STAGE;
        fragment<F> w[2];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            unsigned r = rows + m * 16 + g;
            const char *row[2] = { start + r * ROW, start + (r + 8) * ROW };
            w[m].load_shared(row, t, (const uint32_t *)(const void *)(start + UP_ROWS * ROW) + r);
        }
        const char *mine = start + UP_ROWS * (ROW + 4) + (columns + g) * UP_TOKEN + t * 16;
        multiply<F, 2, NT>(c, w, [&](int n, int h, uint4 *hi, uint4 *lo) {
            const char *from = mine + n * 8 * UP_TOKEN + h * 128;
            *hi = *(const uint4 *)from, *lo = *(const uint4 *)(from + 64);
        });
        stage = stage + 1 < STAGES ? stage + 1 : 0;
        if (k + 1 < border) continue;
#pragma unroll
        for (int i = 0; i < 2 * NT * 4; i++) {
            float *sum = &total[i / (NT * 4)][i / 4 % NT][i % 4], *chain = &c[i / (NT * 4)][i / 4 % NT][i % 4];
            *sum += *chain, *chain = 0;
        }
        next_slice(k + 1);
    }
#pragma unroll
    for (int i = 0; i < 2 * NT * 4; i++) {
        int m = i / (NT * 4), n = i / 4 % NT, part = i % 4;
        unsigned token = token0 + columns + n * 8 + 2 * t + part % 2, r = rows + m * 16 + g + part / 2 * 8;
        if (token >= l.T || base + r >= l.n) continue;
        uint32_t *h = l.h + (size_t)token * l.n_padded + base + r;
        *h = h_of(l, __uint_as_float(*h), total[m][n][part]);
    }
}

/* ---- on the host ---- */

template <format F> struct up_form {
    enum { WIDE = F == SHK_CUDA_BF16 }; /* where there are scales, registers do not suffice for 128 tokens */
    static constexpr unsigned stage(unsigned tokens) { return up_stage_bytes<F>(tokens); }
    static constexpr int deep(int nt) { return nt == 1 ? 6 : nt == 2 ? 5 : nt == 4 ? 4 : 3; }
    template <int NT, int STAGES> static auto kernel() { return up_pass<F, NT, STAGES>; }
};

template <format F> static void run_up(shk_cuda *cu, const sparse_layer &l) {
    offer_for<up_form<F>>(cu, l.T, [&](auto kernel, unsigned tokens, unsigned bytes) {
        launch(cu, kernel, dim3(blocks_for(l.n, UP_ROWS), blocks_for(l.T, tokens)), SPARSE_THREADS, bytes, l);
    });
}

void cuda_sparse_up(shk_cuda *cu, const sparse_layer &l, format f) {
#define CALL(F) run_up<F>(cu, l)
    BY_TENSOR_FORMAT(f, CALL);
#undef CALL
}

void cuda_sparse_up_setup(shk_cuda *cu) {
    allow_forms<up_form<SHK_CUDA_BF16>>(cu);
    allow_forms<up_form<SHK_CUDA_Q8>>(cu);
    allow_forms<up_form<SHK_CUDA_Q4>>(cu);
}
