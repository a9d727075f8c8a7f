/* What the GPU can do, measured: what a share of the possible is a share of. */
#include "cuda/device.cuh"

#include <stdlib.h>

enum { REPEATS = 7, PROBE_THREADS = 512 };
static const int ROUNDS = 4096;

__global__ void __launch_bounds__(PROBE_THREADS) read_all(float *sink, const uint4 *data, size_t n) {
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * PROBE_THREADS, i = blockIdx.x * (size_t)PROBE_THREADS + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = __ldcs(data + i + j * step);
#pragma unroll
        for (int j = 0; j < 4; j++) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += step) sum += data[i].x;
    if (sum == 0x12345678) *sink = 1; /* what keeps the compiler from leaving the reads out */
}

/* 8 independent products of 16 x 16 by 16 x 8 in each warp, over and over, of numbers that are not all the same. */
__global__ void __launch_bounds__(PROBE_THREADS) multiply_all(float *sink, int rounds) {
    float c[8][4] = {};
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = 0x3c003c00u + threadIdx.x * 0x00110007u + i;
    for (int i = 0; i < 2; i++) b[i] = 0x3c00bc00u + threadIdx.x * 0x00050003u + i;
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            tensor_multiply(c[j], a, b[0], b[1]);
#else
    for (int r = 0; r < rounds * 16; r++)
#pragma unroll
        for (int j = 0; j < 32; j++) c[j / 4][j % 4] = fmaf(c[j / 4][j % 4], 0.999f, 1e-3f * (float)threadIdx.x);
#endif
    float sum = 0;
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) sum += c[j][i];
    if (sum == 1.2345f) *sink = sum;
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

template <typename F> static double median_seconds(shk_cuda *cu, F run) {
    cudaEvent_t begin, end;
    float ms[REPEATS + 1] = {};
    cuda_note(cu, cudaEventCreate(&begin));
    cuda_note(cu, cudaEventCreate(&end));
    for (int i = 0; i <= REPEATS; i++) { /* the first warms up */
        cuda_note(cu, cudaEventRecord(begin, cu->stream));
        run();
        cuda_note(cu, cudaEventRecord(end, cu->stream));
        cuda_note(cu, cudaEventSynchronize(end));
        cuda_note(cu, cudaEventElapsedTime(&ms[i], begin, end));
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    qsort(ms + 1, REPEATS, sizeof *ms, ascending);
    return ms[1 + REPEATS / 2] * 1e-3;
}

extern "C" shk_status shk_cuda_probe(shk_ceilings *out, shk_error *err) {
    const shk_ops *ops;
    void *dev;
    shk_status st = shk_cuda_open(&ops, &dev, err);
    if (st) return st;
    shk_cuda *cu = (shk_cuda *)dev;
    size_t free_bytes = 0, total = 0, bytes = (size_t)4 << 30;
    cuda_note(cu, cudaMemGetInfo(&free_bytes, &total));
    while (bytes > free_bytes / 2) bytes /= 2;
    char *data = (char *)cuda_alloc(cu, bytes);
    float *sink = (float *)(void *)cu->scratch;
    if (!data) cuda_note(cu, cudaErrorMemoryAllocation);
    else cuda_note(cu, cudaMemset(data, 0x5a, bytes));
    double read = median_seconds(
        cu, [&] { launch_as(cu, false, read_all, cu->sms * 4, PROBE_THREADS, 0, sink, (const uint4 *)(void *)data, bytes / 16); });
    double compute = median_seconds(cu, [&] { launch_as(cu, false, multiply_all, cu->sms * 4, PROBE_THREADS, 0, sink, ROUNDS); });
    double warps = (double)(cu->sms * 4 * (PROBE_THREADS / 32)), each = cu->major >= 8 ? 8 * 2.0 * 16 * 8 * 16 : 16 * 32 * 32 * 2.0;
    *out = shk_ceilings{ (double)bytes / read, warps * ROUNDS * each / compute };
    if (cu->broken) st = shk_fail(err, SHK_E_DEVICE, "%s: %s", cu->name, cudaGetErrorString(cu->broken));
    cudaFree(data);
    ops->close(dev);
    return st;
}
