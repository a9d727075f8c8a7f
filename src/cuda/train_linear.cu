/* Products with matrices, by cuBLASLt: of f32 values in f32 (never in TF32), of bf16 values with sums in f32. cuBLAS has matrices
 * by columns, so that a matrix [rows, cols] of ours is its [cols, rows]. The kernel for a shape is chosen once. */
#include <string.h>

#include "cuda/train_state.cuh"

/* Scratch: what cuBLAS works in, then copies of matrices that are no parameters. */
enum { WORKSPACE = 64 << 20, BIAS_BYTES = 1 << 20 };

void cuda_train_close_products(train_state *s) {
    for (size_t i = 0; i < s->n_plans; i++) {
        product_plan *p = &s->plans[i];
        if (p->a) cublasLtMatrixLayoutDestroy(p->a);
        if (p->b) cublasLtMatrixLayoutDestroy(p->b);
        if (p->d) cublasLtMatrixLayoutDestroy(p->d);
        if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    }
    s->n_plans = 0;
}

static bool good(cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; }

static bool lay_out(cublasLtMatrixLayout_t *l, int32_t type, int64_t rows, int64_t cols, int64_t ld, int32_t batch,
                    int64_t stride) {
    return good(cublasLtMatrixLayoutCreate(l, (cudaDataType)type, (uint64_t)rows, (uint64_t)cols, ld)) &&
           good(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch)) &&
           good(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
}

template <typename V> static bool describe(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute, V value) {
    return good(cublasLtMatmulDescSetAttribute(d, attribute, &value, sizeof value));
}

template <typename V>
static bool prefer(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, V value) {
    return good(cublasLtMatmulPreferenceSetAttribute(p, attribute, &value, sizeof value));
}

template <typename V> static V config(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t attribute) {
    V value = {};
    size_t written;
    cublasLtMatmulAlgoConfigGetAttribute(algo, attribute, &value, sizeof value, &written);
    return value;
}

/* cuBLAS's first choice, but for sums so short that a product is half writing: there its tiles are too large on Hopper. Where two
 * smaller ones fit on a multiprocessor, one writes while the other multiplies (5 to 14 % less time for 224 to 768 terms; timing the
 * candidates would find no better ones, and would give other bits from run to run). */
static const cublasLtMatmulAlgo_t *pick(const cublasLtMatmulHeuristicResult_t *found, int n, const product_shape *s, int major) {
    static const uint32_t tiles[] = { CUBLASLT_MATMUL_TILE_128x160, CUBLASLT_MATMUL_TILE_128x128 };
    bool short_sums = major == 9 && s->type == CUDA_R_16BF && s->k <= 1024 && s->k > 128 && s->m > 128;
    for (int t = 0; short_sums && t < 2; t++)
        for (int i = 0; i < n; i++)
            if (config<uint32_t>(&found[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID) == tiles[t] &&
                config<int32_t>(&found[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) <= 1)
                return &found[i].algo;
    return &found[0].algo;
}

static bool choose(cublasLtHandle_t lt, product_plan *p, const void *bias, int major) {
    enum { CHOICES = 8 };
    const product_shape *s = &p->shape;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found[CHOICES];
    int n = 0;
    bool ok = good(cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
              describe(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, s->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N) &&
              describe(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, s->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N) &&
              (!bias || (describe(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS) &&
                         describe(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias) &&
                         describe(p->desc, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, s->stride_bias))) &&
              lay_out(&p->a, s->type, s->transpose_a ? s->k : s->m, s->transpose_a ? s->m : s->k, s->lda, s->batch, s->stride_a) &&
              lay_out(&p->b, s->type, s->transpose_b ? s->n : s->k, s->transpose_b ? s->k : s->n, s->ldb, s->batch, s->stride_b) &&
              lay_out(&p->d, s->type_d, s->m, s->n, s->ldd, s->batch, s->stride_d) &&
              good(cublasLtMatmulPreferenceCreate(&pref)) &&
              prefer(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (size_t)WORKSPACE) &&
              prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)s->align_a) &&
              prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)s->align_b) &&
              prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)s->align_d) &&
              prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)s->align_d) &&
              good(cublasLtMatmulAlgoGetHeuristic(lt, p->desc, p->a, p->b, p->d, p->d, pref, CHOICES, found, &n)) &&
              n;
    if (pref) cublasLtMatmulPreferenceDestroy(pref);
    if (ok) p->algo = *pick(found, n, s, major);
    return ok;
}

static int32_t alignment(const void *p) { return (int32_t)smaller((uintptr_t)p & -(uintptr_t)p, 256); }

static const product_plan *plan(shk_cuda *cu, const product_shape *shape, const void *bias) {
    train_state *s = cu->train;
    for (size_t i = 0; i < s->n_plans; i++)
        if (!memcmp(&s->plans[i].shape, shape, sizeof *shape)) return &s->plans[i];
    if (s->n_plans == PRODUCT_PLANS) cuda_train_close_products(s); /* rare enough to begin again */
    product_plan *p = &s->plans[s->n_plans++];
    *p = product_plan{};
    p->shape = *shape;
    if (choose(s->lt, p, bias, cu->major)) return p;
    cuda_note(cu, cudaErrorNotSupported);
    return NULL;
}

static void multiply(shk_cuda *cu, product_shape s, void *d, const void *a, const void *b, const void *bias) {
    const float one = 1, beta = s.add ? 1 : 0;
    if (cu->broken || !s.m || !s.n || !s.k) return;
    if (!s.batch) s.batch = 1;
    s.bias = bias != NULL;
    s.align_a = alignment(a), s.align_b = alignment(b), s.align_d = alignment(d);
    const product_plan *p = plan(cu, &s, bias);
    if (!p) return;
    if (bias && !describe(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)) cuda_note(cu, cudaErrorInvalidValue);
    if (!good(cublasLtMatmul(cu->train->lt, p->desc, &one, a, p->a, b, p->b, &beta, d, p->d, d, p->d, &p->algo, cu->scratch,
                             WORKSPACE, cu->stream)))
        cuda_note(cu, cudaErrorLaunchFailure);
}

/* Parameters in the type of products. Others than those that `refresh` knows are rounded into scratch, at the place `at`. */
static const void *factor(shk_cuda *cu, const float *w, size_t n, size_t at) {
    if (!cu->bf16 || !w) return w;
    const bf16 *rounded = cuda_train_rounded(cu, w);
    if (rounded) return rounded;
    if (at + n * sizeof(bf16) > cu->scratch_bytes) cuda_note(cu, cudaErrorMemoryAllocation);
    bf16 *to = (bf16 *)(void *)(cu->scratch + at);
    if (!cu->broken) cuda_train_round(cu, to, w, n);
    return to;
}

static const void *matrix(shk_cuda *cu, const shk_mat *W) {
    return factor(cu, (const float *)W->data, W->rows * (W->stride / sizeof(float)), WORKSPACE + BIAS_BYTES);
}
static const void *bias_of(shk_cuda *cu, const float *b, size_t n) { return factor(cu, b, n, WORKSPACE); }
static int64_t row_of(const shk_mat *W) { return (int64_t)(W->stride / sizeof(float)); }
static int32_t type_of(const shk_cuda *cu) { return cu->bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/* ---- sums over rows ---- */

enum { SUM_LANES = 32, SUM_GROUPS = 8 };

/* Block (x, y): 32 V columns, a piece of the rows; each group of threads takes every eighth row. */
template <typename A, int V>
static __global__ void __launch_bounds__(SUM_LANES *SUM_GROUPS) sum_columns(float *sums, const A *x, size_t N, size_t n,
                                                                            size_t piece) {
    __shared__ float space[SUM_GROUPS][SUM_LANES * V];
    size_t lane = threadIdx.x % SUM_LANES, group = threadIdx.x / SUM_LANES, column = (blockIdx.x * SUM_LANES + lane) * V;
    size_t last = min((blockIdx.y + (size_t)1) * piece, N);
    float sum[V] = {};
    if (column < n) {
#pragma unroll 4
        for (size_t i = blockIdx.y * piece + group; i < last; i += SUM_GROUPS) {
            float v[V];
            load<V>(v, x + i * n + column);
            for (int j = 0; j < V; j++) sum[j] += v[j];
        }
    }
    for (int j = 0; j < V; j++) space[group][lane * V + j] = sum[j];
    __syncthreads();
    for (size_t j = threadIdx.x; j < SUM_LANES * V && blockIdx.x * SUM_LANES * V + j < n; j += blockDim.x) {
        float all = 0;
        for (int g = 0; g < SUM_GROUPS; g++) all += space[g][j];
        sums[blockIdx.y * n + blockIdx.x * SUM_LANES * V + j] = all;
    }
}

/* db += sum of the rows of dy */
static void bias_grad(shk_cuda *cu, float *db, const shk_act *dy, size_t N, size_t n) {
    if (!db) return;
    float *sums = (float *)(void *)cu->scratch;
    size_t piece = (N + 255) / 256, pieces = (N + piece - 1) / piece;
    by_pack(cu, n, { dy }, [&](auto a, auto pack) {
        using A = decltype(a);
        constexpr int V = decltype(pack)::value;
        dim3 grid(blocks_for(n, SUM_LANES * V), (unsigned)pieces);
        train_launch(cu, sum_columns<A, V>, grid, SUM_LANES * SUM_GROUPS, 0, sums, (const A *)(const void *)dy, N, n, piece);
    });
    cuda_train_add_pieces(cu, db, sums, pieces, n);
}

/* ---- the ops ---- */

void shk_cuda_train_linear(void *dev, shk_act *y, const shk_act *x, size_t ldx, const shk_mat *W, const float *b, size_t N) {
    shk_cuda *cu = (shk_cuda *)dev;
    product_shape s = {};
    s.m = (int64_t)W->rows, s.n = (int64_t)N, s.k = (int64_t)W->cols, s.transpose_a = 1;
    s.lda = row_of(W), s.ldb = (int64_t)ldx, s.ldd = s.m;
    s.type = s.type_d = type_of(cu);
    multiply(cu, s, y, matrix(cu, W), x, bias_of(cu, b, W->rows));
}

void shk_cuda_train_linear_grad_x(void *dev, shk_act *dx, size_t ldx, const shk_act *dy, const shk_mat *W, size_t N, bool add) {
    shk_cuda *cu = (shk_cuda *)dev;
    product_shape s = {};
    s.m = (int64_t)W->cols, s.n = (int64_t)N, s.k = (int64_t)W->rows;
    s.lda = row_of(W), s.ldb = s.k, s.ldd = (int64_t)ldx;
    s.type = s.type_d = type_of(cu), s.add = add;
    multiply(cu, s, dx, matrix(cu, W), dy, NULL);
}

void shk_cuda_train_linear_grad_w(void *dev, float *dW, float *db, const shk_act *dy, const shk_act *x, size_t ldx, size_t rows,
                                  size_t cols, size_t N) {
    shk_cuda *cu = (shk_cuda *)dev;
    product_shape s = {};
    s.m = (int64_t)cols, s.n = (int64_t)rows, s.k = (int64_t)N, s.transpose_b = 1;
    s.lda = (int64_t)ldx, s.ldb = s.n, s.ldd = s.m;
    s.type = type_of(cu), s.type_d = CUDA_R_32F, s.add = 1;
    multiply(cu, s, dW, x, dy, NULL);
    bias_grad(cu, db, dy, N, rows);
}

void shk_cuda_train_block_linear(void *dev, shk_act *y, const shk_act *x, const shk_mat *W, const float *b, size_t blocks,
                                 size_t N) {
    shk_cuda *cu = (shk_cuda *)dev;
    product_shape s = {};
    s.m = s.k = (int64_t)W->cols, s.n = (int64_t)N, s.batch = (int32_t)blocks;
    s.lda = row_of(W), s.ldb = s.ldd = s.m * s.batch;
    s.stride_a = s.m * s.lda, s.stride_b = s.stride_d = s.stride_bias = s.m;
    s.type = s.type_d = type_of(cu);
    multiply(cu, s, y, matrix(cu, W), x, bias_of(cu, b, W->rows));
}

void shk_cuda_train_block_linear_grad(void *dev, shk_act *dx, float *dW, float *db, const shk_act *dy, const shk_act *x,
                                      const shk_mat *W, size_t blocks, size_t N, bool add) {
    shk_cuda *cu = (shk_cuda *)dev;
    product_shape s = {};
    s.m = s.k = (int64_t)W->cols, s.n = (int64_t)N, s.batch = (int32_t)blocks, s.transpose_a = 1;
    s.lda = row_of(W), s.ldb = s.ldd = s.m * s.batch;
    s.stride_a = s.m * s.lda, s.stride_b = s.stride_d = s.m;
    s.type = s.type_d = type_of(cu), s.add = add;
    multiply(cu, s, dx, matrix(cu, W), dy, NULL);
    product_shape w = {};
    w.m = w.n = s.m, w.k = (int64_t)N, w.batch = s.batch, w.transpose_b = 1;
    w.lda = w.ldb = s.ldb, w.ldd = w.m;
    w.stride_a = w.stride_b = w.m, w.stride_d = w.m * w.m;
    w.type = type_of(cu), w.type_d = CUDA_R_32F, w.add = 1;
    multiply(cu, w, dW, dy, x, NULL);
    bias_grad(cu, db, dy, N, blocks * W->cols);
}
