/* Keys and values of a sequence in kernels: rows of f32, bf16 or q8_0 (file/blocks.h) in the rings of its state. All of a pass is
 * in them before anybody attends, but for steps whose attention puts a row's key and value there itself (heads.cuh). */
#ifndef SHK_CUDA_RINGS_CUH
#define SHK_CUDA_RINGS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"

/* What a kernel knows of an attention. */
typedef struct attention_args {
    const float *q, *k, *v; /* k, v: new, for the rings */
    const pass_info *pass;
    uint32_t heads, kv_heads, head_dim, rank, layer, window;
    float softcap, value_bytes; /* value_bytes: of a value in the rings, for counting */
} attention_args;

enum { KV_BLOCK = 32, KV_BLOCK_BYTES = 34 };

static __host__ __device__ constexpr size_t kv_bytes(shk_type type, size_t dim) {
    return type == SHK_F32 ? dim * 4 : type == SHK_BF16 ? dim * 2 : dim / KV_BLOCK * KV_BLOCK_BYTES;
}

/* Value i of a row. */
template <shk_type KV> static __device__ __forceinline__ float kv_get(const char *row, uint32_t i) {
    if constexpr (KV == SHK_F32) return ((const float *)(const void *)row)[i];
    if constexpr (KV == SHK_BF16) return __uint_as_float((uint32_t)((const uint16_t *)(const void *)row)[i] << 16);
    const char *block = row + i / KV_BLOCK * KV_BLOCK_BYTES;
    return __half2float(*(const __half *)(const void *)block) * (float)*(const int8_t *)(block + 2 + i % KV_BLOCK);
}

/* Values i to i + N - 1 of a row, N 1 or 8, as they are there: what is loaded early and used later. */
template <shk_type KV, int N> struct kv_run;
template <shk_type KV> struct kv_run<KV, 1> {
    float v;
    __device__ __forceinline__ void load(const char *row, uint32_t i) { v = kv_get<KV>(row, i); }
    __device__ __forceinline__ void get(float out[1]) const { out[0] = v; }
};
template <> struct kv_run<SHK_F32, 8> {
    float4 v[2];
    __device__ __forceinline__ void load(const char *row, uint32_t i) {
        v[0] = *(const float4 *)(const void *)(row + i * 4), v[1] = *(const float4 *)(const void *)(row + i * 4 + 16);
    }
    __device__ __forceinline__ void get(float out[8]) const {
        for (int h = 0; h < 2; h++) out[4 * h] = v[h].x, out[4 * h + 1] = v[h].y, out[4 * h + 2] = v[h].z, out[4 * h + 3] = v[h].w;
    }
};
template <> struct kv_run<SHK_BF16, 8> {
    uint4 v;
    __device__ __forceinline__ void load(const char *row, uint32_t i) { v = *(const uint4 *)(const void *)(row + i * 2); }
    __device__ __forceinline__ void get(float out[8]) const {
        uint32_t w[4] = { v.x, v.y, v.z, v.w };
        for (int h = 0; h < 4; h++) out[2 * h] = __uint_as_float(w[h] << 16), out[2 * h + 1] = __uint_as_float(w[h] & 0xffff0000u);
    }
};
template <> struct kv_run<SHK_Q8_0, 8> {
    uint16_t v[4], d;
    __device__ __forceinline__ void load(const char *row, uint32_t i) {
        const uint16_t *block = (const uint16_t *)(const void *)(row + i / KV_BLOCK * KV_BLOCK_BYTES);
        d = block[0];
        for (int h = 0; h < 4; h++) v[h] = block[1 + i % KV_BLOCK / 2 + h];
    }
    __device__ __forceinline__ void get(float out[8]) const {
        float f = __half2float(__ushort_as_half(d));
        for (int h = 0; h < 4; h++) out[2 * h] = f * (float)(int8_t)v[h], out[2 * h + 1] = f * (float)(int8_t)(v[h] >> 8);
    }
};

/* N values in shared memory, where N of 8 is at a multiple of 16 bytes. */
template <int N> static __device__ __forceinline__ void get_floats(float out[N], const float *from) {
    if constexpr (N == 8) {
        float4 a = ((const float4 *)(const void *)from)[0], b = ((const float4 *)(const void *)from)[1];
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else {
        out[0] = *from;
    }
}
template <int N> static __device__ __forceinline__ void put_floats(float *to, const float v[N]) {
    if constexpr (N == 8) {
        ((float4 *)(void *)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)(void *)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        *to = v[0];
    }
}

/* Writes a row, by a warp; as shk_quant_row (file/types.h) rounds it. */
template <shk_type KV> static __device__ __forceinline__ void kv_put(char *row, const float *v, uint32_t dim) {
    uint32_t lane = threadIdx.x % 32;
    if constexpr (KV == SHK_Q8_0) {
#pragma unroll 1
        for (uint32_t b = 0; b < dim / KV_BLOCK; b++) {
            float x = v[b * KV_BLOCK + lane], most = warp_max(fabsf(x));
            bool finite = __all_sync(0xffffffffu, isfinite(x));
            __half d = finite ? __float2half_rn(most / 127) : __ushort_as_half(0x7e00);
            float step = __half2float(d);
            char *block = row + b * KV_BLOCK_BYTES;
            if (!lane) *(__half *)(void *)block = d;
            block[2 + lane] = (char)(finite && step > 0 ? (int)fminf(fmaxf(rintf(x * (1 / step)), -127), 127) : 0);
        }
    } else {
#pragma unroll 2
        for (uint32_t i = lane; i < dim; i += 32) {
            if constexpr (KV == SHK_F32) ((float *)(void *)row)[i] = v[i];
            else ((__nv_bfloat16 *)(void *)row)[i] = __float2bfloat16_rn(v[i]);
        }
    }
}

/* The slot of a position: rarely anything but the position itself, and a long division then, which is kept out of the way. */
static __device__ __noinline__ uint64_t wrapped(uint64_t pos, uint64_t slots) { return pos % slots; }
static __device__ __forceinline__ uint64_t slot_of(uint64_t pos, uint64_t slots) { return pos < slots ? pos : wrapped(pos, slots); }

/* The same of four values v from d on, by the lanes of whole warps whose neighbours have the neighbours. */
template <shk_type KV> static __device__ __forceinline__ void kv_put4(char *row, uint32_t d, float4 v) {
    if constexpr (KV == SHK_F32) {
        *(float4 *)(void *)(row + d * 4) = v;
    } else if constexpr (KV == SHK_BF16) {
        __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y), high = __floats2bfloat162_rn(v.z, v.w);
        *(uint2 *)(void *)(row + d * 2) = uint2{ *(uint32_t *)&low, *(uint32_t *)&high };
    } else {
        float x[4] = { v.x, v.y, v.z, v.w }, most = 0;
        bool finite = true;
        for (int i = 0; i < 4; i++) most = fmaxf(most, fabsf(x[i])), finite &= isfinite(x[i]);
        most = warp_join<KV_BLOCK / 4>(finite ? most : INFINITY, [](float a, float b) { return fmaxf(a, b); });
        finite = isfinite(most);
        __half scale = finite ? __float2half_rn(most / 127) : __ushort_as_half(0x7e00);
        float step = __half2float(scale);
        char *block = row + d / KV_BLOCK * KV_BLOCK_BYTES;
        if (d % KV_BLOCK == 0) *(__half *)(void *)block = scale;
        for (int i = 0; i < 4; i++)
            block[2 + d % KV_BLOCK + i] = (char)(finite && step > 0 ? (int)fminf(fmaxf(rintf(x[i] * (1 / step)), -127), 127) : 0);
    }
}

/* A run of rows, position by position: one head's keys, parts of keys, or values. */
typedef struct ring_view {
    const char *ring; /* slot 0 */
    size_t slots, bytes;
    __device__ __forceinline__ const char *operator[](uint64_t pos) const {
        return ring + (size_t)(uint32_t)slot_of(pos, slots) * (uint32_t)bytes; /* both are small: one multiplication */
    }
} ring_view;

/* Neighbours from position `first` on, no more than the ring has slots. */
typedef struct ring_run {
    ring_view view;
    uint32_t slot, slots;
    __device__ __forceinline__ ring_run(const ring_view &v, uint64_t first)
        : view(v), slot((uint32_t)slot_of(first, v.slots)), slots((uint32_t)v.slots) {}
    __device__ __forceinline__ const char *operator[](uint32_t j) const {
        uint32_t s = slot + j;
        return view.ring + (size_t)(s >= slots ? s - slots : s) * (uint32_t)view.bytes;
    }
} ring_run;

static __device__ __forceinline__ ring_view view(const attention_args &a, const pass_seq *s, size_t region, uint32_t kv,
                                                 uint32_t dim) {
    const shk_state_layer *l = &s->layers[a.layer];
    size_t bytes = kv_bytes(l->type, dim);
    return ring_view{ s->state + region + kv * l->ring * bytes, l->ring, bytes };
}

static __device__ __forceinline__ ring_view keys(const attention_args &a, const pass_seq *s, uint32_t kv) {
    return view(a, s, s->layers[a.layer].k, kv, a.rank ? a.rank : a.head_dim);
}
static __device__ __forceinline__ ring_view rest_of_keys(const attention_args &a, const pass_seq *s, uint32_t kv) {
    return view(a, s, s->layers[a.layer].k2, kv, a.head_dim - a.rank);
}
static __device__ __forceinline__ ring_view values(const attention_args &a, const pass_seq *s, uint32_t kv) {
    return view(a, s, s->layers[a.layer].v, kv, a.head_dim);
}

/* Puts the key (`value`: the value) of a position and head into its ring; a warp. */
template <shk_type KV>
static __device__ __forceinline__ void put_in_ring(const attention_args &a, uint64_t pos, const pass_seq *s, uint32_t kv,
                                                   bool value, const float *v) {
    uint32_t dim = a.rank && !value ? a.rank : a.head_dim, rest = a.head_dim - dim;
    kv_put<KV>((char *)(value ? values(a, s, kv) : keys(a, s, kv))[pos], v, dim);
    if (rest) kv_put<KV>((char *)rest_of_keys(a, s, kv)[pos], v + dim, rest);
}
static __device__ __forceinline__ void put_in_ring(const attention_args &a, uint64_t pos, const pass_seq *s, uint32_t kv,
                                                   bool value, const float *v) {
    shk_type type = s->layers[a.layer].type;
    if (type == SHK_Q8_0) put_in_ring<SHK_Q8_0>(a, pos, s, kv, value, v);
    else if (type == SHK_BF16) put_in_ring<SHK_BF16>(a, pos, s, kv, value, v);
    else put_in_ring<SHK_F32>(a, pos, s, kv, value, v);
}

/* The same of all rows and heads (attention.cu). */
void cuda_put_in_rings(shk_cuda *cu, const attention_args &a);

/* A kernel template's instance for what the rings hold, and whether rows may be read by eight values. */
#define BY_KV(type, by_eights, call)                                                                                               \
    do {                                                                                                                           \
        if ((type) == SHK_Q8_0) call(SHK_Q8_0, 8);                                                                                 \
        else if ((type) == SHK_F32 && (by_eights)) call(SHK_F32, 8);                                                               \
        else if ((type) == SHK_F32) call(SHK_F32, 1);                                                                              \
        else if (by_eights) call(SHK_BF16, 8);                                                                                     \
        else call(SHK_BF16, 1);                                                                                                    \
    } while (0)

/* scores[h][j] = q_h . key(first + j) for `heads` heads (q in shared memory, `ldq` apart) and j < n, soft-capped; eight lanes for a
 * position and ROUNDS - 1 others beside it, HEADS heads at once. ld: from a head's scores to the next's. dim: a multiple of N. */
template <shk_type KV, int N, int HEADS, int ROUNDS>
static __device__ __forceinline__ void score(float *scores, size_t ld, const float *q, uint32_t heads, uint32_t ldq,
                                             const ring_run &key, uint32_t n, uint32_t dim, float softcap) {
    enum { AHEAD = 4 }; /* loads of a position that are under way together: of keys that short, all */
    uint32_t lane = threadIdx.x % 8, groups = blockDim.x / 8;
#pragma unroll 1
    for (uint32_t j0 = 0; j0 < n; j0 += groups * ROUNDS) { /* whole warps go round together */
        const char *row[ROUNDS];
        kv_run<KV, N> k[ROUNDS][AHEAD];
#pragma unroll
        for (int r = 0; r < ROUNDS; r++) {
            uint32_t j = j0 + r * groups + threadIdx.x / 8;
            row[r] = key[j < n ? j : n - 1];
        }
#pragma unroll 1
        for (uint32_t h = 0; h < heads; h += HEADS) {
            float sum[ROUNDS][HEADS] = {};
#pragma unroll 1
            for (uint32_t i0 = lane * N; i0 < dim; i0 += AHEAD * 8 * N) {
#pragma unroll
                for (int m = 0; m < AHEAD * ROUNDS; m++)
                    if ((!h || dim > AHEAD * 8 * N) && i0 + m / ROUNDS * 8 * N < dim)
                        k[m % ROUNDS][m / ROUNDS].load(row[m % ROUNDS], i0 + m / ROUNDS * 8 * N);
#pragma unroll
                for (int m = 0; m < AHEAD; m++) {
                    if (i0 + m * 8 * N >= dim) break;
#pragma unroll
                    for (uint32_t u = 0; u < HEADS; u++) {
                        if (h + u >= heads) break;
                        float v[N], w[N];
                        get_floats<N>(w, q + (h + u) * ldq + i0 + m * 8 * N);
#pragma unroll
                        for (int r = 0; r < ROUNDS; r++) {
                            k[r][m].get(v);
#pragma unroll
                            for (int e = 0; e < N; e++) sum[r][u] = fmaf(v[e], w[e], sum[r][u]);
                        }
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < ROUNDS * HEADS; i++) {
                uint32_t u = i % HEADS, j = j0 + i / HEADS * groups + threadIdx.x / 8;
                if (h + u >= heads) continue;
                float s = warp_join<8>(sum[i / HEADS][u], [](float a, float b) { return a + b; });
                if (softcap > 0) s = softcap * tanhf(s / softcap);
                if (!lane && j < n) scores[(h + u) * ld + j] = s;
            }
        }
    }
}

#endif
