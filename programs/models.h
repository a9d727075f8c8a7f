/* The model that a subcommand works on. */
#ifndef PROGRAMS_MODELS_H
#define PROGRAMS_MODELS_H

#include "options.h"
#include "program.h"

typedef struct model_args {
    const char *path;
    int64_t threads, window_extra;
    bool dense, exact;
    const char *kv_type, *device;
} model_args;

/* Rows for the option table of arguments that have a member `model`; AT is the file's own offsetof. */
#define MODEL_ROW \
    { "model", 'm', OPT_PATH, AT(model.path), 0, 0, "MODEL", \
      "a GGUF file or a Hugging Face directory; else $SPARKHAWK_MODEL, else the model that 'make run' has fetched" }
#define KV_ROW \
    { "kv", 0, OPT_CHOICE, AT(model.kv_type), 0, 0, "f32|bf16|q8_0", \
      "the type in which sessions keep keys and values; bf16 if not given" }
#define DEVICE_ROW \
    { "device", 0, OPT_CHOICE, AT(model.device), 0, 0, "cpu|cuda", \
      "where to compute: on the CPU (the default), or on the first NVIDIA GPU" }
#define COMPUTE_ROWS \
    KV_ROW, \
    DEVICE_ROW, \
    { "threads", 't', OPT_INT, AT(model.threads), 0, 1024, "N", "compute threads; 0: one for each CPU" }, \
    { "window-extra", 0, OPT_INT, AT(model.window_extra), 0, 1 << 20, "N", \
      "widen every local layer's window; 1: RecurrentGemma as its first release attends" }, \
    { "dense", 0, OPT_FLAG, AT(model.dense), 0, 0, NULL, "compute sparse layers densely, with equal results, for comparisons" }, \
    { "exact", 0, OPT_FLAG, AT(model.exact), 0, 0, NULL, "keep activations in f32: slower, for comparisons" }

/* The model's path: given, from the environment, or the cached one. malloc'd. NULL: said so. */
char *model_path(const model_args *a);
/* What the options say. `threads` aside, which bench counts itself. */
shk_model_params model_params(const model_args *a);
/* Loads it. NULL: said so. */
shk_model *model_open(const model_args *a);

#endif
