/* What every subcommand uses: messages, output, interruption, memory. */
#ifndef PROGRAMS_PROGRAM_H
#define PROGRAMS_PROGRAM_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparkhawk.h"

enum { EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* "sparkhawk: message" on stderr: one line, control characters as '?'. Returns EXIT_FAILURE. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* realloc for n elements of size bytes; ends the program where there is no memory. p may be NULL. */
void *need(void *p, size_t n, size_t size);
/* p, unless it is NULL: then it ends the program for lack of memory. */
void *needed(void *p);

/* sprintf into malloc'd memory. */
char *formatted(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- standard output. An error sticks; after one nothing more is written. ---- */

bool put(const void *data, size_t n); /* false after an error, as the next ones */
bool putf(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool put_flush(void);
/* Text of a model: on a terminal, control characters other than newline and tab are not sent. Flushed. */
bool put_text(const char *text, size_t n);
/* Flushes; the exit status: `status`, or EXIT_FAILURE if something could not be written. A closed pipe is not worth a message. */
int put_status(int status);

/* ---- a file that is written: "-" is standard output, anything else appears whole or not at all, except a device or pipe ---- */

typedef struct sink sink;
sink *sink_open(const char *path); /* NULL: said so */
bool sink_put(sink *s, const void *data, size_t n); /* false after an error */
int sink_close(sink *s, int status); /* commits if status is 0, else abandons; the exit status; frees s */

/* ---- input ---- */

/* All bytes of a file, "-" for standard input; malloc'd and terminated by a zero that *n does not count. NULL: said so. */
char *read_all(const char *path, size_t *n);

/* Token ids separated by spaces, commas or newlines; *ids malloc'd, also when there are none. false: said so, with `name` in it. */
bool parse_ids(const char *text, const char *name, int32_t **ids, size_t *n);

/* ---- Ctrl-C ---- */

extern volatile sig_atomic_t interrupted;
/* From now on SIGINT sets `interrupted`: every time, or, if `once`, the first time, and the second one kills; then it also stays
 * ignored if it is, as for a script's background job. */
void catch_interrupts(bool once);

#endif
