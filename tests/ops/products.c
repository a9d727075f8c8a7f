/* Products of f32 matrices (cpu/gemm.h), in f32 and of factors rounded to bf16, against sums in double: every orientation, more
 * than a block in each direction, several at once; the same bits on any number of threads. */
#include <math.h>

#include "../test.h"
#include "cpu/gemm.h"

enum { COUNT = 2 };
static unsigned long long seed = 99;
static const shk_ops *ops;

static float *values(size_t n) {
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = (float)(test_uniform(&seed) * 4 - 2);
    return p;
}

static double factor(float x, bool bf16) { return bf16 ? shk_bf16_to_f32(shk_f32_to_bf16(x)) : x; }

static shk_cpu *device(int threads, bool bf16) {
    void *dev;
    shk_error err;
    NEED(shk_cpu_open(&ops, &dev, threads, &err) == SHK_OK, "%s", err.message);
    ops->train->begin(dev, bf16 ? SHK_BF16 : SHK_F32);
    return dev;
}

/* turned: of a 1 and of b 2 lie with the other stride at 1 */
static void check(size_t m, size_t n, size_t k, int turned, bool add, bool bf16) {
    float *a = values(COUNT * m * k), *b = values(COUNT * k * n), *c[3], *before = values(COUNT * m * n);
    shk_factor fa = { a, turned & 1 ? 1 : k, turned & 1 ? m : 1 }, fb = { b, turned & 2 ? 1 : n, turned & 2 ? k : 1 };
    size_t wrong = 0;
    for (int threads = 1; threads <= 3; threads++) {
        shk_cpu *cpu = device(threads, bf16);
        float *to = c[threads - 1] = memcpy(malloc(COUNT * m * n * sizeof *a), before, COUNT * m * n * sizeof *a);
        shk_product p = { to, n, fa, fb, m, n, k, add };
        shk_cpu_products(cpu, &p, COUNT, m * n, m * k, k * n);
        ops->close(cpu);
        CHECK(!memcmp(to, c[0], COUNT * m * n * sizeof *to), "%zu x %zu x %zu: %d threads give other bits than one", m, n, k,
              threads);
    }
    for (size_t i = 0; i < COUNT * m * n; i++) {
        const float *x = a + i / (m * n) * m * k + i % (m * n) / n * fa.row, *y = b + i / (m * n) * k * n + i % n * fb.col;
        double sum = add ? before[i] : 0, magnitude = fabs(sum);
        for (size_t j = 0; j < k; j++) {
            double term = factor(x[j * fa.col], bf16) * factor(y[j * fb.row], bf16);
            sum += term, magnitude += fabs(term);
        }
        wrong += !(fabs(c[0][i] - sum) <= 0x1p-24 * (2 * (double)k + 2) * magnitude);
    }
    CHECK(!wrong, "%zu x %zu x %zu, turned %d, add %d, bf16 %d: %zu beyond the bound", m, n, k, turned, add, bf16, wrong);
    for (int i = 0; i < 3; i++) free(c[i]);
    free(a), free(b), free(before);
}

int main(void) {
    static const size_t shapes[][3] = { { 1, 1, 1 }, { 33, 70, 300 }, { 5, 530, 33 }, { 800, 31, 257 }, { 64, 64, 512 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int turned = 0; turned < 4; turned++)
            for (int how = 0; how < 4; how++) check(shapes[s][0], shapes[s][1], shapes[s][2], turned, how & 1, how & 2);
    return test_done();
}
