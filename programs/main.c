/* sparkhawk: one program, a file for each subcommand. */
#include <fcntl.h>
#include <locale.h>

#include "options.h"
#include "program.h"

const command *const commands[] = { &cmd_run,     &cmd_chat,  &cmd_serve, &cmd_info,  &cmd_tokenize, &cmd_convert,
                                    &cmd_init,    &cmd_train, &cmd_bench, &cmd_debug,    &cmd_help, NULL };

typedef struct program_args {
    bool version;
} program_args;

static int program_run(const void *p, const strings *operands) {
    const program_args *a = p;
    char line[256];
    shk_error err;
    if (!a->version) {
        const char *names[32];
        size_t n = 0;
        while (n < 32 && command_name(n)) names[n] = command_name(n), n++;
        const char *near = operands->n ? closest(operands->items[0], names, n) : NULL;
        if (!operands->n) return misuse(&program, "which subcommand?");
        return misuse(&program, "no subcommand is called '%s'%s%s%s", operands->items[0], near ? " (did you mean " : "",
                      near ? near : "", near ? "?)" : "");
    }
    if (shk_build_info(line, sizeof line, &err)) return fail("%s", err.message);
    return putf("%s\n", line), EXIT_SUCCESS;
}

const command program = {
    .name = "sparkhawk",
    .summary = "run Gemma, RecurrentGemma, Griffin and Spark Transformer models",
    .operands = "SUBCOMMAND [OPTION]... [OPERAND]...",
    .description = "Runs Gemma, RecurrentGemma, Griffin and Spark Transformer models.",
    .options = (const option[]){ { "version", 'V', OPT_FLAG, offsetof(program_args, version), 0, 0, NULL,
                                   "print the version and the instruction sets in use" },
                                 { 0 } },
    .defaults = &(const program_args){ 0 },
    .size = sizeof(program_args),
    .max_operands = 1,
    .operand_word = command_name,
    .run = program_run,
};

static int run_command(const command *c, int argc, char **argv) {
    void *args = need(NULL, 1, c->size);
    memcpy(args, c->defaults, c->size);
    strings operands;
    int status = EXIT_USAGE;
    switch (options_parse(c, argc, argv, args, &operands)) {
    case PARSE_RUN: status = c->run(args, &operands); break;
    case PARSE_HELP: help_command(c), status = EXIT_SUCCESS; break;
    case PARSE_WRONG: break;
    }
    options_free(c, args, &operands);
    free(args);
    return put_status(status);
}

/* A closed standard stream would give its number to the next file that is opened, and messages would go there: occupy it with
 * something that can be neither read nor written the way the stream would be. */
static void occupy_standard_streams(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0) exit(EXIT_FAILURE);
}

int main(int argc, char **argv) {
    occupy_standard_streams();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write */
    setlocale(LC_CTYPE, "");  /* for line editing; numbers keep their points */
    const command *c = argc > 1 ? command_find(argv[1]) : NULL;
    if (c) return run_command(c, argc - 2, argv + 2);
    return run_command(&program, argc > 1, argv + 1);
}
