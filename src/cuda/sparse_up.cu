/* h = g * (U x) of a sparse layer (sparse_tensor.cuh). */
#include "cuda/sparse_tensor.cuh"

/* Tokens up to which rows of Vt are fetched to the second-level cache while those of U are multiplied. */
enum { FETCH_AHEAD = 4, FEW_RESIDENT = 2 };

/* The neuron at a place of the list, which may be past its end. */
static __device__ __forceinline__ uint32_t neuron_at(const sparse_layer &l, unsigned i) {
    return l.whole ? i : l.list[i < l.n_padded ? i : 0];
}

/* ---- few tokens: a block takes 16 neurons of the list, a warp one slice of the sum ---- */

template <format F> __global__ void __launch_bounds__(SPARSE_THREADS, FEW_RESIDENT) up_few(sparse_layer l) {
    enum { AHEAD = F == SHK_CUDA_BF16 ? 3 : 4 };
    DYNAMIC_SHARED(char, shared, 128);
    __shared__ float part[UP_SLICES][FEW][16]; /* [slice][token][neuron] */
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned groups = l.in_padded / 64, begin = warp * groups / UP_SLICES, end = (warp + 1) * groups / UP_SLICES;
    unsigned token = threadIdx.x / 16, r = threadIdx.x % 16; /* whose h this thread makes */
    const char *at = shared + g * token_bytes(l.in_padded) + t * 16;
    bool first = true;
    in_turn();
    unsigned step = gridDim.x * 16, base = blockIdx.x * 16;
    uint32_t listed[3] = { neuron_at(l, base + g), neuron_at(l, base + g + 8), neuron_at(l, base + r) }; /* of the next tile */
    unsigned count = l.whole ? l.n : *l.listed;
    for (; base < count; base += step) {
        uint32_t id[2] = { base + g < count ? listed[0] : 0, base + g + 8 < count ? listed[1] : 0 }, own = listed[2];
        const char *row[2] = { l.U + id[0] * l.ldu, l.U + id[1] * l.ldu };
        fragment<F> next[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (begin + i < end) next[i].load_rows(row, begin + i, t, l.in_padded);
        if (l.T <= FETCH_AHEAD) /* each warp for two of the neurons */
            for (int i = 0; i < 2; i++) {
                uint32_t wanted = __shfl_sync(0xffffffffu, id[i], (int)warp * 4);
                for (size_t b = lane * 128; base + warp + i * 8 < count && b < l.ldv; b += 32 * 128)
                    prefetch(l.V + wanted * l.ldv + b);
            }
        listed[0] = neuron_at(l, base + step + g), listed[1] = neuron_at(l, base + step + g + 8);
        listed[2] = neuron_at(l, base + step + r);
        uint32_t *h = l.h + (size_t)token * l.n_padded + own;
        bool mine = token < l.T && base + r < count;
        float active = mine ? __uint_as_float(*h) : 0;
        if (first) {
            split_rows(shared, l.x, l.ldx, l.T, l.in, l.in_padded);
            __syncthreads();
            first = false;
        }
        float c[1][1][4] = {};
        for (unsigned k = begin; k < end; k += AHEAD)
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (k + i >= end) break;
                multiply<F, 1, 1>(c, &next[i], [&](int, int h, uint4 *hi, uint4 *lo) {
                    const char *from = at + (k + i) * 256 + h * 128;
                    *hi = g < l.T ? *(const uint4 *)from : uint4{}, *lo = g < l.T ? *(const uint4 *)(from + 64) : uint4{};
                });
                if (k + AHEAD + i < end) next[i].load_rows(row, k + AHEAD + i, t, l.in_padded);
            }
        for (int i = 0; i < 4; i++) part[warp][2 * t + i % 2][g + i / 2 * 8] = c[0][0][i];
        __syncthreads();
        if (mine) {
            float sum = 0;
            for (int s = 0; s < UP_SLICES; s++) sum += part[s][token][r];
            put_h(l, h, active, sum);
        }
        __syncthreads();
    }
}

/* ---- many tokens: x is split before; a block takes 128 neurons and NT * 16 tokens, a warp 32 and half of them. Rows and tokens
 * come through shared memory, a group of 64 values at a time. ---- */

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
    __shared__ uint32_t ids[UP_ROWS];
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned groups = l.in_padded / 64, token0 = blockIdx.y * TOKENS, base = blockIdx.x * UP_ROWS;
    unsigned rows = warp / 2 * 32, columns = warp % 2 * NT * 8; /* of this warp, in the block's */
    in_turn();
    unsigned count = l.whole ? l.n : *l.listed;
    if (base >= count) return;
    if (threadIdx.x < UP_ROWS) ids[threadIdx.x] = base + threadIdx.x < count ? neuron_at(l, base + threadIdx.x) : 0;
    __syncthreads();
    const char *from[COPIES];
#pragma unroll
    for (int i = 0; i < COPIES; i++) {
        unsigned at = threadIdx.x + i * SPARSE_THREADS;
        from[i] = l.U + ids[at / PIECES] * l.ldu + at % PIECES * 16;
    }
    const char *scales = l.U + ids[threadIdx.x % UP_ROWS] * l.ldu + (F == SHK_CUDA_Q8 ? l.in_padded : l.in_padded / 2);
    const char *x = l.split + (size_t)token0 * l.in_padded * 4;
    uint32_t to = tensor_address(shared);
    auto fetch = [&](unsigned group, unsigned stage) {
        uint32_t start = to + stage * STAGE;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            unsigned at = threadIdx.x + i * SPARSE_THREADS, row = at / PIECES;
            tensor_copy16(start + row * ROW + at % PIECES * 16, from[i] + group * fragment<F>::BYTES, base + row < count);
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
        if (token >= l.T || base + r >= count) continue;
        uint32_t *h = l.h + (size_t)token * l.n_padded + ids[r];
        put_h(l, h, __uint_as_float(*h), total[m][n][part]);
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
    if (up_is_few(l)) {
        unsigned blocks = (unsigned)smaller(blocks_for(l.n, 16), (size_t)cu->sms * FEW_RESIDENT);
        launch(cu, up_few<F>, dim3(blocks), SPARSE_THREADS, l.T * token_bytes(l.in_padded), l);
        return;
    }
    offer_for<up_form<F>>(cu, l.T, [&](auto kernel, unsigned tokens, unsigned bytes) {
        launch(cu, kernel, dim3(blocks_for(l.n, UP_ROWS), blocks_for(l.T, tokens)), SPARSE_THREADS, bytes, l);
    });
}

void cuda_sparse_up(shk_cuda *cu, const sparse_layer &l, format f) {
#define CALL(F) run_up<F>(cu, l)
    BY_TENSOR_FORMAT(f, CALL);
#undef CALL
}

template <format F> static void setup(shk_cuda *cu) {
    allow_shared(cu, up_few<F>);
    allow_forms<up_form<F>>(cu);
}

void cuda_sparse_up_setup(shk_cuda *cu) {
    setup<SHK_CUDA_BF16>(cu);
    setup<SHK_CUDA_Q8>(cu);
    setup<SHK_CUDA_Q4>(cu);
}
