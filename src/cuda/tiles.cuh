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

/* hi + lo of two values, as pairs. */
static __device__ __forceinline__ void split2(float x0, float x1, uint32_t *hi, uint32_t *lo) {
    __nv_bfloat162 h = __floats2bfloat162_rn(x0, x1), l = __floats2bfloat162_rn(x0 - __low2float(h), x1 - __high2float(h));
    *hi = *(uint32_t *)&h, *lo = *(uint32_t *)&l;
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

/* Values [k, k + 4) of a row of `cols`, zeros behind its end. `whole`: they may be read as one. */
static __device__ __forceinline__ float4 four_of(const float *row, unsigned k, unsigned cols, bool whole) {
    if (whole) return __ldcg((const float4 *)(const void *)(row + k));
    return make_float4(row[k], k + 1 < cols ? row[k + 1] : 0, k + 2 < cols ? row[k + 2] : 0, k + 3 < cols ? row[k + 3] : 0);
}

/* A row of activations to memory, without the gap, by STEP_THREADS. */
static __device__ __forceinline__ void split_row(char *to, const float *x, unsigned cols, unsigned padded) {
    bool whole = cols % 4 == 0 && (uintptr_t)x % 16 == 0;
    for (unsigned k = threadIdx.x * 4; k < padded; k += STEP_THREADS * 4)
        put_split4(to, k, k < cols ? four_of(x, k, cols, whole) : float4{});
}

/* Whether rows of activations may be read by fours. */
static __device__ __forceinline__ bool by_fours(const float *x, size_t ldx, unsigned cols) {
    return cols % 4 == 0 && ldx % 4 == 0 && (uintptr_t)x % 16 == 0;
}

/* T rows of activations, by all threads, in two steps: copied as they are, all under way at once; once they are there (to the
 * thread: tensor_copy_wait), split where they lie, 32 values at a time by the lanes that have copied them. */
static __device__ __forceinline__ void fetch_rows(char *shared, const float *x, size_t ldx, unsigned T, unsigned cols,
                                                  unsigned padded) {
    for (unsigned token = 0; by_fours(x, ldx, cols) && token < T; token++)
        for (unsigned k = threadIdx.x * 4; k < padded; k += STEP_THREADS * 4)
            tensor_copy16(tensor_address(shared + token * token_bytes(padded) + k * 4), k < cols ? x + token * ldx + k : x,
                          k < cols);
    tensor_copy_group();
}
static __device__ __forceinline__ void split_rows(char *shared, const float *x, size_t ldx, unsigned T, unsigned cols,
                                                  unsigned padded) {
    bool whole = by_fours(x, ldx, cols);
    unsigned step = STEP_THREADS * 4, lane4 = threadIdx.x % 32 * 4, first = threadIdx.x * 4 - lane4;
    for (unsigned token = 0; token < T; token++)
        for (unsigned k0 = first; k0 < padded; k0 += step) { /* whole warps */
            char *to = shared + token * token_bytes(padded);
            unsigned k = k0 + lane4;
            float4 v = {};
            if (whole && k < padded) v = *(const float4 *)(to + k * 4);
            else if (k < cols) v = four_of(x + token * ldx, k, cols, false);
            __syncwarp();
            if (k < padded) put_split4(to, k, v);
        }
}

/* What a lane holds of a tile: of two rows, 8 apart. `at`: the first tile of the same rows; `group`: which. From rows that lie by
 * themselves (`padded` long; NULL: zeros): `part` is lane % 4. From shared memory: BYTES of each row's group, and its pair of
 * scales. */
template <format F> struct fragment;
template <> struct fragment<SHK_CUDA_BF16> {
    uint4 w[2][2]; /* [half of the group][row] */
    enum { TILE = 2048, BYTES = 128 };
    __device__ __forceinline__ void load(const char *at, size_t group, unsigned lane) {
        for (int i = 0; i < 4; i++) w[i / 2][i % 2] = stream16(at + group * TILE + i * 512 + lane * 16);
    }
    __device__ __forceinline__ void load_rows(const char *const row[2], size_t group, unsigned part, size_t) {
        for (int i = 0; i < 4; i++)
            w[i / 2][i % 2] = row[i % 2] ? stream16(row[i % 2] + group * BYTES + i / 2 * 64 + part * 16) : uint4{};
    }
    __device__ __forceinline__ void load_shared(const char *const row[2], unsigned part, const uint32_t *) {
        for (int i = 0; i < 4; i++) w[i / 2][i % 2] = *(const uint4 *)(row[i % 2] + i / 2 * 64 + part * 16);
    }
    __device__ __forceinline__ void a(uint32_t out[2][4], int h) const {
        out[0][0] = w[h][0].x, out[0][1] = w[h][1].x, out[0][2] = w[h][0].y, out[0][3] = w[h][1].y;
        out[1][0] = w[h][0].z, out[1][1] = w[h][1].z, out[1][2] = w[h][0].w, out[1][3] = w[h][1].w;
    }
    __device__ __forceinline__ float scale(int, int) const { return 1; }
};
/* Quants: of each row a W for both halves of the group, and a pair of scales. */
template <typename W> struct quants {
    W w[2];
    uint32_t d[2];
    enum { TILE = 64 * sizeof(W) + 64, BYTES = 4 * sizeof(W) };
    __device__ __forceinline__ void load(const char *at, size_t group, unsigned lane) {
        for (int i = 0; i < 2; i++) {
            stream(&w[i], at + group * TILE + (i * 32 + lane) * sizeof(W));
            d[i] = __ldg((const uint32_t *)(at + group * TILE + 64 * sizeof(W)) + lane / 4 + i * 8);
        }
    }
    __device__ __forceinline__ void load_rows(const char *const row[2], size_t group, unsigned part, size_t padded) {
        for (int i = 0; i < 2; i++) {
            w[i] = W{}, d[i] = 0;
            if (!row[i]) continue;
            stream(&w[i], row[i] + group * BYTES + part * sizeof(W));
            d[i] = __ldg((const uint32_t *)(row[i] + padded / 64 * BYTES) + group);
        }
    }
    __device__ __forceinline__ void load_shared(const char *const row[2], unsigned part, const uint32_t *scales) {
        for (int i = 0; i < 2; i++) w[i] = *(const W *)(row[i] + part * sizeof(W)), d[i] = scales[i * 8];
    }
    __device__ __forceinline__ float scale(int h, int r) const {
        return __half2float(__ushort_as_half((unsigned short)(d[r] >> (16 * h))));
    }
};
/* Two bytes, as signed integers, to bf16: made f32 by the exponent of 2^23, of which bf16 is the upper half. */
static __device__ __forceinline__ uint32_t bytes_bf16(uint32_t w, int i) {
    uint32_t u = w ^ 0x80808080u;
    float f0 = __uint_as_float(__byte_perm(u, 0x4b000000u, 0x7540 | i)) - 8388736.0f;
    float f1 = __uint_as_float(__byte_perm(u, 0x4b000000u, 0x7540 | (i + 1))) - 8388736.0f;
    return __byte_perm(__float_as_uint(f0), __float_as_uint(f1), 0x7632);
}
template <> struct fragment<SHK_CUDA_Q8> : quants<uint4> {
    __device__ __forceinline__ void a(uint32_t out[2][4], int h) const {
        for (int r = 0; r < 2; r++) {
            uint32_t x = h ? w[r].z : w[r].x, y = h ? w[r].w : w[r].y;
            out[0][r] = bytes_bf16(x, 0), out[0][2 + r] = bytes_bf16(x, 2);
            out[1][r] = bytes_bf16(y, 0), out[1][2 + r] = bytes_bf16(y, 2);
        }
    }
};
/* Two nibbles, 16 bits apart, to bf16: in the mantissa of 128, and 136 taken off again. */
static __device__ __forceinline__ uint32_t nibbles_bf16(uint32_t w) {
    uint32_t u = (w & 0x000f000fu) | 0x43004300u;
    __nv_bfloat162 v = *(__nv_bfloat162 *)&u;
    v = __hadd2(v, __floats2bfloat162_rn(-136.0f, -136.0f));
    return *(uint32_t *)&v;
}
template <> struct fragment<SHK_CUDA_Q4> : quants<uint2> {
    __device__ __forceinline__ void a(uint32_t out[2][4], int h) const {
        for (int r = 0; r < 2; r++) {
            uint32_t x = h ? w[r].y : w[r].x;
            out[0][r] = nibbles_bf16(x), out[0][2 + r] = nibbles_bf16(x >> 4);
            out[1][r] = nibbles_bf16(x >> 8), out[1][2 + r] = nibbles_bf16(x >> 12);
        }
    }
};

/* c += a group's products, for MT tiles of rows and NT of tokens. What a lane needs of half h of the group, of token 8 n + lane /
 * 4, the values 8 t to 8 t + 7, `x` gives: x(n, h, &hi, &lo). Sums of one token wait for each other, so several take turns. */
template <format F, int MT, int NT, typename X>
static __device__ __forceinline__ void multiply(float c[MT][NT][4], const fragment<F> w[MT], X x) {
    constexpr int TURNS = NT < 4 ? NT : F != SHK_CUDA_BF16 && MT > 1 ? 2 : 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t a[MT][2][4];
#pragma unroll
        for (int m = 0; m < MT; m++) w[m].a(a[m], h);
#pragma unroll
        for (int n0 = 0; n0 < NT; n0 += TURNS) {
            uint4 hi[TURNS], lo[TURNS];
            float blocks[MT][TURNS][4] = {};
#pragma unroll
            for (int n = 0; n < TURNS; n++) x(n0 + n, h, &hi[n], &lo[n]);
#pragma unroll
            for (int part = 0; part < 4; part++)
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int n = 0; n < TURNS; n++) {
                        const uint4 &b = part % 2 ? lo[n] : hi[n];
                        tensor_multiply(F == SHK_CUDA_BF16 ? c[m][n0 + n] : blocks[m][n], a[m][part / 2], part / 2 ? b.z : b.x,
                                        part / 2 ? b.w : b.y);
                    }
            if constexpr (F != SHK_CUDA_BF16) {
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int n = 0; n < TURNS; n++)
                        for (int i = 0; i < 4; i++) c[m][n0 + n][i] = fmaf(w[m].scale(h, i / 2), blocks[m][n][i], c[m][n0 + n][i]);
            }
        }
    }
}

#endif
