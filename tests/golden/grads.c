/* Gradients of every checkpoint in tests/golden that can be trained: against those of its reference implementation
 * (gradients.safetensors), and where there are none against finite differences. Also: they are the same to the bit for any number
 * of threads and with recomputation, and documents in one sequence have the losses that they have alone. On the CPU, and on a GPU
 * where there is one: its products choose their order of summation by their sizes, and losses of documents are close, no more. */
#include <dirent.h>
#include <math.h>
#include <unistd.h>

#include "file/safetensors.h"
#include "train/net.h"
#include "../device.h"

/* By norm. An f32 computation of spark-ffn is 1.1e-5 from its reference in f64, the others are nearer. */
static const double BOUND = 5e-5;

static shk_error err;
#define OK(call) NEED((call) == SHK_OK, "%s: %s", path, err.message)

static shk_device device;
static char path[512];
static int32_t tokens[256];
static size_t T;

static shk_net *open_net(size_t B, size_t length, int threads, bool recompute) {
    shk_model *m;
    shk_net *n;
    OK(shk_model_load(&m, path, &(shk_model_params){ .threads = threads, .exact = 1, .kv_type = "f32", .device = device }, &err));
    OK(shk_net_new(&n, m, &(shk_net_options){ B, length, false, recompute }, &err));
    return n;
}

/* The loss of the prompt as one document; gradients too if asked. */
static double run(shk_net *n, bool train) {
    int32_t targets[256], first[256] = { 0 };
    double sum;
    for (size_t t = 0; t < T; t++) targets[t] = t + 1 < T ? tokens[t + 1] : -1;
    OK(shk_net_run(n, tokens, targets, first, train, 0, 1 / (float)(T - 1), &sum, &err));
    return sum / (double)(T - 1);
}

/* Gradients, in the host's memory; free() them. */
static float *gradients(const shk_net *n) {
    float *g = malloc(n->params.size * sizeof *g);
    n->ops->download(n->dev, g, n->g, n->params.size * sizeof *g);
    return g;
}

static void against_reference(const char *name, shk_net *n) {
    char file[600];
    shk_tensors t;
    double worst = 0;
    size_t seen = 0;
    snprintf(file, sizeof file, "%s/gradients.safetensors", path);
    OK(shk_safetensors_open(&t, file, &err));
    double want_loss = *(const float *)shk_tensors_find(&t, "loss")->data, loss = run(n, true);
    CHECK(fabs(loss - want_loss) < 5e-6 * want_loss, "%s: loss %.9g, the reference has %.9g", name, loss, want_loss);
    snprintf(file, sizeof file, "/tmp/shk_grads_%d.safetensors", (int)getpid());
    float *g = gradients(n);
    OK(shk_params_write(&n->params, file, &(shk_param_source){ .prefix = "", .array = g }, 1, &err));
    free(g);
    shk_tensors have;
    OK(shk_safetensors_open(&have, file, &err));
    unlink(file);
    for (size_t i = 0; i < t.n; i++) {
        const shk_tensor *want = &t.items[i], *got = shk_tensors_find(&have, want->name);
        if (strcmp(want->name, "loss") == 0) continue;
        CHECK(got && got->n_elem == want->n_elem, "%s: no gradient of %s", name, want->name);
        if (!got) continue;
        double off = 0, norm = 0;
        for (size_t j = 0; j < want->n_elem; j++) {
            double a = ((const float *)want->data)[j], b = ((const float *)got->data)[j];
            off += (a - b) * (a - b), norm += a * a;
        }
        double e = sqrt(off / norm);
        CHECK(e <= BOUND, "%s: the gradient of %s is off by %.3g", name, want->name, e);
        worst = fmax(worst, e), seen++;
    }
    CHECK(seen == have.n, "%s: %zu gradients, the reference has %zu", name, have.n, seen);
    printf("%-16s gradients within %.2g, %s\n", name, worst, n->ops->name);
    shk_tensors_free(&have);
    shk_tensors_free(&t);
}

/* Along each tensor's own gradient the loss must rise by its norm. The second difference says how far the first is from the
 * derivative; a loss is rounded to a few units of 2^-24. */
static void against_differences(const char *name, shk_net *n) {
    double noise = 8 * 0x1p-24 * run(n, true);
    float *all = gradients(n);
    for (size_t i = 0; i < n->params.n; i++) {
        const shk_param *p = &n->params.items[i];
        float *w = malloc(p->n * sizeof *w), *old = malloc(p->n * sizeof *old);
        const float *g = all + p->at;
        double norm = 0, slope[2];
        for (size_t j = 0; j < p->n; j++) norm += (double)g[j] * g[j];
        norm = sqrt(norm);
        n->ops->download(n->dev, old, n->w + p->at, p->n * sizeof *old);
        double h = fmin(0.02 / norm, 0.5); /* a change of about 0.02, and no step that leads far away */
        for (int k = 0; k < 2; k++, h /= 2) {
            double loss[2];
            for (int side = 0; side < 2; side++) {
                for (size_t j = 0; j < p->n; j++) w[j] = (float)(old[j] + (side ? h : -h) * g[j] / norm);
                n->ops->upload(n->dev, n->w + p->at, w, p->n * sizeof *w);
                loss[side] = run(n, false);
            }
            slope[k] = (loss[1] - loss[0]) / (2 * h);
        }
        n->ops->upload(n->dev, n->w + p->at, old, p->n * sizeof *old);
        double bound = fabs(slope[0] - slope[1]) + noise / (2 * h);
        CHECK(fabs((4 * slope[1] - slope[0]) / 3 - norm) <= bound && bound < 0.05 * norm,
              "%s: %s: slope %.6g, gradient %.6g, bound %g", name, p->name, slope[1], norm, bound);
        free(w), free(old);
    }
    free(all);
}

/* A GPU has no threads to choose, but its results too must be the same each time. */
static void same_bits(const char *name, const shk_net *first) {
    static const struct { int threads; bool recompute; } ways[] = { { 1, false }, { 3, false }, { 2, true } };
    float *want = gradients(first);
    for (size_t i = device == SHK_DEVICE_CPU ? 0 : 1; i < 3; i++) {
        shk_net *n = open_net(1, T, ways[i].threads, ways[i].recompute);
        run(n, true);
        float *g = gradients(n);
        CHECK(memcmp(g, want, n->params.size * sizeof *g) == 0, "%s: gradients depend on threads or recomputation", name);
        free(g);
        shk_net_free(n);
    }
    free(want);
}

/* The prompt cut into documents of 7, 20 and what is left, in one sequence of a batch of two. */
static void packed(const char *name) {
    size_t at[] = { 0, 7, 27, T };
    int32_t all[512], targets[512], first[512];
    double sum;
    shk_net *n = open_net(2, T, 2, false);
    for (size_t d = 0; d < 3; d++)
        for (size_t t = at[d]; t < at[d + 1]; t++) {
            all[t] = all[T + t] = tokens[t];
            first[t] = (int32_t)at[d], first[T + t] = 0;
            targets[t] = t + 1 < at[d + 1] ? tokens[t + 1] : -1, targets[T + t] = -1;
        }
    OK(shk_net_run(n, all, targets, first, true, 0, 1, &sum, &err));
    float *rest = gradients(n);
    double left = 0, size = 0;
    for (size_t d = 0; d < 3; d++) {
        size_t length = at[d + 1] - at[d], off = 0;
        shk_net *alone = open_net(1, length, 1, false);
        int32_t zeros[256] = { 0 };
        OK(shk_net_run(alone, tokens + at[d], targets + at[d], zeros, true, 0, 1, &sum, &err));
        for (size_t t = 0; t < length; t++) {
            double want = alone->host_loss[t], have = n->host_loss[at[d] + t];
            off += device == SHK_DEVICE_CPU ? have != want : !(fabs(have - want) <= 1e-5 * (1 + want));
        }
        CHECK(off == 0, "%s: document %zu is not by itself", name, d);
        float *g = gradients(alone);
        for (size_t i = 0; i < n->params.size; i++) rest[i] -= g[i], size += d == 2 ? (double)g[i] * g[i] : 0;
        free(g);
        shk_net_free(alone);
    }
    /* nothing is left but rounding: a few units for each of the rows that are summed */
    for (size_t i = 0; i < n->params.size; i++) left += (double)rest[i] * rest[i];
    CHECK(sqrt(left) <= BOUND * sqrt(size), "%s: gradients of documents do not add up: %g of %g", name, sqrt(left), sqrt(size));
    free(rest);
    shk_net_free(n);
}

static void test(const char *name) {
    char file[600];
    shk_tensors t;
    snprintf(file, sizeof file, "%s/golden.safetensors", path);
    OK(shk_safetensors_open(&t, file, &err));
    const shk_tensor *prompt = shk_tensors_find(&t, "tokens");
    NEED(prompt && prompt->n_elem <= 256, "%s: tokens", file);
    T = prompt->n_elem;
    memcpy(tokens, prompt->data, T * sizeof *tokens);
    shk_tensors_free(&t);
    shk_net *n = open_net(1, T, 2, false);
    snprintf(file, sizeof file, "%s/gradients.safetensors", path);
    if (access(file, R_OK) == 0) against_reference(name, n);
    else against_differences(name, n);
    same_bits(name, n);
    packed(name);
    shk_net_free(n);
}

static void test_all(const char *only) {
    static const char folder[] = "tests/golden";
    DIR *d = opendir(folder);
    NEED(d, "%s: run from the top of the tree", folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char config[600];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        snprintf(config, sizeof config, "%s/config.json", path);
        if (e->d_name[0] == '.' || access(config, R_OK) != 0 || strcmp(e->d_name, "gemma3n") == 0) continue;
        if (only && strcmp(only, e->d_name) != 0) continue;
        test(e->d_name);
        n++;
    }
    closedir(d);
    CHECK(n == (only ? 1 : 10), "%d checkpoints found", n);
}

int main(int argc, char **argv) {
    test_all(argc > 1 ? argv[1] : NULL);
    if (test_has(device = SHK_DEVICE_CUDA)) test_all(argc > 1 ? argv[1] : NULL);
    shk_model *m;
    shk_net *net;
    strcpy(path, "tests/golden/gemma3n");
    OK(shk_model_load(&m, path, &(shk_model_params){ .exact = 1, .kv_type = "f32" }, &err));
    CHECK(shk_net_new(&net, m, &(shk_net_options){ 1, 8, false, false }, &err) == SHK_E_UNSUPPORTED, "gemma3n is refused");
    return test_done();
}
