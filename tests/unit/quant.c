#include <math.h>

#include "file/blocks.h"
#include "file/gguf.h"

#include "../test.h"

static const char *const fixture = "tests/golden/quants.gguf"; /* tools/make_quant_fixture.py */

/* ---- decoders: equal, to the bit, to what another implementation read out of the same blocks. (Each value is a product of a
 *      scale and small integers, minus another: the order of the multiplications is part of the format.) ---- */

static void test_decoders(void) {
    static const char *const names[] = { "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl" };
    shk_gguf g;
    shk_error err;
    NEED(shk_gguf_open(&g, fixture, &err) == SHK_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char wanted[16];
        snprintf(wanted, sizeof wanted, "%s.f32", names[i]);
        const shk_tensor *blocks = shk_tensors_find(&g.tensors, names[i]), *values = shk_tensors_find(&g.tensors, wanted);
        NEED(blocks && values && blocks->n_elem == values->n_elem, "%s", names[i]);
        CHECK(strcmp(shk_type_of(blocks->type)->name, names[i]) == 0, "%s has type %d", names[i], blocks->type);
        float *y = malloc(values->n_bytes);
        uint8_t *shifted = malloc(blocks->n_bytes + 1); /* at an odd address */
        NEED(y && shifted, "memory");
        memcpy(shifted + 1, blocks->data, blocks->n_bytes);
        shk_dequant_row(blocks->type, y, shifted + 1, blocks->n_elem);
        int wrong = 0;
        for (size_t k = 0; k < values->n_elem; k++) wrong += y[k] != ((const float *)values->data)[k];
        CHECK(wrong == 0, "%s: %d of %zu values differ", names[i], wrong, values->n_elem);
        free(y), free(shifted);
    }
    shk_gguf_free(&g);
}

static void test_plain_decoders(void) {
    float y[2];
    shk_dequant_row(SHK_F32, y, (float[]){ 1.5f, -2 }, 2);
    CHECK(y[0] == 1.5f && y[1] == -2, "f32");
    shk_dequant_row(SHK_F64, y, (double[]){ 0.1, -2 }, 2);
    CHECK(y[0] == 0.1f && y[1] == -2, "f64");
    shk_dequant_row(SHK_F16, y, (uint16_t[]){ 0x3c00, 0xc000 }, 2);
    CHECK(y[0] == 1 && y[1] == -2, "f16");
    shk_dequant_row(SHK_BF16, y, (uint16_t[]){ 0x3f80, 0xc000 }, 2);
    CHECK(y[0] == 1 && y[1] == -2, "bf16");
    shk_dequant_row(SHK_I8, y, (int8_t[]){ -128, 127 }, 2);
    CHECK(y[0] == -128 && y[1] == 127, "i8");
    shk_dequant_row(SHK_I16, y, (int16_t[]){ -30000, 127 }, 2);
    CHECK(y[0] == -30000 && y[1] == 127, "i16");
    shk_dequant_row(SHK_I32, y, (int32_t[]){ -300000, 127 }, 2);
    CHECK(y[0] == -300000 && y[1] == 127, "i32");
    shk_dequant_row(SHK_I64, y, (int64_t[]){ -300000, 1ll << 40 }, 2);
    CHECK(y[0] == -300000 && y[1] == 0x1p40f, "i64");
}

/* ---- encoders ---- */

static const shk_type encoded[] = { SHK_F32, SHK_F16, SHK_BF16, SHK_Q8_0, SHK_Q4_0, SHK_Q4_K };
enum { ENCODED = sizeof encoded / sizeof *encoded, N = 1 << 16 };

static double gaussian(unsigned long long *seed) {
    return sqrt(-2 * log(1 - test_uniform(seed))) * cos(2 * 3.14159265358979 * test_uniform(seed));
}

/* Encodes and decodes n values, at most N; checks that exactly the row's bytes are written. */
static void through(shk_type type, float *y, const float *x, size_t n) {
    static uint8_t w[4 * N + 1];
    size_t bytes;
    NEED(shk_row_bytes(type, n, &bytes), "n");
    memset(w, 0xa5, sizeof w);
    CHECK(shk_quant_row(type, w, x, n), "%s has no encoder", shk_type_of(type)->name);
    CHECK(w[bytes] == 0xa5, "%s: more than %zu bytes were written", shk_type_of(type)->name, bytes);
    shk_dequant_row(type, y, w, n);
}

static double rms_error(const float *y, const float *x, size_t n) {
    double error = 0, all = 0;
    for (size_t i = 0; i < n; i++) error += (y[i] - (double)x[i]) * (y[i] - (double)x[i]), all += (double)x[i] * x[i];
    return sqrt(error / all);
}

/* What the quantizers of llama.cpp 0.3.36 (ggml_quantize_chunk, no importance matrix) leave of error on such rows. Ours search
 * for the least squares and must not do worse. */
static const double llama_q8_0 = 0.00536, llama_q4_0 = 0.0860, llama_q4_k = 0.0714;

static void test_gaussian(void) {
    static float x[N], y[N];
    unsigned long long seed = 1;
    for (int i = 0; i < N; i++) x[i] = (float)(0.02 * gaussian(&seed));
    through(SHK_F32, y, x, N);
    CHECK(memcmp(x, y, sizeof x) == 0, "f32 is not a copy");
    /* half a unit in the last of 11 or 8 bits; f16 has subnormals of step 2^-24 below 2^-14 */
    int f16 = 0, bf16 = 0, q8_0 = 0;
    through(SHK_F16, y, x, N);
    for (int i = 0; i < N; i++) f16 += fabsf(y[i] - x[i]) > fmaxf(fabsf(x[i]) * 0x1p-11f, 0x1p-25f);
    through(SHK_BF16, y, x, N);
    for (int i = 0; i < N; i++) bf16 += fabsf(y[i] - x[i]) > fabsf(x[i]) * 0x1p-8f;
    CHECK(f16 == 0 && bf16 == 0, "%d and %d values are not the nearest", f16, bf16);
    /* half a step, of max / 127 rounded to f16 */
    through(SHK_Q8_0, y, x, N);
    for (int b = 0; b < N; b += 32) {
        float max = 0;
        for (int i = b; i < b + 32; i++) max = fmaxf(max, fabsf(x[i]));
        for (int i = b; i < b + 32; i++) q8_0 += fabsf(y[i] - x[i]) > max / 254 * (1 + 0x1p-10f);
    }
    CHECK(q8_0 == 0, "%d values of q8_0 are off by more than half a step", q8_0);
    double e = rms_error(y, x, N);
    CHECK(e < llama_q8_0 * 1.005, "q8_0: error %.5f", e);
    through(SHK_Q4_0, y, x, N);
    e = rms_error(y, x, N);
    CHECK(e < llama_q4_0, "q4_0: error %.5f", e);
    through(SHK_Q4_K, y, x, N);
    e = rms_error(y, x, N);
    CHECK(e < llama_q4_k, "q4_k: error %.5f", e);
}

/* Values that a block can hold come back as they were. */
static void test_exact(void) {
    float x[256], y[256];
    unsigned long long seed = 2;
    int q8_0 = 0, q4_0 = 0;
    for (int round = 0; round < 100; round++) {
        float d = shk_f16_to_f32(shk_f32_to_f16((float)gaussian(&seed)));
        for (int i = 0; i < 256; i++) x[i] = d * (i % 32 == 7 ? 127 : (float)(test_random(&seed) % 255) - 127);
        through(SHK_Q8_0, y, x, 256);
        for (int i = 0; i < 256; i++) q8_0 += y[i] != x[i];
        for (int i = 0; i < 256; i++) x[i] = d * (i % 32 == 7 ? -8 : (float)(test_random(&seed) % 16) - 8);
        through(SHK_Q4_0, y, x, 256);
        for (int i = 0; i < 256; i++) q4_0 += y[i] != x[i];
    }
    CHECK(q8_0 == 0 && q4_0 == 0, "%d values of q8_0 and %d of q4_0 changed", q8_0, q4_0);
}

static void fill(float *x, float v) {
    for (int i = 0; i < 256; i++) x[i] = v;
}

static void test_extremes(void) {
    float x[512], y[512];
    for (int t = 0; t < ENCODED; t++) {
        const char *name = shk_type_of(encoded[t])->name;
        fill(x, 0), fill(x + 256, 0);
        through(encoded[t], y, x, 512);
        CHECK(memcmp(x, y, sizeof x) == 0, "%s: zeros", name);
        x[300] = NAN;
        through(encoded[t], y, x, 512);
        CHECK(isnan(y[300]) && y[0] == 0, "%s: a NaN gives %g, and far away %g", name, y[300], y[0]);
        x[300] = -INFINITY;
        through(encoded[t], y, x, 512);
        CHECK(!isfinite(y[300]) && y[0] == 0, "%s: an infinity gives %g, and far away %g", name, y[300], y[0]);
        /* what is too large stays finite (but for f16, which has an infinity to say so), and keeps its sign */
        fill(x, 3e38f), fill(x + 256, -3e38f);
        through(encoded[t], y, x, 512);
        bool finite = isfinite(y[0]) && isfinite(y[511]);
        CHECK(y[0] > 60000 && y[511] < -60000 && finite == (encoded[t] != SHK_F16), "%s: 3e38 gives %g, %g", name, y[0], y[511]);
        /* what is too small becomes zero or stays small */
        for (float tiny = 1e-45f; tiny < 1e-7f; tiny *= 10) {
            for (int i = 0; i < 512; i++) x[i] = i % 3 ? tiny * (float)(i % 7) : -tiny;
            through(encoded[t], y, x, 512);
            int far = 0;
            for (int i = 0; i < 512; i++) far += !(fabsf(y[i] - x[i]) <= 8 * tiny);
            CHECK(far == 0, "%s: %d values of about %g", name, far, tiny);
        }
    }
}

/* Rows without a spread: their one value is representable as 15 steps or as the offset, to the f16 rounding of the scale. */
static void test_constant(void) {
    float x[256], y[256];
    for (int t = 0; t < ENCODED; t++) {
        for (float v = -3; v <= 3; v += 6) {
            int far = 0;
            fill(x, v);
            through(encoded[t], y, x, 256);
            for (int i = 0; i < 256; i++) far += fabsf(y[i] - v) > fabsf(v) * 0x1p-11f;
            CHECK(far == 0, "%s: %g gives %g", shk_type_of(encoded[t])->name, v, y[0]);
        }
    }
}

static void test_refused(void) {
    for (unsigned type = 0; type < SHK_TYPE_COUNT; type++) {
        bool has = false;
        for (int t = 0; t < ENCODED; t++) has = has || encoded[t] == type;
        float x[256] = { 0 };
        uint8_t w[1024];
        if (!has) CHECK(!shk_quant_row((shk_type)type, w, x, 256), "type %u has an encoder", type);
    }
}

int main(void) {
    test_decoders();
    test_plain_decoders();
    test_gaussian();
    test_exact();
    test_extremes();
    test_constant();
    test_refused();
    return test_done();
}
