/* One NVIDIA GPU as a device: its context, and what the files of this folder share.
 *
 * Ops are written down as they are called (ops.cu) and launched when somebody waits for results, or when the pass ends: then
 * neighbours that may share a kernel do, and the launches of a pass that comes again become a graph, replayed in one launch.
 *
 * Exactness: as on the CPU, each result has one order of summation, a function of the matrix's shape or of the sequence's
 * positions alone. Tensor cores take activations as the sum of two bf16 values (16 bits of significand, an error of 2^-18) and
 * weights exactly. */
#ifndef SHK_CUDA_DEVICE_CUH
#define SHK_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

extern "C" {
#include "cuda/formats.h"
#include "error.h"
#include "mem.h"
#include "ops.h"
}

/* What kernels are told of a pass. It is in device memory, so that a graph finds another pass at the same address. */
typedef struct pass_row {
    uint64_t pos;
    int32_t token;
    uint32_t seq;
} pass_row;

typedef struct pass_seq {
    uint64_t pos;
    char *state;
    const shk_state_layer *layers;
    uint32_t row, n;
} pass_seq;

/* shk_draw of an output row; its biases are [bias, recent), then [recent, end) of the pass's. */
typedef struct draw_row {
    double u;
    float temperature, top_p, min_p, repeat_penalty;
    int32_t top_k;
    uint32_t bias, recent, end;
} draw_row;

/* No more of it comes to the device than is used: what few passes have is at the end. */
typedef struct pass_info {
    pass_row rows[SHK_PASS_ROWS];
    pass_seq seqs[SHK_PASS_ROWS];
    uint32_t out[SHK_PASS_ROWS]; /* rows whose logits are wanted */
    draw_row draws[SHK_PASS_ROWS];
    shk_bias biases[SHK_DRAW_BIASES];
} pass_info;

/* What some output row of a pass has its token chosen by, in bits: the kernels that are needed. */
enum { CHOOSE_BIASED = 1, CHOOSE_DRAWN = 2 /* by a random number */, CHOOSE_BEST = 4 /* among the best alone */ };

/* What kernels count: bytes of weights and state, operations, where the host cannot know them. */
typedef struct device_work {
    unsigned long long weight_bytes, state_bytes, flops;
} device_work;

typedef enum op_kind {
    OP_EMBED,
    OP_RMSNORM,
    OP_LINEAR,
    OP_BLOCK_LINEAR,
    OP_ADD,
    OP_MUL_ROWS,
    OP_SCALE,
    OP_GATHER,
    OP_GELU_MUL,
    OP_SOFTCAP,
    OP_SLICE,
    OP_ROPE_TABLE,
    OP_ROPE,
    OP_ATTENTION,
    OP_SPARK_ATTENTION,
    OP_CONV1D,
    OP_RGLRU,
    OP_SPARSIFY,
    OP_SPARSE_GLU,
    OP_SPARSE_UP,
    OP_ALTUP_PREDICT,
    OP_ALTUP_CORRECT,
    OP_MATCH_RMS,
    OP_TANH,
    OP_SAMPLE,
    OP_KINDS
} op_kind;

/* A call of an op: the arguments of ops.h by the same names. Sizes are counted in n[], in the order in which the op has them. */
typedef struct cuda_op {
    op_kind kind;
    float f;
    float *y;
    const float *x, *a, *b, *c;
    void *out; /* kept of attention, what sample has chosen */
    shk_mat W, V;
    shk_active active;
    shk_attention at;
    shk_type kv; /* of the rings that attention reads */
    double quantile;
    unsigned ddof;
    bool dense;
    size_t n[5];
} cuda_op;

enum { TAPE_OPS = 8192, GRAPHS = 32, LAYOUTS = 64, SLOTS = 4, CONSTANTS = 32 };

/* A pass that was seen before. Its launches depend on these alone. */
typedef struct graph_key {
    uint64_t reach;
    uint32_t T, n_seqs, n_out, choosing;
} graph_key;

typedef struct graph {
    graph_key key;
    cudaGraphExec_t exec; /* NULL: seen once */
    shk_work work;
    uint64_t used; /* when last; 0: an empty place */
} graph;

typedef struct shk_cuda {
    cudaStream_t stream;
    cudaError_t broken; /* the first failure; nothing is launched after it */
    int sms, major, minor;
    size_t shared; /* bytes of shared memory that a block may have */
    char name[128];
    shk_work work, passing; /* known when ops are issued: of the passes before, of the open one */
    device_work *counted;

    cuda_op *tape;
    size_t n_ops;
    bool open, whole; /* a pass is open that may become a graph; nothing of it has been launched yet */
    graph_key key;
    graph graphs[GRAPHS];
    uint64_t clock;

    pass_info *pass, *staging; /* device; [SLOTS] pinned host memory */
    cudaEvent_t staged[SLOTS];
    unsigned slot;
    uint32_t T, n_seqs, choosing;
    uint64_t reach; /* positions that attention may reach in this pass, rounded up so that graphs are few */
    struct {
        shk_state_layer *host, *device;
        size_t n;
    } layouts[LAYOUTS];
    size_t n_layouts;
    struct {
        void *host, *device;
        size_t bytes;
    } constants[CONSTANTS];
    size_t n_constants;

    char *scratch; /* what does not live between ops: partial sums */
    size_t scratch_bytes;
    uint32_t *counters; /* [COUNTERS] of blocks that are done with something; 0 between kernels */
    float *scores;      /* spark attention: [pairs, positions] scores and as many ids */
    uint64_t positions;
    size_t pairs;
    void *owned[4096]; /* device copies of weights */
    size_t n_owned;

    bool bf16;                 /* training: of activations, and of what is multiplied */
    struct train_state *train; /* train.cu; NULL until training begins */
} shk_cuda;

/* Positions of attention that one block works on: parts of a sequence with borders at its multiples. */
enum { ATTENTION_CHUNK = 64, SCRATCH_BYTES = 256 << 20, COUNTERS = 1 << 16 };
enum { HEAD_DIM = 512 }; /* values of a head, at most */

static inline unsigned blocks_for(size_t n, size_t each) { return (unsigned)((n + each - 1) / each); }
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

void cuda_note(shk_cuda *cu, cudaError_t e);

/* Every launch goes through here. `early`: programmatic dependent launch where the device has it, so that a kernel's first blocks
 * are up, and its weights on their way, before the kernel before it is done. */
template <typename... P, typename... A>
static inline void launch_as(shk_cuda *cu, bool early, void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared, A... args) {
    if (cu->broken || !grid.x || !grid.y || !grid.z) return;
    cudaLaunchAttribute dependent = {};
    dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    dependent.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.stream = cu->stream;
    config.attrs = &dependent;
    config.numAttrs = early && cu->major >= 9;
    cuda_note(cu, cudaLaunchKernelEx(&config, kernel, P(args)...));
}
template <typename... P, typename... A>
static inline void launch(shk_cuda *cu, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, A... args) {
    launch_as(cu, true, kernel, grid, threads, shared, args...);
}

/* Lets blocks of a kernel have all the shared memory that the device gives; once, when it is opened. */
template <typename K> static inline void allow_shared(shk_cuda *cu, K *kernel) {
    cudaFuncAttributes a = {};
    cuda_note(cu, cudaFuncGetAttributes(&a, kernel));
    cuda_note(cu, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(cu->shared - a.sharedSizeBytes)));
}

/* Runs the first of `left` ops, with those after it that it can take along; returns how many. One function a kind. */
typedef size_t cuda_run_fn(shk_cuda *cu, const cuda_op *op, size_t left);
cuda_run_fn cuda_run_linear, cuda_run_block_linear, cuda_run_attention, cuda_run_spark_attention, cuda_run_conv1d, cuda_run_rglru,
    cuda_run_sparsify, cuda_run_sparse_glu, cuda_run_sparse_up, cuda_run_altup_predict, cuda_run_altup_correct, cuda_run_match_rms,
    cuda_run_embed, cuda_run_rmsnorm, cuda_run_add, cuda_run_mul_rows, cuda_run_scale, cuda_run_gather, cuda_run_gelu_mul,
    cuda_run_softcap, cuda_run_slice, cuda_run_rope_table, cuda_run_rope, cuda_run_tanh, cuda_run_sample;

/* Norms, scales and rotations of heads up to the attention that uses them (heads.cu), from `op` on; 0: op begins no such run. */
size_t cuda_run_heads(shk_cuda *cu, const cuda_op *op, size_t left);

/* Rows that are still sums of slices: slice s of row r begins at s * step + r * ld. */
typedef struct row_parts {
    const float *at;   /* NULL: the rows are there */
    const float *bias; /* NULL: none */
    size_t step, ld;
    unsigned slices;
} row_parts;

/* Of rows of n values: y = norm(y) before, if there is `before`; x += y; out = norm(x) after, if there is `out` (residual.cuh). */
typedef struct residual_args {
    float *y;
    const float *before;
    float *x, *out;
    const float *after;
    size_t n; /* 0: nothing of this */
    float eps, eps_after;
} residual_args;

/* How many of the ops from `op` on are what comes between two blocks of a layer: y's norm, its addition to another tensor and the
 * norm of that, or some of them, for rows y of n values; 0: none. cuda_run_residual runs them, adding up y first. */
size_t cuda_is_residual(const cuda_op *op, size_t left, const float *y, size_t n);
size_t cuda_run_residual(shk_cuda *cu, const cuda_op *op, size_t left, row_parts parts);
residual_args cuda_residual_of(const cuda_op *op, size_t left);

/* Rows of device memory, as shk_cuda_pack_row makes them, into tiles. `rows` but for the last call of a matrix a multiple of 16. */
void cuda_make_tiles(shk_cuda *cu, char *to, const char *from, size_t stride, size_t rows, size_t cols, shk_cuda_format f);

/* A sparsify and the sparse_glu or sparse_up after it, by tensor cores (sparse_tensor.cuh); 0: op begins no such pair. `tiles`: the
 * product that made the scores s has left the moments of its tiles where cuda_sparse_moments says (NULL: they are not wanted). */
size_t cuda_run_sparse_layer(shk_cuda *cu, const cuda_op *op, size_t left, bool tiles);
struct moments *cuda_sparse_moments(shk_cuda *cu, const cuda_op *op, size_t left, const float *s);

/* Sets the dynamic shared memory that a kernel may use; once, when the device is opened. */
void cuda_linear_setup(shk_cuda *cu);
void cuda_sparse_setup(shk_cuda *cu);

/* The device's copy of `bytes` bytes that are the same in every pass. */
const void *cuda_constant(shk_cuda *cu, const void *host, size_t bytes);

/* Launches what is on the tape. */
void cuda_flush(shk_cuda *cu);

/* The context's part of the table (device.cu). */
extern const shk_ops cuda_ops;
void *cuda_alloc(void *dev, size_t bytes);
void cuda_release(void *dev, void *p, size_t bytes);
void cuda_download(void *dev, void *host, const void *p, size_t bytes);
void cuda_upload(void *dev, void *p, const void *host, size_t bytes);
shk_status cuda_prepare(void *dev, shk_mat *m, shk_error *err);
shk_status cuda_place(void *dev, const float **v, size_t n, shk_error *err);
shk_status cuda_reserve(void *dev, uint64_t positions, size_t heads, size_t kv_heads, size_t head_dim, shk_error *err);
shk_work cuda_work(const void *dev);
bool cuda_begin(void *dev, const shk_pass *pass, size_t n_layers, bool replay);
shk_status cuda_end(void *dev, bool wait, shk_error *err);
void cuda_close(void *dev);

/* ---- for kernels ---- */
#ifdef __CUDACC__

#include "cuda/ptx.cuh"

static __device__ __forceinline__ void in_turn() {
    let_next_start();
    wait_for_previous();
}

static __device__ __forceinline__ float gelu(float v) {
    return 0.5f * v * (1.0f + tanhf(0.79788456080286535588f * (v + 0.044715f * v * v * v)));
}

template <typename V> static __device__ __forceinline__ V warp_sum(V v) {
    return warp_join(v, [](V a, V b) { return a + b; });
}
static __device__ __forceinline__ float warp_max(float v) { /* a NaN is passed over */
    return warp_join(v, [](float a, float b) { return fmaxf(a, b); });
}

/* The values of a block of whole warps, at most 1024 threads, joined as warp_join does it; every thread gets the result. `none`
 * joins without effect. `space` [32], reusable after the call. */
template <typename V, typename F> static __device__ __forceinline__ V block_join(V v, V none, V *space, F f) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    v = warp_join(v, f);
    if (!lane) space[warp] = v;
    __syncthreads();
    v = warp_join(lane < warps ? space[lane] : none, f);
    __syncthreads();
    return v;
}
template <typename V> static __device__ V block_sum(V v, V *space) {
    return block_join(v, V(0), space, [](V a, V b) { return a + b; });
}
static __device__ float block_max(float v, float *space) {
    return block_join(v, -INFINITY, space, [](float a, float b) { return fmaxf(a, b); });
}

/* The sum of the numbers of the threads before this one, and of all. `space` [32]. */
static __device__ uint32_t block_before(uint32_t v, uint32_t *total, uint32_t *space) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    uint32_t sum = v; /* up to this lane */
    for (unsigned i = 1; i < 32; i *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, i);
        if (lane >= i) sum += other;
    }
    if (lane == 31) space[warp] = sum;
    __syncthreads();
    uint32_t before = 0, all = 0;
    for (unsigned w = 0; w < warps; w++) {
        if (w < warp) before += space[w];
        all += space[w];
    }
    __syncthreads();
    *total = all;
    return before + sum - v;
}

/* Is this block the last of `n` that have written something to memory? It sees what all have written (by __ldcg), and the counter
 * is 0 again. */
static __device__ bool is_last(uint32_t *counter, uint32_t n) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (!threadIdx.x) {
        last = atomicAdd(counter, 1) == n - 1;
        if (last) *counter = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

/* How many threads before this one say yes, and how many do in all. `space` [32]. */
static __device__ uint32_t block_rank(bool yes, uint32_t *total, uint32_t *space) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    unsigned votes = __ballot_sync(0xffffffffu, yes);
    if (!lane) space[warp] = (uint32_t)__popc(votes);
    __syncthreads();
    uint32_t before = 0, all = 0;
    for (unsigned w = 0; w < warps; w++) {
        if (w < warp) before += space[w];
        all += space[w];
    }
    __syncthreads();
    *total = all;
    return before + (uint32_t)__popc(votes & ((1u << lane) - 1));
}

#endif
#endif
