/* The manual page, in the man macros that every roff knows. docs/sparkhawk.1 is this program's output. */
#include "options.h"
#include "program.h"

/* Text with roff's own characters escaped; a blank line becomes a paragraph. `bold` words and the like are the caller's. */
static void text(const char *s) {
    bool start = true;
    for (; *s; s++) {
        if (s[0] == '\n' && s[1] == '\n') {
            putf("\n.PP\n");
            start = true, s++;
            continue;
        }
        if (start && (*s == '.' || *s == '\'')) putf("\\&");
        switch (*s) {
        case '\\': putf("\\e"); break;
        case '-': putf("\\-"); break;
        case '\'': putf("\\(aq"); break;
        case '"': putf("\\(dq"); break;
        case '^': putf("\\(ha"); break;
        case '~': putf("\\(ti"); break;
        case '`': putf("\\(ga"); break;
        default: putf("%c", *s);
        }
        start = *s == '\n';
    }
}

static void manual_option(const command *c, const option *o) {
    char range[80];
    putf(".TP\n");
    if (o->letter) putf("\\fB\\-%c\\fR, ", o->letter);
    putf("\\fB\\-\\-"), text(o->name), putf("\\fR");
    if (o->value) putf(" \\fI"), text(o->value), putf("\\fR");
    putf("\n"), text(o->help);
    if (*option_range(c, o, range, sizeof range)) putf(" ("), text(range), putf(")");
    putf(".\n");
}

static void manual_command(const command *c) {
    const option *o;
    bool whole = c == &program;
    if (!whole) {
        putf(".SS "), text(c->name), putf("\n.B sparkhawk "), text(c->name), putf("\n[\\fIOPTION\\fR]...");
        if (*c->operands) putf(" \\fI"), text(c->operands), putf("\\fR");
        putf("\n.PP\n");
    }
    text(c->description), putf("\n");
    for (size_t i = 0; (o = command_option(c, i)); i++)
        if (whole || command_option(c, i + 1)) manual_option(c, o); /* --help stands last, and once is enough */
}

typedef struct entry {
    const char *item, *text;
} entry;

static const entry exit_status[] = {
    { "0", "Success." },
    { "1", "Something failed: one line on standard error names the file and the cause, unless standard output is a closed pipe." },
    { "2", "The command line is wrong: one line on standard error names the option." },
    { "130", "Interrupted; what was generated until then has been printed." },
    { 0 }
};

static const entry environment[] = {
    { "SPARKHAWK_MODEL", "The model where --model is missing." },
    { "SPARKHAWK_API_KEY", "The key that clients of serve must know, where neither --api-key nor --api-key-file gives one." },
    { "SHK_CPU", "Caps the instruction sets that are used, as --version names them; \"ref\" is portable C." },
    { "XDG_CACHE_HOME, XDG_STATE_HOME, HOME", "Where the files below are." },
    { 0 }
};

static const entry files[] = {
    { "~/.cache/sparkhawk/gemma3-270m-q4_k_m.gguf", "The model where neither --model nor SPARKHAWK_MODEL names one." },
    { "~/.local/state/sparkhawk/history", "The lines that were entered in a chat." },
    { 0 }
};

static const entry examples[] = {
    { "sparkhawk run -m gemma.gguf -p \"The sea is\" -n 40", "Continues a text." },
    { "sparkhawk run -m gemma.gguf --chat -f question.txt --temp 1 --top-p 0.95", "Answers a question, with some variety." },
    { "sparkhawk run -m gemma.gguf -f book.txt -n 0 --state-save book.state", "Reads a long text once, for later --state-load." },
    { "sparkhawk convert -m recurrentgemma-2b/ -o recurrentgemma-2b.gguf --type q8_0", "Makes one file of a directory." },
    { "source <(sparkhawk help --completion bash)", "Completes command lines in this shell." },
    { 0 }
};

static void section(const char *title, const entry *entries) {
    putf(".SH %s\n", title);
    for (; entries->item; entries++) {
        putf(".TP\n.B \""), text(entries->item), putf("\"\n");
        text(entries->text), putf("\n");
    }
}

void help_manual(void) {
    putf(".\\\" Made by sparkhawk help --man.\n.TH SPARKHAWK 1 \"\" \"sparkhawk %s\" \"User Commands\"\n", shk_version());
    putf(".SH NAME\nsparkhawk \\- "), text(program.summary);
    putf("\n.SH SYNOPSIS\n.B sparkhawk\n\\fISUBCOMMAND\\fR [\\fIOPTION\\fR]... [\\fIOPERAND\\fR]...\n.SH DESCRIPTION\n");
    manual_command(&program);
    putf(".PP\nA long option's value may also follow an equals sign. \\-\\- ends the options.\n.SH SUBCOMMANDS\n");
    for (size_t i = 0; commands[i]; i++) manual_command(commands[i]);
    section("EXIT STATUS", exit_status);
    section("ENVIRONMENT", environment);
    section("FILES", files);
    section("EXAMPLES", examples);
}
