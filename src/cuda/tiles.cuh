/* Products of tiles by tensor cores: what the kernels that make them share.
 *
 * Tensor cores (sm_80 and later; bf16, q8, q4): D[16 rows, 8 tokens] += A[16, 16] B[16, 8]. A sum over k may take the k in any
 * order that A and B agree on, so the lanes t = 0..3 of a row take 8 neighbouring values each of 32, which is one 16-byte load of
 * bf16 weights, and two steps of 16. B is x as hi + lo, both bf16. Quants enter A as integers, which bf16 holds exactly; sums of a
 * block of 32 are multiplied by its scale. */
#ifndef SHK_CUDA_TILES_CUH
#define SHK_CUDA_TILES_CUH

#include "cuda/weights.cuh"

enum { STEP_THREADS = 256 };

#if __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
static __device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#else
#define TENSOR_CORES 0
static __device__ __forceinline__ void mma(float *, const uint32_t *, uint32_t, uint32_t) {}
#endif

/* hi + lo of two values, as pairs. */
static __device__ __forceinline__ void split2(float x0, float x1, uint32_t *hi, uint32_t *lo) {
    __nv_bfloat16 h0 = __float2bfloat16_rn(x0), h1 = __float2bfloat16_rn(x1);
    __nv_bfloat16 l0 = __float2bfloat16_rn(x0 - __bfloat162float(h0)), l1 = __float2bfloat16_rn(x1 - __bfloat162float(h1));
    *hi = (uint32_t)__bfloat16_as_ushort(h0) | (uint32_t)__bfloat16_as_ushort(h1) << 16;
    *lo = (uint32_t)__bfloat16_as_ushort(l0) | (uint32_t)__bfloat16_as_ushort(l1) << 16;
}

/* Activations in shared memory: for each token, for each 32 values, 64 bytes of hi and 64 of lo. Tokens lie 64 bytes past a
 * multiple of 128 apart: the lanes of a fragment then meet all banks. */
static __host__ __device__ constexpr size_t token_bytes(size_t padded) { return padded * 4 + 64; }

static __device__ __forceinline__ void put_split4(char *token, unsigned k, float4 v) {
    uint2 hi, lo;
    split2(v.x, v.y, &hi.x, &lo.x);
    split2(v.z, v.w, &hi.y, &lo.y);
    char *at = token + k / 32 * 128 + k % 32 * 2;
    *(uint2 *)at = hi;
    *(uint2 *)(at + 64) = lo;
}

/* A row whose values cannot be read by fours. */
static __device__ __noinline__ void split_odd_row(char *token, const float *x, unsigned cols, unsigned padded) {
    for (unsigned k = threadIdx.x * 4; k < padded; k += STEP_THREADS * 4)
        put_split4(token, k,
                   make_float4(k < cols ? x[k] : 0, k + 1 < cols ? x[k + 1] : 0, k + 2 < cols ? x[k + 2] : 0,
                               k + 3 < cols ? x[k + 3] : 0));
}

/* A row of activations, by all threads; the loads of several values are under way at once. */
static __device__ __forceinline__ void split_row(char *token, const float *x, unsigned cols, unsigned padded) {
    enum { AT_ONCE = 3 };
    unsigned step = STEP_THREADS * 4;
    if (cols % 4 || (uintptr_t)x % 16) {
        split_odd_row(token, x, cols, padded);
        return;
    }
    for (unsigned k0 = threadIdx.x * 4; k0 < padded; k0 += AT_ONCE * step) {
        float4 v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            v[i] = k0 + i * step < cols ? __ldcg((const float4 *)(const void *)(x + k0 + i * step)) : float4{};
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (k0 + i * step < padded) put_split4(token, k0 + i * step, v[i]);
    }
}

/* What a lane holds of a tile: of two rows, 8 apart. `at`: the first tile of the same rows; `group`: which. */
template <format F> struct fragment;
template <> struct fragment<SHK_CUDA_BF16> {
    uint4 w[2][2]; /* [half of the group][row] */
    enum { TILE = 2048 };
    __device__ __forceinline__ void load(const char *at, size_t group, unsigned lane) {
        for (int i = 0; i < 4; i++) w[i / 2][i % 2] = stream16(at + group * TILE + i * 512 + lane * 16);
    }
    __device__ __forceinline__ void a(uint32_t out[2][4], int h) const {
        out[0][0] = w[h][0].x, out[0][1] = w[h][1].x, out[0][2] = w[h][0].y, out[0][3] = w[h][1].y;
        out[1][0] = w[h][0].z, out[1][1] = w[h][1].z, out[1][2] = w[h][0].w, out[1][3] = w[h][1].w;
    }
    __device__ __forceinline__ float scale(int, int) const { return 1; }
};
/* Two bytes, as signed integers, to bf16: made f32 by the exponent of 2^23, of which bf16 is the upper half. */
static __device__ __forceinline__ uint32_t bytes_bf16(uint32_t w, int i) {
    uint32_t u = w ^ 0x80808080u;
    float f0 = __uint_as_float(__byte_perm(u, 0x4b000000u, 0x7540 | i)) - 8388736.0f;
    float f1 = __uint_as_float(__byte_perm(u, 0x4b000000u, 0x7540 | (i + 1))) - 8388736.0f;
    return __byte_perm(__float_as_uint(f0), __float_as_uint(f1), 0x7632);
}
template <> struct fragment<SHK_CUDA_Q8> {
    uint4 w[2];
    uint32_t d[2];
    enum { TILE = 1024 + 64 };
    __device__ __forceinline__ void load(const char *at, size_t group, unsigned lane) {
        for (int i = 0; i < 2; i++) {
            w[i] = stream16(at + group * TILE + i * 512 + lane * 16);
            d[i] = __ldg((const uint32_t *)(at + group * TILE + 1024) + lane / 4 + i * 8);
        }
    }
    __device__ __forceinline__ void a(uint32_t out[2][4], int h) const {
        for (int r = 0; r < 2; r++) {
            uint32_t x = h ? w[r].z : w[r].x, y = h ? w[r].w : w[r].y;
            out[0][r] = bytes_bf16(x, 0), out[0][2 + r] = bytes_bf16(x, 2);
            out[1][r] = bytes_bf16(y, 0), out[1][2 + r] = bytes_bf16(y, 2);
        }
    }
    __device__ __forceinline__ float scale(int h, int r) const {
        return __half2float(__ushort_as_half((unsigned short)(d[r] >> (16 * h))));
    }
};
/* Two nibbles, 16 bits apart, to bf16: in the mantissa of 128, and 136 taken off again. */
static __device__ __forceinline__ uint32_t nibbles_bf16(uint32_t w) {
    uint32_t u = (w & 0x000f000fu) | 0x43004300u;
    __nv_bfloat162 v = *(__nv_bfloat162 *)&u;
    v = __hadd2(v, __floats2bfloat162_rn(-136.0f, -136.0f));
    return *(uint32_t *)&v;
}
template <> struct fragment<SHK_CUDA_Q4> {
    uint2 w[2];
    uint32_t d[2];
    enum { TILE = 512 + 64 };
    __device__ __forceinline__ void load(const char *at, size_t group, unsigned lane) {
        for (int i = 0; i < 2; i++) {
            w[i] = stream8(at + group * TILE + i * 256 + lane * 8);
            d[i] = __ldg((const uint32_t *)(at + group * TILE + 512) + lane / 4 + i * 8);
        }
    }
    __device__ __forceinline__ void a(uint32_t out[2][4], int h) const {
        for (int r = 0; r < 2; r++) {
            uint32_t x = h ? w[r].y : w[r].x;
            out[0][r] = nibbles_bf16(x), out[0][2 + r] = nibbles_bf16(x >> 4);
            out[1][r] = nibbles_bf16(x >> 8), out[1][2 + r] = nibbles_bf16(x >> 12);
        }
    }
    __device__ __forceinline__ float scale(int h, int r) const {
        return __half2float(__ushort_as_half((unsigned short)(d[r] >> (16 * h))));
    }
};

/* c += the group's products, for MT tiles of rows and NT of tokens. `x` is where the group of this lane's token (lane / 4) and
 * part (t) begins; `step` bytes lead from 8 tokens to the next 8; `have` tokens of the NT * 8 exist from this lane's on. */
template <format F, int MT, int NT>
static __device__ __forceinline__ void multiply(float c[MT][NT][4], const fragment<F> w[MT], const char *x, size_t step, int have) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t a[MT][2][4];
        float d[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            w[m].a(a[m], h);
            d[m][0] = w[m].scale(h, 0), d[m][1] = w[m].scale(h, 1);
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint4 hi = {}, lo = {};
            if (n * 8 < have) {
                hi = *(const uint4 *)(x + n * step + h * 128);
                lo = *(const uint4 *)(x + n * step + h * 128 + 64);
            }
#pragma unroll
            for (int m = 0; m < MT; m++) {
                float blocks[4] = {}, *p = F == SHK_CUDA_BF16 ? c[m][n] : blocks;
                mma(p, a[m][0], hi.x, hi.y), mma(p, a[m][0], lo.x, lo.y);
                mma(p, a[m][1], hi.z, hi.w), mma(p, a[m][1], lo.z, lo.w);
                if constexpr (F != SHK_CUDA_BF16)
                    for (int i = 0; i < 4; i++) c[m][n][i] = fmaf(d[m][i / 2], blocks[i], c[m][n][i]);
            }
        }
    }
}

#endif
