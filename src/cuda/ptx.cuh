/* What C++ has no words for: instructions of PTX, shared memory whose size the launch sets; and values joined over a warp, which an
 * emulator does at once. All of it is here, so that tests/emulator can put its own in its place. */
#ifndef SHK_CUDA_PTX_CUH
#define SHK_CUDA_PTX_CUH

#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

/* The dynamic shared memory of a block, as an array. */
#define DYNAMIC_SHARED(type, name, alignment) extern __shared__ __align__(alignment) type name[]

/* The next kernel may start; this one goes on once the one before it is done. Nothing that kernels write may be touched before. */
static __device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Reads a kernel's parameters: where they are kept is far away at first, and nothing has to wait for them while the kernel before
 * runs. */
template <typename P> static __device__ __forceinline__ void touch(const P &p) {
    struct {
        uint32_t word[sizeof(P) / 4];
    } all;
    memcpy(&all, &p, sizeof all);
#pragma unroll
    for (size_t i = 0; i < sizeof(P) / 4; i += 8) asm volatile("" ::"r"(all.word[i]));
}

/* What the lane has whose number differs in the bits of `mask`. */
template <typename V> static __device__ __forceinline__ V lane_xor(V v, int mask) {
    static_assert(sizeof v % 4 == 0, "words are what lanes exchange");
    struct {
        uint32_t word[sizeof(V) / 4];
    } all;
    memcpy(&all, &v, sizeof v);
#pragma unroll
    for (size_t i = 0; i < sizeof(V) / 4; i++) all.word[i] = __shfl_xor_sync(0xffffffffu, all.word[i], mask);
    memcpy(&v, &all, sizeof v);
    return v;
}

/* For every lane the values of the N lanes of its group, joined in pairs: f(own, other) with the lane N / 2 away, then N / 4, ...
 * All lanes of the warp take part. F has no state. */
template <int N = 32, typename V, typename F> static __device__ __forceinline__ V warp_join(V v, F f) {
    for (int i = N / 2; i; i >>= 1) v = f(v, lane_xor(v, i));
    return v;
}

/* ---- memory ---- */

/* Weights are read once: around the first-level cache. */
static __device__ __forceinline__ uint4 stream16(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
static __device__ __forceinline__ uint2 stream8(const void *p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

/* Brings the line of an address into the second-level cache. */
static __device__ __forceinline__ void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/* ---- approximations, to about 1e-6 (tanh: 5e-4); magnitudes below 2^-126 count as 0 (but for tanh) ---- */

static __device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float fast_log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float fast_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float fast_sqrt(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float fast_tanh(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- tensor cores and what feeds them: warp-wide products of 16 x 8 x 16 bf16 values with f32 sums, fragments from shared memory,
 * copies to it that go on while threads compute. From sm_80 on; elsewhere the functions do nothing and must not be reached. ---- */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define SHK_TENSOR_ASM(...) asm volatile(__VA_ARGS__)
#else
#define SHK_TENSOR_ASM(...) ((void)0)
#endif

static __device__ __forceinline__ uint32_t tensor_address(const void *shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

/* Four 8 x 8 matrices: lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i (16 bytes each). Of each a lane gets values
 * 2 (lane % 4) and the next of row lane / 4; `turned`: of the transposed matrix. */
static __device__ __forceinline__ void tensor_load(uint32_t x[4], uint32_t address) {
    SHK_TENSOR_ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                   : "r"(address)
                   : "memory");
}
static __device__ __forceinline__ void tensor_load_turned(uint32_t x[4], uint32_t address) {
    SHK_TENSOR_ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                   : "r"(address)
                   : "memory");
}

/* c [16, 8] += a [16, 16] b [16, 8]. With g = lane / 4 and i = 2 (lane % 4), a lane holds of c rows g, g + 8 (c[0..1], c[2..3]) at
 * columns i, i + 1; of a the same rows at columns i, i + 1 (a[0], a[1]) and i + 8, i + 9 (a[2], a[3]); of b column g at rows i,
 * i + 1 (b0) and i + 8, i + 9 (b1). */
static __device__ __forceinline__ void tensor_multiply(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    SHK_TENSOR_ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                   "{%0, %1, %2, %3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 bytes, 8 or 4, on their way to shared memory; zeros, and nothing is read, unless `there`. */
static __device__ __forceinline__ void tensor_copy16(uint32_t to, const void *from, bool there) {
    SHK_TENSOR_ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
static __device__ __forceinline__ void tensor_copy8(uint32_t to, const void *from, bool there) {
    SHK_TENSOR_ASM("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(there ? 8 : 0) : "memory");
}
static __device__ __forceinline__ void tensor_copy4(uint32_t to, const void *from, bool there) {
    SHK_TENSOR_ASM("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0) : "memory");
}
/* Copies since the last of these are a group; waits until at most N groups are under way. */
static __device__ __forceinline__ void tensor_copy_group() { SHK_TENSOR_ASM("cp.async.commit_group;" ::: "memory"); }
template <int N> static __device__ __forceinline__ void tensor_copy_wait() {
    SHK_TENSOR_ASM("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
