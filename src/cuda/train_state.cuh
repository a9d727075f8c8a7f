/* What training keeps of its own on the GPU. */
#ifndef SHK_CUDA_TRAIN_STATE_CUH
#define SHK_CUDA_TRAIN_STATE_CUH

#include <cublasLt.h>
#include <stdlib.h>

#include "cuda/train.cuh"

/* A product D = op(A) op(B), or D += where `add`, in cuBLAS's terms: by columns, op(A) [m, k], op(B) [k, n]. Everything that its
 * choice of a kernel may depend on; no padding, for memcmp. */
typedef struct product_shape {
    int64_t m, n, k, lda, ldb, ldd, stride_a, stride_b, stride_d, stride_bias;
    int32_t batch, transpose_a, transpose_b, add;
    int32_t type, type_d; /* cudaDataType of the factors, of the result */
    int32_t bias;         /* there is one, of length m */
    int32_t align_a, align_b, align_d;
} product_shape;

typedef struct product_plan {
    product_shape shape;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
} product_plan;

enum { PRODUCT_PLANS = 512 };

typedef struct train_state {
    cublasLtHandle_t lt;
    product_plan plans[PRODUCT_PLANS];
    size_t n_plans;
    const float *w; /* parameters, and their copy in bf16 */
    size_t n;
    bf16 *rounded;
    double *host; /* pinned: a sum on its way */
} train_state;

void cuda_train_round(shk_cuda *cu, bf16 *to, const float *from, size_t n);
void cuda_train_close_products(train_state *s);

#endif
