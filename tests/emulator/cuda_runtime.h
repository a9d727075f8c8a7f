/* What src/cuda uses of CUDA, on a CPU: `make CUDA=emulated` compiles the kernels as C++ over this folder, and everything that runs
 * on a GPU runs without one: slowly, but with the same indices, fragments, barriers and sums. A thread of a block is a context of
 * its own; blocks run one after the other, in an order that changes from launch to launch.
 *
 * What a GPU would pass over in silence ends the program here, with a message: lanes of a warp that are not all in the same
 * operation, threads that wait for others that do not come, addresses that are not aligned. Memory ends where an inaccessible page
 * begins; dynamic shared memory starts as NaN, static keeps what the block before has left. Not emulated: caches, time, the order
 * of memory between running blocks, the border between the host's memory and the device's, the limits on registers and on static
 * shared memory. */
#ifndef SHK_EMULATED_CUDA_RUNTIME_H
#define SHK_EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

using std::isfinite;
using std::isinf;
using std::isnan;

/* ---- the language ---- */

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static /* one block runs at a time */

struct uint2 {
    unsigned x, y;
} __align__(8);
struct uint3 {
    unsigned x, y, z;
};
struct uint4 {
    unsigned x, y, z, w;
} __align__(16);
struct float2 {
    float x, y;
} __align__(8);
struct float4 {
    float x, y, z, w;
} __align__(16);
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }
static inline float2 make_float2(float x, float y) { return { x, y }; }
static inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* ---- threads that wait for each other (emulator.cpp) ---- */

enum { EMULATED_WORDS = 8, EMULATED_SHARED = 227 << 10 /* bytes of shared memory, as an H200 has */ };

typedef enum emulated_op {
    EMULATED_SYNC,
    EMULATED_SHUFFLE,
    EMULATED_BALLOT,
    EMULATED_MATCH,
    EMULATED_JOIN,
    EMULATED_MULTIPLY,
    EMULATED_LOAD,
} emulated_op;

typedef uint32_t emulated_words[32][EMULATED_WORDS]; /* what each lane of a warp has left */

/* Where this lane leaves what it has for the others, before it calls emulated_meet. */
uint32_t *emulated_place_of_lane();
/* Waits until all these lanes of the warp are here, by the same op; the last one calls `at_last`. Returns what they have left,
 * which stays there until the meeting after the next one. */
const emulated_words &emulated_meet(emulated_op op, unsigned lanes, void (*at_last)(emulated_words &) = NULL);
template <typename V>
static inline const emulated_words &emulated_exchange(emulated_op op, unsigned lanes, const V &mine,
                                                      void (*at_last)(emulated_words &) = NULL) {
    static_assert(sizeof mine <= sizeof(emulated_words) / 32);
    memcpy(emulated_place_of_lane(), &mine, sizeof mine);
    return emulated_meet(op, lanes, at_last);
}
/* Waits for the threads of the block that still run; how many of them said yes. */
int emulated_barrier(bool yes);
[[noreturn]] void emulated_fail(const char *what);

static inline void __syncthreads() { emulated_barrier(false); }
static inline int __syncthreads_count(int yes) { return emulated_barrier(yes); }
static inline void __syncwarp(unsigned lanes = 0xffffffffu) { emulated_meet(EMULATED_SYNC, lanes); }
static inline void __threadfence() {}

template <typename V> static inline V emulated_shuffle(unsigned lanes, V v, unsigned from) {
    const emulated_words &all = emulated_exchange(EMULATED_SHUFFLE, lanes, v);
    if (!(lanes >> from % 32 & 1)) emulated_fail("a shuffle from a lane that takes no part");
    memcpy((void *)&v, all[from % 32], sizeof v);
    return v;
}
template <typename V> static inline V __shfl_sync(unsigned lanes, V v, int from) {
    return emulated_shuffle(lanes, v, (unsigned)from);
}
template <typename V> static inline V __shfl_xor_sync(unsigned lanes, V v, int mask) {
    return emulated_shuffle(lanes, v, threadIdx.x ^ (unsigned)mask);
}
template <typename V> static inline V __shfl_up_sync(unsigned lanes, V v, unsigned by) {
    unsigned lane = threadIdx.x % 32;
    return emulated_shuffle(lanes, v, lane < by ? lane : lane - by);
}
static inline unsigned __ballot_sync(unsigned lanes, int yes) {
    unsigned votes = 0, mine = yes != 0;
    const emulated_words &all = emulated_exchange(EMULATED_BALLOT, lanes, mine);
    for (int i = 0; i < 32; i++) votes |= (all[i][0] & 1 & lanes >> i) << i;
    return votes;
}
static inline int __all_sync(unsigned lanes, int yes) { return __ballot_sync(lanes, yes) == lanes; }
template <typename V> static inline unsigned __match_any_sync(unsigned lanes, V v) {
    unsigned same = 0;
    const emulated_words &all = emulated_exchange(EMULATED_MATCH, lanes, v);
    for (int i = 0; i < 32; i++) same |= (unsigned)!memcmp(all[i], &v, sizeof v) << i;
    return same & lanes;
}

/* ---- functions of one thread ---- */

template <typename T, typename V> static inline T atomicAdd(T *p, V v) {
    T old = *p;
    *p = (T)(old + (T)v);
    return old;
}
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }

template <typename A, typename B> static inline constexpr std::common_type_t<A, B> min(A a, B b) {
    return std::common_type_t<A, B>(b) < std::common_type_t<A, B>(a) ? b : a;
}
template <typename A, typename B> static inline constexpr std::common_type_t<A, B> max(A a, B b) {
    return std::common_type_t<A, B>(a) < std::common_type_t<A, B>(b) ? b : a;
}

static inline float __uint_as_float(unsigned v) {
    float f;
    memcpy(&f, &v, 4);
    return f;
}
static inline unsigned __float_as_uint(float f) {
    unsigned v;
    memcpy(&v, &f, 4);
    return v;
}
static inline int __float_as_int(float f) { return (int)__float_as_uint(f); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned v = 0;
    for (int i = 0; i < 4; i++) v |= (unsigned)(bytes >> (select >> 4 * i & 7) * 8 & 255) << 8 * i;
    return v;
}
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf expf
static inline unsigned long long __double2ull_rn(double v) { return (unsigned long long)nearbyint(v); }
double normcdfinv(double p);
static inline float rsqrtf(float v) { return 1 / sqrtf(v); }

/* ---- the runtime ---- */

typedef enum cudaError {
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorMemoryAllocation,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
} cudaError_t;

typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_graph *cudaGraph_t, *cudaGraphExec_t;
typedef struct emulated_event *cudaEvent_t;
#define cudaStreamLegacy ((cudaStream_t)1)

typedef enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDefault } cudaMemcpyKind;
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
typedef enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed } cudaStreamCaptureMode;
typedef enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize } cudaFuncAttribute;
typedef enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization } cudaLaunchAttributeID;

typedef struct cudaDeviceProp {
    char name[256];
    int multiProcessorCount, major, minor;
    size_t sharedMemPerBlockOptin;
} cudaDeviceProp;
typedef struct cudaFuncAttributes {
    size_t sharedSizeBytes;
} cudaFuncAttributes;
typedef struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    union {
        int programmaticStreamSerializationAllowed;
    } val;
} cudaLaunchAttribute;
typedef struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;

cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);

cudaError_t cudaMalloc(void **p, size_t bytes);
template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t bytes) { return cudaMalloc((void **)p, bytes); }
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMemset(void *p, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);

/* Runs `thread` for each thread of the grid, or notes that down while the stream is captured. `kernel` is its name to
 * cudaFuncSetAttribute. */
cudaError_t emulated_launch(const void *kernel, const cudaLaunchConfig_t *config, std::function<void()> thread);
cudaError_t emulated_allow_shared(const void *kernel, int bytes);

template <typename K> static inline cudaError_t cudaFuncSetAttribute(K *kernel, cudaFuncAttribute, int bytes) {
    return emulated_allow_shared((const void *)kernel, bytes);
}
template <typename K> static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, K *) {
    *a = {};
    return cudaSuccess;
}
template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args) {
    return emulated_launch((const void *)kernel, config, [kernel, all = std::tuple<P...>(args...)] { std::apply(kernel, all); });
}

#endif
