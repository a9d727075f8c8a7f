/* y = W x + b.
 *
 * The k of a matrix are cut into `slices`, a number that its shape decides. A slice is summed in order by one warp, the slices in
 * order. So all kernels here agree to the bit: one token or many, each row's result is the same.
 *
 * Other formats, older devices: f32 multiply-adds, a warp for each row. */
#include "cuda/tiles.cuh"

enum { STEP_RESIDENT = 3, MAX_JOBS = 4, STEP_TOKENS = 8 };

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
    bool gated; /* two of one shape, whose tiles take turns: the first's result becomes gelu(first) * second */
} jobs;

static unsigned slices_of(size_t rows, size_t cols) {
    size_t tiles = blocks_for(rows, 16), groups = shk_cuda_padded(cols) / 64;
    unsigned s = 1;
    while (s < 8 && tiles * s < 900 && groups / (2 * s) >= 4) s *= 2;
    return s;
}

static __device__ __forceinline__ const job *job_of(const jobs *j, unsigned tile) {
    unsigned i = 0;
    while (i + 1 < j->n && tile >= j->of[i + 1].first) i++;
    return &j->of[i];
}

/* ---- few tokens: a block's warps share tiles of 16 rows and the slices of k; all of x is in shared memory ---- */

/* Three blocks to a multiprocessor: where a kernel has two, the next one's first blocks are up already, their weights on the way.
 * */
template <format F>
__global__ void __launch_bounds__(STEP_THREADS, STEP_RESIDENT)
    linear_steps(jobs j, const float *x, size_t ldx, unsigned T, unsigned cols, unsigned padded, unsigned slices) {
    enum { AHEAD = F == SHK_CUDA_Q4 ? 4 : 2 }; /* groups that are on their way */
    extern __shared__ __align__(128) char shared[];
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
            wait_for_previous();
            for (unsigned token = 0; token < T; token++)
                split_row(shared + token * token_bytes(padded), x + token * ldx, cols, padded);
            __syncthreads();
            first = false;
        }
        float c[1][1][4] = {};
        const char *at = shared + g * token_bytes(padded) + t * 16;
        for (unsigned k = begin; mine && k < end; k += AHEAD)
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (k + i >= end) break;
                multiply<F, 1, 1>(c, &next[i], at + (k + i) * 256, 0, (int)T - (int)g);
                if (k + AHEAD + i < end) next[i].load(tiles, k + AHEAD + i, lane);
            }
        for (int i = 0; i < 4; i++) part[warp][2 * t + i % 2][g + i / 2 * 8] = c[0][0][i];
        if (slices > 1) __syncthreads();
        else __syncwarp();
        for (unsigned i = lane + 32 * slice; mine && i < T * 16; i += 32 * slices) {
            unsigned token = i / 16, r = i % 16;
            if (row + r > last) continue;
            float sum = part[warp - slice][token][r];
            for (unsigned s = 1; s < slices; s++) sum += part[warp - slice + s][token][r];
            if (job->bias) sum += job->bias[row + r];
            if (j.gated) part[warp - slice][token][r] = sum; /* only this thread has read what is there */
            if (!j.gated || tile % 2) job->y[token * job->rows + row + r] = sum;
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

/* ---- many tokens: x is split once, in memory as in shared memory (the gap between tokens aside); a block takes 128 rows, NT * WN
 * * 8 tokens and one slice of k. WN warps side by side take tokens, the others rows. ---- */

__global__ void __launch_bounds__(STEP_THREADS) split_rows(char *out, const float *x, size_t ldx, unsigned cols, unsigned padded) {
    in_turn();
    split_row(out + (size_t)blockIdx.x * padded * 4, x + blockIdx.x * ldx, cols, padded);
}

static __device__ __forceinline__ void copy16(char *shared, const void *from, bool there) {
    unsigned to = (unsigned)__cvta_generic_to_shared(shared), bytes = there ? 16 : 0; /* the rest becomes 0 */
#if TENSOR_CORES
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#endif
    (void)to, (void)from, (void)bytes;
}
static __device__ __forceinline__ void copies_are_one_group() {
#if TENSOR_CORES
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> static __device__ __forceinline__ void wait_but_for() {
#if TENSOR_CORES
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

enum { PASS_THREADS = 256, PASS_ROWS = 128, PASS_TOKEN = 256 + 64, PASS_STAGES = 2 };

template <format F, int NT, int WN>
__global__ void __launch_bounds__(PASS_THREADS)
    linear_pass(jobs all, float *parts, const char *x, unsigned T, unsigned padded, unsigned slices) {
    enum {
        MT = WN,
        TOKENS = NT * WN * 8,
        AHEAD = WN == 1 ? 2 : 1,
        STAGE = TOKENS * PASS_TOKEN,
        COPIES = TOKENS * 16 / PASS_THREADS
    };
    extern __shared__ __align__(128) char shared[];
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    unsigned slice = blockIdx.y, groups = padded / 64, token0 = blockIdx.z * TOKENS;
    unsigned begin = slice * groups / slices, end = (slice + 1) * groups / slices;
    const job *j = job_of(&all, blockIdx.x);
    size_t row = (size_t)(blockIdx.x - j->first) * PASS_ROWS + warp / WN * (16 * MT), last = j->rows - 1;
    const char *tiles[MT];
    fragment<F> next[AHEAD][MT];
    float c[MT][NT][4] = {};
    let_next_start();
#pragma unroll
    for (int m = 0; m < MT; m++) {
        size_t r = row + m * 16;
        tiles[m] = j->W + (r < last ? r : last) / 16 * groups * fragment<F>::TILE;
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (begin + i < end) next[i][m].load(tiles[m], begin + i, lane);
    }
    wait_for_previous();
    auto fetch = [&](unsigned group, unsigned stage) {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            unsigned at = threadIdx.x + i * PASS_THREADS, token = at / 16, piece = at % 16 * 16;
            bool there = token0 + token < T;
            copy16(shared + stage * STAGE + token * PASS_TOKEN + piece,
                   x + (size_t)(there ? token0 + token : 0) * padded * 4 + group * 256 + piece, there);
        }
    };
    for (unsigned i = 0; i < PASS_STAGES - 1; i++) {
        if (begin + i < end) fetch(begin + i, i);
        copies_are_one_group();
    }
    unsigned stage = 0;
    for (unsigned k = begin; k < end; k += AHEAD)
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (k + i >= end) break;
            wait_but_for<PASS_STAGES - 2>();
            __syncthreads(); /* this stage is there, and nobody is at the one before any more */
            unsigned free = stage ? stage - 1 : PASS_STAGES - 1;
            if (k + i + PASS_STAGES - 1 < end) fetch(k + i + PASS_STAGES - 1, free);
            copies_are_one_group();
            const char *at = shared + stage * STAGE + (warp % WN * NT * 8 + g) * PASS_TOKEN + t * 16;
            multiply<F, MT, NT>(c, next[i], at, 8 * PASS_TOKEN, 1 << 20);
#pragma unroll
            for (int m = 0; m < MT; m++)
                if (k + i + AHEAD < end) next[i][m].load(tiles[m], k + i + AHEAD, lane);
            stage = stage + 1 < PASS_STAGES ? stage + 1 : 0;
        }
    float *y = slices > 1 ? parts + ((size_t)j->before * slices + (size_t)slice * j->rows) * T : j->y;
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

__global__ void add_slices(float *y, const float *parts, const float *bias, size_t rows, size_t n, unsigned slices) {
    in_turn();
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        float sum = parts[i];
        for (unsigned s = 1; s < slices; s++) sum += parts[s * n + i];
        y[i] = bias ? sum + bias[i % rows] : sum;
    }
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
    make_tiles<<<dim3((unsigned)(padded / 64), blocks_for(rows, 16)), 32, 0, cu->stream>>>(to, from, stride, rows, f, padded);
    cuda_note(cu, cudaGetLastError());
    cuda_note(cu, cudaStreamSynchronize(cu->stream));
}

enum { STEP_SHARED = 90 * 1024 }; /* two blocks of a multiprocessor, at sm_80 */

template <format F> static void setup(shk_cuda *cu) {
    auto allow = [&](auto kernel) {
        cuda_note(cu, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(cu->shared - 8192)));
    };
    allow(linear_steps<F>);
    allow(linear_pass<F, 2, 1>);
    allow(linear_pass<F, 4, 1>);
    allow(linear_pass<F, 8, 1>);
    allow(linear_pass<F, 8, 2>);
}

void cuda_linear_setup(shk_cuda *cu) {
    setup<SHK_CUDA_BF16>(cu);
    setup<SHK_CUDA_Q8>(cu);
    setup<SHK_CUDA_Q4>(cu);
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

template <format F>
static size_t run_pass(shk_cuda *cu, const cuda_op *op, size_t left, unsigned T, unsigned padded, unsigned slices) {
    jobs j = together(op, left, slices, PASS_ROWS);
    char *x = cu->scratch + cu->scratch_bytes / 2;
    float *parts = (float *)(void *)cu->scratch;
    auto go = [&](auto kernel, unsigned tokens) {
        launch(cu, kernel, dim3(j.tiles, slices, blocks_for(T, tokens)), PASS_THREADS, (size_t)PASS_STAGES * tokens * PASS_TOKEN, j,
               parts, (const char *)x, T, padded, slices);
    };
    launch(cu, split_rows, dim3(T), STEP_THREADS, 0, x, op->x, op->n[0], (unsigned)op->W.cols, padded);
    if (T <= 16) go(linear_pass<F, 2, 1>, 16);
    else if (T <= 32) go(linear_pass<F, 4, 1>, 32);
    else if (T <= 64) go(linear_pass<F, 8, 1>, 64);
    else go(linear_pass<F, 8, 2>, 128);
    for (unsigned i = 0; slices > 1 && i < j.n; i++) {
        const job *o = &j.of[i];
        size_t n = (size_t)T * o->rows;
        launch(cu, add_slices, dim3((unsigned)smaller(blocks_for(n, 256), 4096)), 256, 0, o->y,
               (const float *)(parts + o->before * slices * T), o->bias, o->rows, n, slices);
    }
    return j.n;
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
    const cuda_op *after = op + j.n;
    if (j.n == 2 && per_block > 1 && left > 2 && after->kind == OP_GELU_MUL && after->y == op[0].y && after->a == op[0].y &&
        after->b == op[1].y && j.of[0].rows == j.of[1].rows && after->n[0] == T * j.of[0].rows)
        j.gated = true, used++;
    if (f == SHK_CUDA_BF16) run_steps<SHK_CUDA_BF16>(cu, j, blocks, shared, op, T, padded, slices);
    else if (f == SHK_CUDA_Q8) run_steps<SHK_CUDA_Q8>(cu, j, blocks, shared, op, T, padded, slices);
    else run_steps<SHK_CUDA_Q4>(cu, j, blocks, shared, op, T, padded, slices);
    return used;
}
