/* Products of matrices by columns:  out = alpha op(a) op(b) + beta c + bias, sums in double. */
#include <cublasLt.h>
#include <cuda_bf16.h>

struct emulated_product {
    int32_t transposed[2], epilogue;
    const void *bias;
    int64_t bias_stride;
};
struct emulated_layout {
    cudaDataType type;
    int64_t rows, cols, ld;
    int32_t batch;
    int64_t stride;
};
struct emulated_preference {};

template <typename T> static cublasStatus_t made(T **p, T v) {
    *p = new T(v);
    return CUBLAS_STATUS_SUCCESS;
}
template <typename T> static cublasStatus_t gone(T *p) {
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t set(void *to, size_t size, const void *v, size_t n) {
    if (n != size) emulated_fail("an attribute of cuBLASLt has another size");
    memcpy(to, v, n);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *lt) {
    *lt = NULL;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, int, cudaDataType) { return made(d, {}); }
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return gone(d); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *v, size_t n) {
    switch (a) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(&d->transposed[0], sizeof d->transposed[0], v, n);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(&d->transposed[1], sizeof d->transposed[1], v, n);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&d->epilogue, sizeof d->epilogue, v, n);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&d->bias, sizeof d->bias, v, n);
    default: return set(&d->bias_stride, sizeof d->bias_stride, v, n);
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld) {
    return made(l, { type, (int64_t)rows, (int64_t)cols, ld, 1, 0 });
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return gone(l); }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void *v,
                                                size_t n) {
    return a == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT ? set(&l->batch, sizeof l->batch, v, n)
                                                   : set(&l->stride, sizeof l->stride, v, n);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { return made(p, {}); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return gone(p); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *,
                                                    size_t) {
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t out,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t *found, int *n) {
    const int32_t *t = d->transposed;
    int64_t m = t[0] ? a->cols : a->rows, n_out = t[1] ? b->rows : b->cols,
            k[2] = { t[0] ? a->rows : a->cols, t[1] ? b->cols : b->rows };
    bool fits = m == out->rows && n_out == out->cols && k[0] == k[1] && a->batch == out->batch && b->batch == out->batch;
    if (!fits || a->ld < a->rows || b->ld < b->rows || out->ld < out->rows) return CUBLAS_STATUS_NOT_SUPPORTED;
    found[0] = {};
    *n = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *, cublasLtMatmulAlgoConfigAttributes_t, void *v,
                                                    size_t n, size_t *written) {
    memset(v, 0, *written = n);
    return CUBLAS_STATUS_SUCCESS;
}

static float value(const void *p, cudaDataType type, int64_t i) {
    return type == CUDA_R_32F ? ((const float *)p)[i] : (float)((const __nv_bfloat16 *)p)[i];
}

/* Column j of op(x) in matrix `batch`, or its row j if `row`. */
static void gather(double *to, int64_t n, const void *x, const emulated_layout *l, bool row, int64_t batch, int64_t j) {
    for (int64_t k = 0; k < n; k++) to[k] = value(x, l->type, batch * l->stride + (row ? k * l->ld + j : j * l->ld + k));
}

static void multiply(const emulated_product *d, float alpha, const void *a, const emulated_layout *la, const void *b,
                     const emulated_layout *lb, float beta, void *out, const emulated_layout *lo, int64_t batch) {
    int64_t k = d->transposed[0] ? la->rows : la->cols;
    double *left = new double[(size_t)(lo->rows * k)], *right = new double[(size_t)k];
    for (int64_t i = 0; i < lo->rows; i++) gather(left + i * k, k, a, la, !d->transposed[0], batch, i);
    for (int64_t j = 0; j < lo->cols; j++) {
        gather(right, k, b, lb, d->transposed[1] != 0, batch, j);
        for (int64_t i = 0; i < lo->rows; i++) {
            int64_t at = batch * lo->stride + j * lo->ld + i;
            double sum = 0;
            for (int64_t t = 0; t < k; t++) sum += left[i * k + t] * right[t];
            sum *= alpha;
            if (beta != 0) sum += (double)beta * value(out, lo->type, at);
            if (d->epilogue == CUBLASLT_EPILOGUE_BIAS && d->bias) sum += value(d->bias, lo->type, batch * d->bias_stride + i);
            if (lo->type == CUDA_R_32F) ((float *)out)[at] = (float)sum;
            else ((__nv_bfloat16 *)out)[at] = __nv_bfloat16((float)sum);
        }
    }
    delete[] left;
    delete[] right;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *a, cublasLtMatrixLayout_t la,
                              const void *b, cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t,
                              void *out, cublasLtMatrixLayout_t lo, const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t) {
    if (c != out) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; i < lo->batch; i++) multiply(d, *(const float *)alpha, a, la, b, lb, *(const float *)beta, out, lo, i);
    return CUBLAS_STATUS_SUCCESS;
}
