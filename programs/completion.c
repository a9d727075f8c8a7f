/* Shell completion, from the same tables that parse the options. */
#include "options.h"
#include "program.h"

static bool takes_value(const option *o) { return o->kind != OPT_FLAG; }

/* "a b c" of a choice's words or an iterator's. */
static void put_choices(const char *choices) {
    size_t n;
    const char *word;
    for (size_t i = 0; (word = choice_word(choices, i, &n)); i++) putf("%s%.*s", i ? " " : "", (int)n, word);
}

static void put_operands(const command *c) {
    for (size_t i = 0; c->operand_word && c->operand_word(i); i++) putf("%s%s", i ? " " : "", c->operand_word(i));
}

/* ---- bash ---- */

static void bash_patterns(const option *o) {
    if (o->letter) putf("-%c|", o->letter);
    putf("--%s)", o->name);
}

static void bash_command(const command *c) {
    const option *o;
    putf("    %s)\n        case $previous in\n", c->name);
    for (size_t i = 0; (o = command_option(c, i)); i++) {
        if (!takes_value(o)) continue;
        putf("            ");
        bash_patterns(o);
        if (o->kind == OPT_PATH) putf(" compopt -o filenames; COMPREPLY=($(compgen -f -- \"$word\"));");
        if (o->kind == OPT_CHOICE) putf(" COMPREPLY=($(compgen -W '"), put_choices(o->value), putf("' -- \"$word\"));");
        putf(" return ;;\n");
    }
    putf("        esac\n        options='");
    for (size_t i = 0; (o = command_option(c, i)); i++) {
        putf("%s--%s", i ? " " : "", o->name);
        if (o->letter) putf(" -%c", o->letter);
    }
    putf("'\n        operands='");
    put_operands(c);
    putf("'\n        files=%s\n        ;;\n", c->operand_files ? "yes" : "");
}

static void bash(void) {
    putf("_sparkhawk() {\n"
         "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} options= operands= files=\n"
         "    local IFS=$' \\t\\n'\n"
         "    COMPREPLY=()\n"
         "    if ((COMP_CWORD == 1)); then\n"
         "        COMPREPLY=($(compgen -W '");
    put_operands(&program);
    const option *o;
    for (size_t i = 0; (o = command_option(&program, i)); i++) putf(" --%s", o->name);
    putf("' -- \"$word\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; commands[i]; i++) bash_command(commands[i]);
    putf("    esac\n"
         "    if [[ $word == -* ]]; then\n"
         "        COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
         "        return\n"
         "    fi\n"
         "    COMPREPLY=($(compgen -W \"$operands\" -- \"$word\"))\n"
         "    if [[ $files ]]; then\n"
         "        compopt -o filenames\n"
         "        COMPREPLY+=($(compgen -f -- \"$word\"))\n"
         "    fi\n"
         "}\n"
         "complete -F _sparkhawk sparkhawk\n");
}

/* ---- zsh ---- */

/* Inside '...' and, for _arguments, with colons and brackets escaped. */
static void zsh_text(const char *s) {
    for (; *s; s++) {
        if (*s == '\'') putf("'\\''");
        else if (strchr(":[]\\", *s)) putf("\\%c", *s);
        else putf("%c", *s);
    }
}

static void zsh_option(const option *o) {
    const char *repeat = o->kind == OPT_LIST ? "*" : "";
    for (int shape = o->letter ? 0 : 1; shape < 2; shape++) {
        if (shape == 0) putf(" \\\n                '%s-%c[", repeat, o->letter);
        else putf(" \\\n                '%s--%s%s[", repeat, o->name, takes_value(o) ? "=" : "");
        zsh_text(o->help);
        putf("]");
        if (takes_value(o)) {
            putf(":");
            zsh_text(o->kind == OPT_CHOICE ? o->name : o->value);
            putf(":");
            if (o->kind == OPT_PATH) putf("_files");
            if (o->kind == OPT_CHOICE) putf("("), put_choices(o->value), putf(")");
        }
        putf("'");
    }
}

static void zsh(void) {
    putf("#compdef sparkhawk\n\n_sparkhawk() {\n    local -a subcommands\n    subcommands=(\n");
    for (size_t i = 0; commands[i]; i++) {
        putf("        '%s:", commands[i]->name);
        zsh_text(commands[i]->summary);
        putf("'\n");
    }
    putf("    )\n    if ((CURRENT == 2)); then\n        _describe subcommand subcommands\n        _arguments");
    const option *o;
    for (size_t i = 0; (o = command_option(&program, i)); i++) zsh_option(o);
    putf("\n        return\n    fi\n    local subcommand=$words[2]\n    shift words\n    ((CURRENT--))\n    case $subcommand in\n");
    for (size_t i = 0; commands[i]; i++) {
        const command *c = commands[i];
        putf("        %s)\n            _arguments -s", c->name);
        for (size_t j = 0; (o = command_option(c, j)); j++) zsh_option(o);
        if (c->operand_word || c->operand_files) putf(" \\\n                '*:operand:{");
        if (c->operand_word) putf("compadd -- "), put_operands(c), putf("%s", c->operand_files ? "; " : "");
        if (c->operand_word || c->operand_files) putf("%s}'", c->operand_files ? "_files" : "");
        putf("\n            ;;\n");
    }
    putf("    esac\n}\n\n_sparkhawk \"$@\"\n");
}

/* ---- fish ---- */

static void fish_text(const char *s) {
    putf("'");
    for (; *s; s++) putf(*s == '\'' || *s == '\\' ? "\\%c" : "%c", *s);
    putf("'");
}

static void fish_option(const char *condition, const char *name, const option *o) {
    putf("complete -c sparkhawk -n '%s%s%s' -l %s", condition, *name ? " " : "", name, o->name);
    if (o->letter) putf(" -s %c", o->letter);
    if (o->kind == OPT_PATH) putf(" -r -F");
    else if (o->kind == OPT_CHOICE) putf(" -x -a '"), put_choices(o->value), putf("'");
    else if (takes_value(o)) putf(" -x");
    putf(" -d ");
    fish_text(o->help);
    putf("\n");
}

static void fish(void) {
    const option *o;
    putf("complete -c sparkhawk -f\n");
    for (size_t i = 0; (o = command_option(&program, i)); i++) fish_option("__fish_use_subcommand", "", o);
    for (size_t i = 0; commands[i]; i++) {
        const command *c = commands[i];
        putf("complete -c sparkhawk -n __fish_use_subcommand -a %s -d ", c->name);
        fish_text(c->summary);
        putf("\n");
        for (size_t j = 0; (o = command_option(c, j)); j++) fish_option("__fish_seen_subcommand_from", c->name, o);
        if (c->operand_word)
            putf("complete -c sparkhawk -n '__fish_seen_subcommand_from %s' -a '", c->name), put_operands(c), putf("'\n");
        if (c->operand_files) putf("complete -c sparkhawk -n '__fish_seen_subcommand_from %s' -F\n", c->name);
    }
}

void help_completion(const char *shell) {
    static const struct {
        const char *name;
        void (*print)(void);
    } shells[] = { { "bash", bash }, { "zsh", zsh }, { "fish", fish } };
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (!strcmp(shell, shells[i].name)) shells[i].print();
}
