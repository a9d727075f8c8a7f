#include "file/types.h"

#include <math.h>

#include "../test.h"

/* What the bits mean, by the definition of a binary format: 1 sign, 5 exponent, 10 mantissa bits. */
static double half_value(unsigned h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -v : v;
}

static void test_f16_decode(void) {
    int wrong = 0;
    for (unsigned h = 0; h < 65536; h++) {
        float v = shk_f16_to_f32((uint16_t)h);
        if ((h & 0x7c00) != 0x7c00) wrong += v != half_value(h) || !signbit(v) != !(h & 0x8000);
        else if (h & 0x3ff) wrong += !isnan(v);
        else wrong += !isinf(v) || (v < 0) != !!(h & 0x8000);
    }
    CHECK(wrong == 0, "%d values of f16 are wrong", wrong);
}

/* Rounding is a step function. It is right everywhere if it is right at each value, at the middle between each two, and on both
 * sides of the middle. */
static int wrong_steps(uint16_t (*encode)(float), float (*value)(uint16_t), unsigned last) {
    int wrong = 0;
    for (unsigned h = 0; h < last; h++) {
        float low = value((uint16_t)h), high = value((uint16_t)(h + 1));
        float middle = (float)(((double)low + high) / 2);
        unsigned even = h % 2 ? h + 1 : h;
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            float s = sign ? -1 : 1;
            wrong += encode(s * low) != (h | sign) || encode(s * middle) != (even | sign);
            wrong += encode(s * nextafterf(middle, 0)) != (h | sign);
            wrong += encode(s * nextafterf(middle, INFINITY)) != ((h + 1) | sign);
        }
    }
    return wrong;
}

static float bf16_value(uint16_t h) { return shk_bf16_to_f32(h); }

static void test_rounding(void) {
    CHECK(wrong_steps(shk_f32_to_f16, shk_f16_to_f32, 0x7bff) == 0, "f16");
    CHECK(wrong_steps(shk_f32_to_bf16, bf16_value, 0x7f7f) == 0, "bf16");
    CHECK(shk_f32_to_f16(65519.99f) == 0x7bff && shk_f32_to_f16(65520) == 0x7c00, "f16 overflow");
    CHECK(shk_f32_to_f16(-1e30f) == 0xfc00, "f16 overflow");
    CHECK(shk_f32_to_f16(INFINITY) == 0x7c00 && shk_f32_to_bf16(-INFINITY) == 0xff80, "infinities");
    CHECK(isnan(shk_f16_to_f32(shk_f32_to_f16(NAN))) && isnan(shk_bf16_to_f32(shk_f32_to_bf16(NAN))), "NaN");
    union { uint32_t u; float f; } low = { 0x7f800001 }; /* a NaN whose payload is in the bits that are cut off */
    CHECK(isnan(shk_f16_to_f32(shk_f32_to_f16(low.f))) && isnan(shk_bf16_to_f32(shk_f32_to_bf16(low.f))), "NaN");
}

static void test_table(void) {
    shk_type type;
    int named = 0;
    for (unsigned i = 0; i < 1000; i++) {
        const shk_type_info *info = shk_type_of(i);
        if (!info->name) continue;
        named++;
        CHECK(shk_type_parse(info->name, &type) && type == i, "%s", info->name);
        CHECK(info->block > 0 && info->bytes > 0, "%s", info->name);
    }
    CHECK(named == 19, "%d types", named);
    CHECK(shk_type_of(4)->name == NULL && shk_type_of(~0u)->name == NULL, "unknown types");
    CHECK(shk_type_parse("Q4_K", &type) && type == SHK_Q4_K, "names in capitals");
    CHECK(!shk_type_parse("q4", &type) && !shk_type_parse("", &type), "no such names");
}

static void test_row_bytes(void) {
    size_t n = 7;
    CHECK(shk_row_bytes(SHK_F32, 5, &n) && n == 20, "%zu", n);
    CHECK(shk_row_bytes(SHK_Q8_0, 64, &n) && n == 68, "%zu", n);
    CHECK(shk_row_bytes(SHK_Q6_K, 512, &n) && n == 420, "%zu", n);
    CHECK(shk_row_bytes(SHK_Q6_K, 0, &n) && n == 0, "%zu", n);
    n = 7;
    CHECK(!shk_row_bytes(SHK_Q8_0, 33, &n) && !shk_row_bytes(SHK_Q6_K, 128, &n) && n == 7, "parts of blocks");
    CHECK(!shk_row_bytes(SHK_F64, SIZE_MAX / 8 + 1, &n) && n == 7, "an overflow");
    CHECK(!shk_row_bytes(SHK_TYPE_COUNT, 32, &n), "no type");
}

int main(void) {
    test_f16_decode();
    test_rounding();
    test_table();
    test_row_bytes();
    return test_done();
}
