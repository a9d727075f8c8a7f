/* sparkhawk convert: a model in another form. */
#include "models.h"

typedef struct convert_args {
    model_args model;
    const char *output, *type;
    int64_t shard_size;
} convert_args;

#define AT(field) offsetof(convert_args, field)

static const option convert_options[] = {
    MODEL_ROW,
    { "output", 'o', OPT_PATH, AT(output), 0, 0, "OUT", "where to write: NAME.gguf, or a directory" },
    { "type", 0, OPT_CHOICE, AT(type), 0, 0, "f32|bf16|f16|q8_0|q4_0|q4_k",
      "what matrices become; otherwise they keep their types" },
    { "shard-size", 0, OPT_SIZE, AT(shard_size), 0, 0, "BYTES",
      "divide a directory's weights into files of at most so much, such as 15M" },
    { 0 }
};

static int convert_run(const void *p, const strings *operands) {
    (void)operands;
    const convert_args *a = p;
    shk_error err;
    if (!a->output) return misuse(&cmd_convert, "where to? --output says so");
    char *path = model_path(&a->model);
    if (!path) return EXIT_FAILURE;
    shk_convert_options o = { a->type, (uint64_t)a->shard_size };
    int status = shk_convert(path, a->output, &o, &err) ? fail("%s", err.message) : EXIT_SUCCESS;
    free(path);
    return status;
}

const command cmd_convert = {
    .name = "convert",
    .summary = "write a model in another form",
    .operands = "",
    .description = "Reads a model and writes it as a GGUF file, if the output's name ends in .gguf, or as a directory with "
                   "config.json and model.safetensors, which holds f32, bf16 and f16 only.\n\n"
                   "With --shard-size the directory has model-00001-of-0000N.safetensors and so on, and an index: files that can "
                   "travel one by one. A tensor is never divided: one that is larger has a file to itself. Any subcommand reads "
                   "such a directory, and convert makes one file of it again.",
    .options = convert_options,
    .defaults = &(const convert_args){ .model = { 0 } },
    .size = sizeof(convert_args),
    .run = convert_run,
};
