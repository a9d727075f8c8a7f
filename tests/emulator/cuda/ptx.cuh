/* Stands in the place of src/cuda/ptx.cuh, whose comments say what each function does. */
#ifndef SHK_CUDA_PTX_CUH
#define SHK_CUDA_PTX_CUH

#include <cuda_runtime.h>

extern char *emulated_shared; /* the block's dynamic shared memory (emulator.cpp) */
/* Copies to shared memory land when their thread waits for them; until then there are NaNs. */
void emulated_copy(uint32_t to, const void *from, unsigned bytes, bool there);
void emulated_copy_group();
void emulated_copy_wait(int groups);
/* The place of an address of shared memory; aligned to `bytes`, or the program ends. */
char *emulated_place(uint32_t address, unsigned bytes);

#define DYNAMIC_SHARED(type, name, alignment) type *const name = (type *)(void *)emulated_shared

template <int N, typename V, typename F> static void emulated_join(emulated_words &lanes) {
    V now[32], next[32];
    for (int i = 0; i < 32; i++) memcpy((void *)&now[i], lanes[i], sizeof(V));
    for (int step = N / 2; step; step /= 2) {
        for (int i = 0; i < 32; i++) next[i] = F{}(now[i], now[i ^ step]);
        memcpy((void *)now, (const void *)next, sizeof now);
    }
    for (int i = 0; i < 32; i++) memcpy(lanes[i], (const void *)&now[i], sizeof(V));
}
template <int N = 32, typename V, typename F> static inline V warp_join(V v, F) {
    memcpy((void *)&v, emulated_exchange(EMULATED_JOIN, 0xffffffffu, v, emulated_join<N, V, F>)[threadIdx.x % 32], sizeof v);
    return v;
}

static inline void let_next_start() {}
static inline void wait_for_previous() {}
template <typename P> static inline void touch(const P &) {}

template <typename V> static inline V emulated_aligned(const void *p) {
    V v;
    if ((uintptr_t)p % sizeof v) emulated_fail("a load from an address that is not aligned");
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint4 stream16(const void *p) { return emulated_aligned<uint4>(p); }
static inline uint2 stream8(const void *p) { return emulated_aligned<uint2>(p); }
static inline void prefetch(const void *) {}

static inline float fast_exp2(float x) { return exp2f(x); }
static inline float fast_log2(float x) { return log2f(x); }
static inline float fast_reciprocal(float x) { return 1 / x; }
static inline float fast_sqrt(float x) { return sqrtf(x); }
static inline float fast_tanh(float x) { return tanhf(x); }

static inline uint32_t tensor_address(const void *shared) { return (uint32_t)((const char *)shared - emulated_shared); }

/* From the lanes' addresses of rows to their values. */
void emulated_load(emulated_words &lanes);
void emulated_load_turned(emulated_words &lanes);
static inline void emulated_load(uint32_t x[4], uint32_t address, void (*load)(emulated_words &)) {
    memcpy(x, emulated_exchange(EMULATED_LOAD, 0xffffffffu, address, load)[threadIdx.x % 32], 4 * sizeof *x);
}
static inline void tensor_load(uint32_t x[4], uint32_t address) { emulated_load(x, address, emulated_load); }
static inline void tensor_load_turned(uint32_t x[4], uint32_t address) { emulated_load(x, address, emulated_load_turned); }

/* From the lanes' a and b to their part of the product. */
void emulated_multiply(emulated_words &lanes);
struct emulated_factors {
    uint32_t a[4], b[2];
};
static inline void tensor_multiply(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    emulated_factors mine = { { a[0], a[1], a[2], a[3] }, { b0, b1 } };
    const emulated_words &products = emulated_exchange(EMULATED_MULTIPLY, 0xffffffffu, mine, emulated_multiply);
    for (int i = 0; i < 4; i++) c[i] += __uint_as_float(products[threadIdx.x % 32][i]);
}

static inline void tensor_copy16(uint32_t to, const void *from, bool there) { emulated_copy(to, from, 16, there); }
static inline void tensor_copy8(uint32_t to, const void *from, bool there) { emulated_copy(to, from, 8, there); }
static inline void tensor_copy4(uint32_t to, const void *from, bool there) { emulated_copy(to, from, 4, there); }
static inline void tensor_copy_group() { emulated_copy_group(); }
template <int N> static inline void tensor_copy_wait() { emulated_copy_wait(N); }

#endif
