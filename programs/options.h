/* Subcommands and their options as tables: parsing, range checks, --help, the manual page and completion are all read from them. */
#ifndef PROGRAMS_OPTIONS_H
#define PROGRAMS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum option_kind {
    OPT_FLAG,   /* bool */
    OPT_INT,    /* int64_t, min to max */
    OPT_REAL,   /* double, min to max */
    OPT_SIZE,   /* int64_t, bytes: a whole number, or one with k, M or G behind it (thousands) */
    OPT_TEXT,   /* const char *, which points into argv, as the next ones do */
    OPT_PATH,   /* const char *, completed as a file name */
    OPT_CHOICE, /* const char *, one of the words that `value` lists */
    OPT_LIST    /* strings: the option may be repeated */
} option_kind;

typedef struct strings {
    const char **items; /* [n] */
    size_t n;
} strings;

typedef struct option {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* short name, 0 for none */
    option_kind kind;
    size_t at; /* offset of the field in the subcommand's arguments */
    double min, max;
    const char *value; /* what help calls the value; "f32|bf16|..." for a choice */
    const char *help;
} option;

typedef struct command {
    const char *name;
    const char *summary;     /* a few words */
    const char *operands;    /* as the usage line shows them; "" for none */
    const char *description; /* paragraphs, separated by \n\n */
    const option *options;
    const void *defaults; /* [size]: what the arguments are before parsing */
    size_t size;
    size_t min_operands, max_operands;
    const char *(*operand_word)(size_t i); /* words that completion offers as operands, NULL past the last; may be NULL */
    bool operand_files;                    /* completion offers file names */
    int (*run)(const void *args, const strings *operands); /* the exit status */
} command;

/* `sparkhawk` itself is the table of the options that come before a subcommand. */
extern const command program;
extern const command *const commands[]; /* ends with NULL */
extern const command cmd_run, cmd_chat, cmd_bench, cmd_info, cmd_tokenize, cmd_convert, cmd_init, cmd_train, cmd_debug,
    cmd_serve, cmd_help;
const command *command_find(const char *name); /* NULL if there is none */
const char *command_name(size_t i);            /* NULL past the last */

typedef enum parse_result { PARSE_RUN, PARSE_HELP, PARSE_WRONG } parse_result;

/* Reads argv[0..argc) by the table into args, which holds c's defaults, and collects the operands. PARSE_HELP: --help was
 * there. PARSE_WRONG: said so on stderr. Lists and operands are released by options_free in every case. */
parse_result options_parse(const command *c, int argc, char **argv, void *args, strings *operands);
void options_free(const command *c, void *args, strings *operands);

/* "sparkhawk: message; see 'sparkhawk help NAME'" on stderr, one line. Returns EXIT_USAGE. c: whose help to name. */
int misuse(const command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whole-string numbers in decimal: no spaces, no suffix. false: not one, or it does not fit. A real is finite. */
bool parse_int(const char *s, int64_t *out);
bool parse_real(const char *s, double *out);

/* The word that a mistyped `s` was probably meant to be; NULL if none is close. */
const char *closest(const char *s, const char *const *words, size_t n);

/* The i-th word of "a|b|c": where it starts, and its length in *n; NULL past the last. */
const char *choice_word(const char *choices, size_t i, size_t *n);

/* Help in its three forms, to standard output. */
void help_command(const command *c);
void help_manual(void);
void help_completion(const char *shell); /* bash, zsh or fish */

/* Option i of a command in the order in which help shows them, --help last; NULL past it. */
const option *command_option(const command *c, size_t i);

/* "0 to 1, default 0.9" for an option that has a range or a default, into buf; returns buf, "" if there is nothing to say. */
const char *option_range(const command *c, const option *o, char *buf, size_t size);

#endif
