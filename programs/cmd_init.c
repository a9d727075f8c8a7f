/* sparkhawk init: a model with random weights. */
#include "options.h"
#include "program.h"

typedef struct init_args {
    const char *output, *type;
    int64_t seed;
} init_args;

#define AT(field) offsetof(init_args, field)

static const option init_options[] = {
    { "output", 'o', OPT_PATH, AT(output), 0, 0, "OUT", "where to write: NAME.gguf, or a directory" },
    { "type", 0, OPT_CHOICE, AT(type), 0, 0, "f32|bf16|f16|q8_0|q4_0|q4_k", "the type of matrices" },
    { "seed", 's', OPT_INT, AT(seed), 0, (double)((int64_t)1 << 53), "N", "the same seed gives the same file" },
    { 0 }
};

static int init_run(const void *p, const strings *operands) {
    const init_args *a = p;
    shk_error err;
    if (!operands->n) {
        for (size_t i = 0; shk_preset_name(i); i++) putf("%s\n", shk_preset_name(i));
        return EXIT_SUCCESS;
    }
    if (!a->output) return misuse(&cmd_init, "where to? --output says so");
    return shk_init(operands->items[0], a->output, a->type, (uint64_t)a->seed, &err) ? fail("%s", err.message) : EXIT_SUCCESS;
}

const command cmd_init = {
    .name = "init",
    .summary = "make a model with random weights",
    .operands = "[PRESET|CONFIG]",
    .description = "Writes a model with random weights: of a preset, or as a config.json says. Without an operand it lists "
                   "the presets.",
    .options = init_options,
    .defaults = &(const init_args){ 0 },
    .size = sizeof(init_args),
    .max_operands = 1,
    .operand_word = shk_preset_name,
    .operand_files = true,
    .run = init_run,
};
