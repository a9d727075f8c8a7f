/* Products of h and rows of Vt (sparse_tensor.cuh).
 *
 * D[16 outputs, 8 tokens] += A[16 outputs, 16 neurons] B[16 neurons, 8 tokens]. Rows of Vt lie in shared memory by 64 outputs, 8 at
 * a time in the order of the outputs, and are turned when they are read from there: pairs of bytes, so that a lane gets two
 * outputs of a neuron at once where weights are q8, four where they are q4. Where there are scales, h is multiplied by them. */
#ifndef SHK_CUDA_SPARSE_ROWS_CUH
#define SHK_CUDA_SPARSE_ROWS_CUH

#include "cuda/sparse_tensor.cuh"

enum { COLUMNS = 64 };

/* A row's 64 outputs in shared memory: pieces of 8. */
template <format F> static __host__ __device__ constexpr unsigned row_bytes() {
    return F == SHK_CUDA_BF16 ? 128 : F == SHK_CUDA_Q8 ? 64 : 32;
}

/* Its blocks of 16 bytes are mixed up by this, so that 8 rows read at once meet all banks. */
template <format F> static __device__ __forceinline__ unsigned mixed(unsigned row) {
    return F == SHK_CUDA_BF16 ? (row & 1) | (row >> 1 & 6) : F == SHK_CUDA_Q8 ? row >> 2 & 3 : row >> 2 & 1;
}

/* Piece `piece` of a row of V to its place. */
template <format F>
static __device__ __forceinline__ void copy_piece(uint32_t rows, unsigned to, const char *row, unsigned column, unsigned piece,
                                                  bool there) {
    enum { ROW = row_bytes<F>(), PIECE = ROW / 8 };
    const char *from = row + column * ROW + (F == SHK_CUDA_BF16 ? piece : piece % 4 * 2 + piece / 4) * PIECE;
    uint32_t at = rows + to * ROW + ((piece * PIECE / 16) ^ mixed<F>(to)) * 16 + piece * PIECE % 16;
    if (F == SHK_CUDA_BF16) tensor_copy16(at, from, there);
    else if (F == SHK_CUDA_Q8) tensor_copy8(at, from, there);
    else tensor_copy4(at, from, there);
}

/* Both scales of a row's 64 outputs. */
template <format F>
static __device__ __forceinline__ void copy_scales(uint32_t to, const char *row, unsigned column, unsigned padded, bool there) {
    if (F != SHK_CUDA_BF16) tensor_copy4(to, row + (F == SHK_CUDA_Q8 ? padded : padded / 2) + column * 4, there);
}

/* The neuron of 16 whose row a lane names: lanes 0..15 those of k = 0..7, twice, the others of k = 8..15. In a product
 * lane % 4 then has four neighbours. */
static __device__ __forceinline__ unsigned neuron_of(unsigned lane) { return lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2; }

/* Bytes i and i + 2, signed, to bf16. */
static __device__ __forceinline__ uint32_t every_second(uint32_t w, int i) {
    return bytes_bf16(__byte_perm(w, 0, 0x20 + i * 0x11), 0);
}

/* 32 outputs, block b of the 64: two tiles. `row`: where the lane's row begins, its blocks mixed by `mix`. */
template <format F>
static __device__ __forceinline__ void turned(uint32_t a[2][4], uint32_t row, unsigned mix, unsigned b, unsigned lane) {
    unsigned second = lane / 8 % 2;
    uint32_t w[4];
    if constexpr (F == SHK_CUDA_BF16) {
        for (unsigned i = 0; i < 2; i++) tensor_load_turned(a[i], row + ((b * 4 + i * 2 + second) ^ mix) * 16);
    } else if constexpr (F == SHK_CUDA_Q8) {
        tensor_load_turned(w, row + ((b * 2 + second) ^ mix) * 16);
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) a[i][j] = every_second(w[j], i);
    } else {
        tensor_load_turned(w, row + (b ^ mix) * 16); /* w[1] and w[3] say the same again */
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) a[i][j] = nibbles_bf16(w[j / 2 * 2] >> (8 * i + j % 2 * 4));
    }
}

/* Which of the 32 outputs is row g, or g + 8 (`upper`), of tile i. */
template <format F> static __device__ __forceinline__ unsigned output_of(unsigned i, unsigned upper, unsigned g) {
    if (F == SHK_CUDA_BF16) return i * 16 + upper * 8 + g;
    if (F == SHK_CUDA_Q8) return upper * 16 + g * 2 + i;
    return g / 2 * 8 + (i * 2 + upper) * 2 + g % 2;
}

/* c += a * h, for four neighbouring neurons a lane, of two tiles of outputs whose scales are d. */
template <format F>
static __device__ __forceinline__ void add_products(float c[2][4], const uint32_t a[2][4], uint4 h, const float d[4]) {
    uint32_t hi[2], lo[2];
    if (F == SHK_CUDA_BF16) {
        hi[0] = __byte_perm(h.x, h.y, 0x5410), hi[1] = __byte_perm(h.z, h.w, 0x5410);
        lo[0] = __byte_perm(h.x, h.y, 0x7632), lo[1] = __byte_perm(h.z, h.w, 0x7632);
    } else {
        split2(__uint_as_float(h.x) * d[0], __uint_as_float(h.y) * d[1], &hi[0], &lo[0]);
        split2(__uint_as_float(h.z) * d[2], __uint_as_float(h.w) * d[3], &hi[1], &lo[1]);
    }
    for (int i = 0; i < 2; i++) tensor_multiply(c[i], a[i], hi[0], hi[1]);
    for (int i = 0; i < 2; i++) tensor_multiply(c[i], a[i], lo[0], lo[1]);
}

/* Of the pair of scales of 64 outputs, that of half b. */
static __device__ __forceinline__ float scale_of(uint32_t pair, unsigned b) {
    return __half2float(__ushort_as_half((unsigned short)(pair >> (16 * b))));
}

#endif
