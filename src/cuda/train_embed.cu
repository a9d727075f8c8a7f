/* Training ops of embeddings. Rows of one word are found by sorting, so that its gradient is summed in the order of the rows. */
#include "cuda/train.cuh"

template <typename A, int V>
static __global__ void embed_rows(A *x, const float *E, size_t stride, const int32_t *tokens, size_t N, size_t d, float scale) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= N * d) return;
    float v[V];
    load<V>(v, E + (size_t)tokens[i / d] * stride + i % d);
    for (int j = 0; j < V; j++) v[j] *= scale;
    store<V>(x + i, v);
}

void shk_cuda_train_embed(void *dev, shk_act *x, const shk_mat *E, const int32_t *tokens, size_t N, float scale) {
    shk_cuda *cu = (shk_cuda *)dev;
    size_t d = E->cols, stride = E->stride / sizeof(float);
    by_pack(cu, d, { x, E->data }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        train_launch(cu, embed_rows<A, V>, blocks_for(N * d, 256 * V), 256, 0, (A *)(void *)x, (const float *)E->data, stride,
                     tokens, N, d, scale);
    });
}

/* ---- sorting: by eight bits at a time, from the lowest, each time keeping the order of equals ---- */

enum { DIGITS = 256, SORT_THREADS = 1024 };

typedef struct keyed {
    const int32_t *keys;
    const uint32_t *rows; /* NULL: 0, 1, 2... */
} keyed;

/* counts[digit, block]: how many of a block's keys have the digit. */
static __global__ void __launch_bounds__(SORT_THREADS) count_digits(uint32_t *counts, const int32_t *keys, size_t N, int shift) {
    __shared__ uint32_t count[DIGITS];
    size_t i = (size_t)blockIdx.x * SORT_THREADS + threadIdx.x;
    if (threadIdx.x < DIGITS) count[threadIdx.x] = 0;
    __syncthreads();
    if (i < N) atomicAdd(&count[(uint32_t)keys[i] >> shift & (DIGITS - 1)], 1);
    __syncthreads();
    if (threadIdx.x < DIGITS) counts[threadIdx.x * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

/* Counts become the sums of those before them. One block. */
static __global__ void __launch_bounds__(SORT_THREADS) sum_before(uint32_t *counts, size_t n) {
    __shared__ uint32_t space[32];
    size_t each = (n + SORT_THREADS - 1) / SORT_THREADS, begin = min(threadIdx.x * each, n), end = min(begin + each, n);
    uint32_t sum = 0, total;
    for (size_t i = begin; i < end; i++) sum += counts[i];
    sum = block_before(sum, &total, space);
    for (size_t i = begin; i < end; i++) {
        uint32_t count = counts[i];
        counts[i] = sum;
        sum += count;
    }
}

static __global__ void __launch_bounds__(SORT_THREADS)
    move_to_places(int32_t *keys, uint32_t *rows, keyed from, const uint32_t *places, size_t N, int shift) {
    __shared__ uint32_t before[SORT_THREADS / 32][DIGITS]; /* of a digit, in the warps before */
    size_t i = (size_t)blockIdx.x * SORT_THREADS + threadIdx.x;
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t key = i < N ? from.keys[i] : 0;
    uint32_t digit = i < N ? (uint32_t)key >> shift & (DIGITS - 1) : DIGITS;
    uint32_t same = __match_any_sync(0xffffffffu, digit), rank = (uint32_t)__popc(same & ((1u << lane) - 1));
    for (unsigned d = lane; d < DIGITS; d += 32) before[warp][d] = 0;
    __syncwarp();
    if (i < N && !rank) before[warp][digit] = (uint32_t)__popc(same);
    __syncthreads();
    if (threadIdx.x < DIGITS) {
        uint32_t sum = places[threadIdx.x * gridDim.x + blockIdx.x];
        for (unsigned w = 0; w < SORT_THREADS / 32; w++) {
            uint32_t n = before[w][threadIdx.x];
            before[w][threadIdx.x] = sum;
            sum += n;
        }
    }
    __syncthreads();
    if (i >= N) return;
    uint32_t place = before[warp][digit] + rank;
    keys[place] = key;
    rows[place] = from.rows ? from.rows[i] : (uint32_t)i;
}

/* Sorts N tokens; the last of four moves ends in the second of two places. `space` [5 N + 256], values of 4 bytes. */
static keyed sort_tokens(shk_cuda *cu, const int32_t *tokens, size_t N, uint32_t *space) {
    unsigned blocks = blocks_for(N, SORT_THREADS);
    uint32_t *places = space + 4 * N;
    keyed at = { tokens, NULL };
    for (int move = 0; move < 4; move++) {
        int32_t *keys = (int32_t *)(space + (size_t)(move % 2) * 2 * N);
        uint32_t *rows = (uint32_t *)keys + N;
        train_launch(cu, count_digits, blocks, SORT_THREADS, 0, places, at.keys, N, 8 * move);
        train_launch(cu, sum_before, 1, SORT_THREADS, 0, places, (size_t)blocks * DIGITS);
        train_launch(cu, move_to_places, blocks, SORT_THREADS, 0, keys, rows, at, places, N, 8 * move);
        at = keyed{ keys, rows };
    }
    return at;
}

/* ---- the gradient ---- */

/* Rows in the order of their tokens, those of a token in their own order: it is a run of them. Pieces of the rows are summed run by
 * run. A run within a piece goes to its row of dE; of one that began before, the sum goes to ends[piece, 0], of one that goes on
 * behind the piece to ends[piece, 1], and whoever has a run's beginning adds those up. */
typedef struct runs {
    const int32_t *tokens;
    const uint32_t *rows;
    float *ends; /* [pieces, 2, d] */
    size_t N, piece, d;
} runs;

template <typename A, int V>
static __global__ void sum_runs(float *__restrict__ dE, const A *__restrict__ dx, runs r, float scale) {
    size_t begin = blockIdx.x * r.piece, end = min(begin + r.piece, r.N);
    for (size_t j = threadIdx.x * V; j < r.d; j += blockDim.x * V) {
        bool before = begin && r.tokens[begin] == r.tokens[begin - 1];
        float sum[V] = {};
#pragma unroll 4
        for (size_t i = begin; i < end; i++) {
            float v[V];
            load<V>(v, dx + (size_t)__ldg(&r.rows[i]) * r.d + j);
            for (int k = 0; k < V; k++) sum[k] += v[k];
            bool goes_on = i + 1 < r.N && __ldg(&r.tokens[i + 1]) == __ldg(&r.tokens[i]);
            if (goes_on && i + 1 < end) continue;
            if (before || goes_on) {
                store<V>(r.ends + ((size_t)blockIdx.x * 2 + !before) * r.d + j, sum);
            } else {
                float *to = dE + (size_t)r.tokens[i] * r.d + j;
                for (int k = 0; k < V; k++) to[k] += scale * sum[k];
            }
            before = false;
            for (int k = 0; k < V; k++) sum[k] = 0;
        }
    }
}

static __global__ void join_runs(float *dE, runs r, float scale) {
    size_t last = (blockIdx.x + (size_t)1) * r.piece - 1, begin = last + 1 - r.piece;
    if (last + 1 >= r.N || r.tokens[last] != r.tokens[last + 1]) return;                   /* no run goes on */
    if (begin && r.tokens[begin - 1] == r.tokens[last]) return; /* it began before */
    for (size_t j = threadIdx.x; j < r.d; j += blockDim.x) {
        float sum = r.ends[((size_t)blockIdx.x * 2 + 1) * r.d + j];
        for (size_t p = blockIdx.x + (size_t)1; p * r.piece < r.N && r.tokens[p * r.piece] == r.tokens[last]; p++)
            sum += r.ends[p * 2 * r.d + j];
        dE[(size_t)r.tokens[last] * r.d + j] += scale * sum;
    }
}

void shk_cuda_train_embed_grad(void *dev, float *dE, const shk_act *dx, const int32_t *tokens, size_t N, size_t d, float scale) {
    enum { PIECES = 1024, LEAST = 64 };
    shk_cuda *cu = (shk_cuda *)dev;
    size_t piece = (N + PIECES - 1) / PIECES, room = cu->scratch_bytes / sizeof(float);
    if (piece < LEAST) piece = LEAST;
    size_t pieces = (N + piece - 1) / piece, n_ends = (pieces * 2 * d + 63) & ~(size_t)63;
    if (n_ends + 5 * N + DIGITS > room) cuda_note(cu, cudaErrorMemoryAllocation);
    float *ends = (float *)(void *)cu->scratch;
    const keyed sorted = sort_tokens(cu, tokens, N, (uint32_t *)(void *)(ends + n_ends));
    const runs r = { sorted.keys, sorted.rows, ends, N, piece, d };
    by_pack(cu, d, { dx, dE }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        unsigned threads = blocks_for(smaller(d / V, 256), 32) * 32;
        train_launch(cu, sum_runs<A, V>, (unsigned)pieces, threads, 0, dE, (const A *)(const void *)dx, r, scale);
    });
    train_launch(cu, join_runs, (unsigned)pieces, 256, 0, dE, r, scale);
}
