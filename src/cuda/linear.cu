/* y = W x + b.
 *
 * The k of a matrix are cut into `slices`, a number that its shape decides. A slice is summed in order by one warp, the slices in
 * order. So all kernels here agree to the bit: one token or many, each row's result is the same.
 *
 * Other formats, older devices: f32 multiply-adds, a warp for each row. */
#include "cuda/moments.cuh"
#include "cuda/tiles.cuh"

enum { STEP_RESIDENT = 2, MAX_JOBS = 4, STEP_TOKENS = 8 };

typedef struct job {
    const char *W;
    float *y;
    const float *bias;
    size_t stride, rows;
    size_t before;  /* rows of the jobs before */
    unsigned first; /* tile */
} job;

typedef struct jobs {
    job of[MAX_JOBS];
    unsigned n, tiles;
    double tail;           /* of its rows (moments.cuh) */
    moments *tile_moments; /* of the one result's tiles, [T, tiles]; NULL: not wanted */
    bool gated;            /* two of one shape, whose tiles take turns: the first's result becomes gelu(first) * second */
} jobs;

/* Warps enough for the memory to be busy, and no more of them than run at once. Of many rows one slice is enough, unless they are
 * so short (a predictor's) that blocks of whole rows leave multiprocessors idle: 8.7 us, in two slices 7.3. */
static unsigned slices_of(size_t rows, size_t cols) {
    size_t tiles = blocks_for(rows, 16), groups = shk_cuda_padded(cols) / 64;
    unsigned s = 1;
    if (tiles >= 512 && groups > 16) return 1;
    while (s < 8 && tiles * s < 900 && groups / (2 * s) >= 4) s *= 2;
    return s;
}

static __device__ __forceinline__ const job *job_of(const jobs *j, unsigned tile) {
    unsigned i = 0;
    while (i + 1 < j->n && tile >= j->of[i + 1].first) i++;
    return &j->of[i];
}

/* ---- few tokens: a block's warps share tiles of 16 rows and the slices of k; all of x is in shared memory ---- */

template <format F>
__global__ void __launch_bounds__(STEP_THREADS, STEP_RESIDENT)
    linear_steps(jobs j, const float *x, size_t ldx, unsigned T, unsigned cols, unsigned padded, unsigned slices) {
    enum { AHEAD = F == SHK_CUDA_Q4 ? 6 : 4 }; /* groups that are on their way */
    DYNAMIC_SHARED(char, shared, 128);
    __shared__ float part[8][8][16]; /* [warp][token][row] */
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned per_block = 8 / slices, slice = warp % slices, groups = padded / 64;
    unsigned begin = slice * groups / slices, end = (slice + 1) * groups / slices;
    bool first = true;
    let_next_start();
    for (unsigned base = blockIdx.x * per_block; base < j.tiles; base += gridDim.x * per_block) {
        unsigned tile = base + warp / slices;
        bool mine = tile < j.tiles;
        const job *job = j.gated ? &j.of[tile % 2] : job_of(&j, mine ? tile : 0);
        size_t row = !mine ? 0 : j.gated ? (size_t)(tile / 2) * 16 : (size_t)(tile - job->first) * 16, last = job->rows - 1;
        const char *tiles = job->W + row / 16 * groups * fragment<F>::TILE;
        fragment<F> next[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (mine && begin + i < end) next[i].load(tiles, begin + i, lane);
        if (first) { /* the first weights are on their way while the kernel before ends and x is made */
            touch(j);
            wait_for_previous();
            fetch_rows(shared, x, ldx, T, cols, padded);
            tensor_copy_wait<0>();
            split_rows(shared, x, ldx, T, cols, padded);
            __syncthreads();
            first = false;
        }
        float c[1][1][4] = {};
        const char *at = shared + g * token_bytes(padded) + t * 16;
        for (unsigned k = begin; mine && k < end; k += AHEAD)
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (k + i >= end) break;
                multiply<F, 1, 1>(c, &next[i], [&](int, int h, uint4 *hi, uint4 *lo) {
                    const char *from = at + (k + i) * 256 + h * 128;
                    *hi = g < T ? *(const uint4 *)from : uint4{}, *lo = g < T ? *(const uint4 *)(from + 64) : uint4{};
                });
                if (k + AHEAD + i < end) next[i].load(tiles, k + AHEAD + i, lane);
            }
        for (int i = 0; i < 4; i++) part[warp][2 * t + i % 2][g + i / 2 * 8] = c[0][0][i];
        if (slices > 1) __syncthreads();
        else __syncwarp();
        for (unsigned i0 = 32 * slice; mine && i0 < T * 16; i0 += 32 * slices) { /* whole warps */
            unsigned token = (i0 + lane) / 16, r = lane % 16, rows = last - row < 16 ? (unsigned)(last - row) + 1 : 16;
            float sum = 0;
            if (token < T && r < rows) {
                sum = part[warp - slice][token][r];
                for (unsigned s = 1; s < slices; s++) sum += part[warp - slice + s][token][r];
                if (job->bias) sum += job->bias[row + r];
                if (j.gated) part[warp - slice][token][r] = sum; /* only this thread has read what is there */
                if (!j.gated || tile % 2) job->y[token * job->rows + row + r] = sum;
            }
            if (!j.tile_moments) continue;
            moments m = moments_of_lanes(sum, rows, moments_inverse(rows, j.tail));
            if (!r && token < T) j.tile_moments[token * j.tiles + tile] = m;
        }
        if (j.gated) {
            __syncthreads();
            for (unsigned i = lane + 32 * slice; mine && tile % 2 == 0 && i < T * 16; i += 32 * slices) {
                unsigned token = i / 16, r = i % 16;
                if (row + r > last) continue;
                job->y[token * job->rows + row + r] = gelu(part[warp - slice][token][r]) * part[warp - slice + slices][token][r];
            }
        }
        if (slices > 1 || j.gated) __syncthreads();
        else __syncwarp();
    }
    if (first) wait_for_previous();
}

/* ---- many tokens: a block takes 128 rows, NT * WN * 8 tokens and one slice of k; WN warps side by side take tokens, the others
 * rows. DEPTH groups of weights are on their way in registers, and as many of x to shared memory. ---- */

enum { PASS_THREADS = 256, PASS_ROWS = 128 };

template <int NT, int WN, int DEPTH> struct pass_shape {
    static constexpr unsigned MT = WN, TOKENS = NT * WN * 8, STRIDE = DEPTH * 256 + 64, STAGE = TOKENS * STRIDE,
                              PIECES = DEPTH * 16, /* of 4 values, of a token */
        EACH = TOKENS * PIECES / PASS_THREADS;
};

/* x as in shared memory (the gap between tokens aside). */
__global__ void __launch_bounds__(STEP_THREADS) split_all(char *out, const float *x, size_t ldx, unsigned cols, unsigned padded) {
    in_turn();
    split_row(out + (size_t)blockIdx.x * padded * 4, x + blockIdx.x * ldx, cols, padded);
}

/* SPLIT: x is in `split` already, as split_all has made it; else each block splits what it takes, the faster way for few tokens. */
template <format F, int NT, int WN, int DEPTH, bool SPLIT>
__global__ void __launch_bounds__(PASS_THREADS, 2)
    linear_pass(jobs all, float *parts, const float *x, size_t ldx, const char *split, unsigned T, unsigned cols, unsigned padded,
                unsigned slices) {
    using shape = pass_shape<NT, WN, DEPTH>;
    constexpr int MT = shape::MT;
    DYNAMIC_SHARED(char, shared, 128);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned among = (T + shape::TOKENS - 1) / shape::TOKENS, place = blockIdx.x / among; /* of rows; neighbours share weights */
    unsigned slice = blockIdx.y, groups = padded / 64, token0 = blockIdx.x % among * shape::TOKENS;
    unsigned begin = slice * groups / slices, end = (slice + 1) * groups / slices;
    const job *j = job_of(&all, place);
    size_t row = (size_t)(place - j->first) * PASS_ROWS + warp / WN * (16 * MT), last = j->rows - 1;
    bool whole = cols % 4 == 0 && ldx % 4 == 0 && (uintptr_t)x % 16 == 0;
    const char *tiles[MT];
    fragment<F> next[DEPTH][MT];
    float c[MT][NT][4] = {};
    float4 v[SPLIT ? 1 : shape::EACH];
    /* x from group k on, to a stage: either copied by itself, or taken into registers now and put there later */
    auto get_x = [&](unsigned k, unsigned stage) {
#pragma unroll
        for (unsigned i = 0; i < shape::EACH; i++) {
            unsigned at = threadIdx.x + i * PASS_THREADS, token = token0 + at / shape::PIECES, piece = at % shape::PIECES;
            bool there = token < T && k * 64 + piece * 4 < (SPLIT ? padded : cols);
            if constexpr (SPLIT) {
                tensor_copy16(tensor_address(shared + stage * shape::STAGE + at / shape::PIECES * shape::STRIDE + piece * 16),
                              split + (there ? (size_t)token * padded * 4 + k * 256 + piece * 16 : 0), there);
            } else {
                v[i] = there ? four_of(x + token * ldx, k * 64 + piece * 4, cols, whole) : float4{};
            }
        }
        if constexpr (SPLIT) tensor_copy_group();
    };
    auto put_x = [&](unsigned stage) {
        if constexpr (SPLIT) {
            tensor_copy_wait<0>();
        } else {
#pragma unroll
            for (unsigned i = 0; i < shape::EACH; i++) {
                unsigned at = threadIdx.x + i * PASS_THREADS;
                put_split4(shared + stage * shape::STAGE + at / shape::PIECES * shape::STRIDE, at % shape::PIECES * 4, v[i]);
            }
        }
    };
    let_next_start();
#pragma unroll
    for (int m = 0; m < MT; m++) {
        size_t r = row + m * 16;
        tiles[m] = j->W + (r < last ? r : last) / 16 * groups * fragment<F>::TILE;
#pragma unroll
        for (int i = 0; i < DEPTH; i++)
            if (begin + i < end) next[i][m].load(tiles[m], begin + i, lane);
    }
    wait_for_previous();
    get_x(begin, 0);
    put_x(0);
    __syncthreads();
    const char *mine = shared + (warp % WN * NT * 8 + g) * shape::STRIDE + t * 16;
    unsigned stage = 0;
    for (unsigned k = begin; k < end; k += DEPTH, stage ^= 1) {
        get_x(k + DEPTH, stage ^ 1);
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            if (k + i >= end) break;
            multiply<F, MT, NT>(c, next[i], [&](int n, int h, uint4 *hi, uint4 *lo) {
                const char *from = mine + stage * shape::STAGE + n * 8 * shape::STRIDE + i * 256 + h * 128;
                *hi = *(const uint4 *)from, *lo = *(const uint4 *)(from + 64);
            });
#pragma unroll
            for (int m = 0; m < MT; m++)
                if (k + i + DEPTH < end) next[i][m].load(tiles[m], k + i + DEPTH, lane);
        }
        put_x(stage ^ 1);
        __syncthreads();
    }
    float *y = slices > 1 ? parts + (j->before * slices + (size_t)slice * j->rows) * T : j->y;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                unsigned token = token0 + (warp % WN * NT + n) * 8 + 2 * t + i % 2;
                size_t r = row + m * 16 + g + i / 2 * 8;
                if (token >= T || r > last) continue;
                float v = c[m][n][i];
                y[token * j->rows + r] = slices == 1 && j->bias ? v + j->bias[r] : v;
            }
}

/* The slices of all jobs, in order. */
__global__ void __launch_bounds__(256) add_slices(jobs all, const float *parts, unsigned T, unsigned slices) {
    const job *j = &all.of[blockIdx.y];
    size_t n = j->rows * T;
    in_turn();
    auto sum = [&](const job *j, size_t i) {
        const float *from = parts + j->before * slices * T + i;
        float v = from[0];
        for (unsigned s = 1; s < slices; s++) v += from[s * n];
        return j->bias ? v + j->bias[i % j->rows] : v;
    };
    for (size_t i = blockIdx.x * (size_t)256 + threadIdx.x; i < n; i += gridDim.x * (size_t)256)
        j->y[i] = all.gated ? gelu(sum(j, i)) * sum(j + 1, i) : sum(j, i);
}

/* ---- f32 multiply-adds: a warp for each row, tokens by fours ---- */

template <format F, bool TILED>
__global__ void __launch_bounds__(256) linear_plain(job j, const float *x, size_t ldx, unsigned T, unsigned cols, unsigned padded) {
    unsigned lane = threadIdx.x % 32;
    size_t row = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
    in_turn();
    if (row >= j.rows) return;
    for (unsigned token = blockIdx.y * 4; token < T; token += gridDim.y * 4) {
        float sum[4] = {};
        for (unsigned k = lane * 8; k < padded; k += 256) {
            float v[8];
            load8_of<F, TILED>(v, j.W, j.stride, padded, row, k);
#pragma unroll
            for (int u = 0; u < 4; u++)
                if (token + u < T)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        if (k + i < cols) sum[u] = fmaf(v[i], x[(token + u) * ldx + k + i], sum[u]);
        }
        for (int u = 0; u < 4 && token + u < T; u++) {
            float s = warp_sum(sum[u]);
            if (!lane) j.y[(token + u) * j.rows + row] = j.bias ? s + j.bias[row] : s;
        }
    }
}

/* ---- on the host ---- */

/* Rows [row, ...) as they come from shk_cuda_pack_row, `stride` apart, into tiles; a warp for each. */
__global__ void __launch_bounds__(32) make_tiles(char *to, const char *from, size_t stride, size_t rows, format f, size_t padded) {
    unsigned lane = threadIdx.x, t = lane % 4;
    size_t group = blockIdx.x, first = blockIdx.y * (size_t)16, tile = shk_cuda_tile_bytes(f);
    char *out = to + (blockIdx.y * (size_t)gridDim.x + group) * tile;
    for (unsigned low = 0; low < 2; low++) {
        size_t row = first + low * 8 + lane / 4;
        const char *in = from + row * stride;
        bool there = row < rows;
        if (f == SHK_CUDA_BF16)
            for (unsigned h = 0; h < 2; h++)
                *(uint4 *)(out + (h * 2 + low) * 512 + lane * 16) =
                    there ? *(const uint4 *)(in + group * 128 + h * 64 + t * 16) : uint4{};
        else if (f == SHK_CUDA_Q8)
            *(uint4 *)(out + low * 512 + lane * 16) = there ? *(const uint4 *)(in + group * 64 + t * 16) : uint4{};
        else *(uint2 *)(out + low * 256 + lane * 8) = there ? *(const uint2 *)(in + group * 32 + t * 8) : uint2{};
    }
    if (f == SHK_CUDA_BF16 || lane >= 16) return;
    const char *scales = from + (first + lane) * stride + (f == SHK_CUDA_Q8 ? padded : padded / 2);
    ((uint32_t *)(out + tile - 64))[lane] = first + lane < rows ? ((const uint32_t *)scales)[group] : 0;
}

void cuda_make_tiles(shk_cuda *cu, char *to, const char *from, size_t stride, size_t rows, size_t cols, shk_cuda_format f) {
    size_t padded = shk_cuda_padded(cols);
    launch_as(cu, false, make_tiles, dim3((unsigned)(padded / 64), blocks_for(rows, 16)), 32, 0, to, from, stride, rows, f, padded);
    cuda_note(cu, cudaStreamSynchronize(cu->stream));
}

enum { STEP_SHARED = 90 * 1024 }; /* two blocks of a multiprocessor, at sm_80 */

void cuda_linear_setup(shk_cuda *cu) {
    allow_shared(cu, linear_steps<SHK_CUDA_BF16>);
    allow_shared(cu, linear_steps<SHK_CUDA_Q8>);
    allow_shared(cu, linear_steps<SHK_CUDA_Q4>);
}

/* Products of one x by matrices of one kind, cut into one number of slices, that follow each other: tiles of `height` rows. */
static jobs together(const cuda_op *op, size_t left, unsigned slices, unsigned height) {
    jobs j = {};
    size_t before = 0;
    for (const cuda_op *o = op; j.n < MAX_JOBS && j.n < left; o++) {
        if (j.n && (o->kind != OP_LINEAR || o->x != op->x || o->n[0] != op->n[0] || o->n[1] != op->n[1] ||
                    o->W.cols != op->W.cols || is_tiled(&o->W) != is_tiled(&op->W) ||
                    shk_cuda_format_of(o->W.type) != shk_cuda_format_of(op->W.type) || slices_of(o->W.rows, o->W.cols) != slices))
            break;
        j.of[j.n++] = job{ (const char *)o->W.data, o->y, o->b, o->W.stride, o->W.rows, before, j.tiles };
        j.tiles += blocks_for(o->W.rows, height);
        before += o->W.rows;
    }
    return j;
}

/* The two products before a gelu_mul of theirs alone: their results become gelu(first) * second, the op is taken along. */
static bool is_gated(const jobs *j, const cuda_op *op, size_t left, unsigned T) {
    const cuda_op *after = op + 2;
    return j->n == 2 && left > 2 && after->kind == OP_GELU_MUL && after->y == op[0].y && after->a == op[0].y &&
           after->b == op[1].y && j->of[0].rows == j->of[1].rows && after->n[0] == T * j->of[0].rows;
}

template <format F>
static size_t run_pass(shk_cuda *cu, const cuda_op *op, size_t left, unsigned T, unsigned padded, unsigned slices) {
    jobs j = together(op, left, slices, PASS_ROWS);
    float *parts = (float *)(void *)cu->scratch;
    char *split = cu->scratch + cu->scratch_bytes / 2;
    auto go = [&](auto kernel, unsigned tokens, size_t stage) {
        launch(cu, kernel, dim3(blocks_for(T, tokens) * j.tiles, slices), PASS_THREADS, 2 * stage, j, parts, op->x, op->n[0],
               (const char *)split, T, (unsigned)op->W.cols, padded, slices);
    };
    if (T > 32) launch(cu, split_all, dim3(T), STEP_THREADS, 0, split, op->x, op->n[0], (unsigned)op->W.cols, padded);
    if (T <= 16) go(linear_pass<F, 2, 1, 4, false>, 16, pass_shape<2, 1, 4>::STAGE);
    else if (T <= 32) go(linear_pass<F, 4, 1, 2, false>, 32, pass_shape<4, 1, 2>::STAGE);
    else go(linear_pass<F, 4, 2, 1, true>, 64, pass_shape<4, 2, 1>::STAGE);
    if (slices == 1) return j.n;
    if (j.n == 1 && cuda_is_residual(op + 1, left - 1, op->y, op->W.rows)) {
        size_t rows = op->W.rows;
        return 1 + cuda_run_residual(cu, op + 1, left - 1, row_parts{ parts, op->b, rows * T, rows, slices });
    }
    size_t most = 0;
    for (unsigned i = 0; i < j.n; i++) most = j.of[i].rows * T > most ? j.of[i].rows * T : most;
    j.gated = is_gated(&j, op, left, T);
    launch(cu, add_slices, dim3((unsigned)smaller(blocks_for(most, 256), 4096), j.gated ? 1 : j.n), 256, 0, j, (const float *)parts,
           T, slices);
    return j.n + j.gated;
}

/* No more blocks than run at once: each makes x anew. */
template <format F>
static void run_steps(shk_cuda *cu, const jobs &j, unsigned blocks, size_t shared, const cuda_op *op, unsigned T, unsigned padded,
                      unsigned slices) {
    launch(cu, linear_steps<F>, dim3((unsigned)smaller(blocks, (size_t)cu->sms * STEP_RESIDENT)), STEP_THREADS, shared, j, op->x,
           op->n[0], T, (unsigned)op->W.cols, padded, slices);
}

static void run_plain(shk_cuda *cu, const cuda_op *op, unsigned T, unsigned padded) {
    job j = together(op, 1, 1, 1).of[0];
    dim3 grid(blocks_for(j.rows, 8), (unsigned)smaller(blocks_for(T, 4), 32));
    auto go = [&](auto kernel) { launch(cu, kernel, grid, 256, 0, j, op->x, op->n[0], T, (unsigned)op->W.cols, padded); };
#define CALL(F) is_tiled(&op->W) ? go(linear_plain<F, true>) : go(linear_plain<F, false>)
    BY_FORMAT(shk_cuda_format_of(op->W.type), CALL);
#undef CALL
}

size_t cuda_run_linear(shk_cuda *cu, const cuda_op *op, size_t left) {
    format f = shk_cuda_format_of(op->W.type);
    unsigned T = (unsigned)op->n[1], padded = (unsigned)shk_cuda_padded(op->W.cols), slices = slices_of(op->W.rows, op->W.cols);
    size_t shared = T * token_bytes(padded);
    if (cu->major < 8 || !is_tiled(&op->W)) {
        run_plain(cu, op, T, padded);
        return 1;
    }
    if (T > STEP_TOKENS || shared > STEP_SHARED) {
        if (f == SHK_CUDA_BF16) return run_pass<SHK_CUDA_BF16>(cu, op, left, T, padded, slices);
        if (f == SHK_CUDA_Q8) return run_pass<SHK_CUDA_Q8>(cu, op, left, T, padded, slices);
        return run_pass<SHK_CUDA_Q4>(cu, op, left, T, padded, slices);
    }
    jobs j = together(op, left, slices, 16);
    unsigned per_block = 8 / slices, blocks = blocks_for(j.tiles, per_block), used = j.n;
    if (per_block > 1 && is_gated(&j, op, left, T)) j.gated = true, used++;
    j.tail = moments_tail((unsigned)op->W.rows);
    if (j.n == 1) j.tile_moments = cuda_sparse_moments(cu, op + 1, left - 1, op->y);
    if (f == SHK_CUDA_BF16) run_steps<SHK_CUDA_BF16>(cu, j, blocks, shared, op, T, padded, slices);
    else if (f == SHK_CUDA_Q8) run_steps<SHK_CUDA_Q8>(cu, j, blocks, shared, op, T, padded, slices);
    else run_steps<SHK_CUDA_Q4>(cu, j, blocks, shared, op, T, padded, slices);
    return j.tile_moments ? used + cuda_run_sparse_layer(cu, op + 1, left - 1, true) : used;
}
