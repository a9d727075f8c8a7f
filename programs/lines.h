/* Lines that a person types, with editing and history, or that a pipe brings. */
#ifndef PROGRAMS_LINES_H
#define PROGRAMS_LINES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct lines lines;

lines *lines_open(void); /* edits if standard input and output are terminals */
void lines_close(lines *l); /* saves the history */
bool lines_editing(const lines *l);

/* The next entry without its newline: a line, or several where each but the last ends with a backslash. Valid until the next
 * call. NULL at the end of the input. Ctrl-C drops what has been typed of an entry. */
const char *lines_next(lines *l);

#endif
