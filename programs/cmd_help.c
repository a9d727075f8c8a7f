/* `sparkhawk help` and the text that --help prints. */
#include "options.h"
#include "program.h"

enum { WIDTH = 96, COLUMN = 30 };

/* Words of text in lines of at most WIDTH columns, each line but the first indented; `at` is the column where the first starts.
 * A blank line in the text stays one. */
static void wrap(const char *text, size_t indent, size_t at) {
    bool first = true;
    while (*text) {
        if (*text == '\n' && text[1] == '\n') {
            putf("\n\n%*s", (int)indent, "");
            at = indent, first = true, text += 2;
            continue;
        }
        size_t n = strcspn(text, " \n");
        if (!first && at + 1 + n > WIDTH) {
            putf("\n%*s", (int)indent, "");
            at = indent, first = true;
        }
        putf("%s%.*s", first ? "" : " ", (int)n, text);
        at += n + !first, first = false, text += n;
        text += *text == ' ' || (*text == '\n' && text[1] != '\n');
    }
    putf("\n");
}

static void help_option(const command *c, const option *o) {
    char name[80], range[80], text[400];
    snprintf(name, sizeof name, o->letter ? "  -%c, " : "      ", o->letter);
    snprintf(name + 6, sizeof name - 6, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    option_range(c, o, range, sizeof range);
    snprintf(text, sizeof text, "%s%s%s%s", o->help, *range ? " (" : "", range, *range ? ")" : "");
    size_t n = strlen(name);
    if (n + 2 > COLUMN) putf("%s\n%*s", name, COLUMN, "");
    else putf("%-*s", COLUMN, name);
    wrap(text, COLUMN, COLUMN);
}

void help_command(const command *c) {
    bool whole = c == &program;
    putf("usage: sparkhawk%s%s%s%s%s\n\n", whole ? "" : " ", whole ? "" : c->name, c->options->name && !whole ? " [OPTION]..." : "",
         *c->operands ? " " : "", c->operands);
    wrap(c->description, 0, 0);
    putf("\n");
    for (size_t i = 0; whole && commands[i]; i++) putf("  %-*s%s\n", COLUMN - 2, commands[i]->name, commands[i]->summary);
    if (whole) putf("\n");
    const option *o;
    for (size_t i = 0; (o = command_option(c, i)); i++) help_option(c, o);
}

typedef struct help_args {
    bool manual;
    const char *shell;
} help_args;

#define AT(field) offsetof(help_args, field)

static const option help_options[] = {
    { "man", 0, OPT_FLAG, AT(manual), 0, 0, NULL, "print the manual page, in roff" },
    { "completion", 0, OPT_CHOICE, AT(shell), 0, 0, "bash|zsh|fish",
      "print what makes a shell complete sparkhawk's command lines" },
    { 0 }
};

static int help_run(const void *p, const strings *operands) {
    const help_args *a = p;
    if (a->manual) return help_manual(), EXIT_SUCCESS;
    if (a->shell) return help_completion(a->shell), EXIT_SUCCESS;
    if (!operands->n) return help_command(&program), EXIT_SUCCESS;
    const command *c = command_find(operands->items[0]);
    if (!c) return misuse(&program, "no subcommand is called '%s'", operands->items[0]);
    return help_command(c), EXIT_SUCCESS;
}

const command cmd_help = {
    .name = "help",
    .summary = "explain a subcommand",
    .operands = "[SUBCOMMAND]",
    .description = "Explains a subcommand and its options, or lists the subcommands.",
    .options = help_options,
    .defaults = &(const help_args){ 0 },
    .size = sizeof(help_args),
    .max_operands = 1,
    .operand_word = command_name,
    .run = help_run,
};
