#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

struct lines {
    EditLine *editor; /* NULL: the input is not a terminal */
    History *history;
    char *history_path; /* NULL: there is no place for it */
    char *entry, *piped;
    size_t n, capacity, n_piped;
    bool continued; /* the last line ended with a backslash */
    bool cancelled; /* by Ctrl-C */
};

static lines *of(EditLine *editor) {
    lines *l;
    el_get(editor, EL_CLIENTDATA, &l);
    return l;
}

static char *prompt(EditLine *editor) { return of(editor)->continued ? "... " : "> "; }

static unsigned char cancel(EditLine *editor, int c) {
    (void)c;
    of(editor)->cancelled = true;
    return CC_NEWLINE;
}

static unsigned char suspend(EditLine *editor, int c) {
    (void)editor, (void)c;
    kill(0, SIGTSTP);
    return CC_REDISPLAY;
}

/* ~/.local/state/sparkhawk/history, its directories made. NULL without a home. */
static char *history_path(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    bool set = state && *state;
    if (!set && (!home || !*home)) return NULL;
    char *path = formatted("%s%s/sparkhawk/history", set ? state : home, set ? "" : "/.local/state");
    for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        mkdir(path, 0700); /* what matters is whether the file can be opened */
        *slash = '/';
    }
    return path;
}

static void open_editor(lines *l) {
    HistEvent event;
    /* in the C locale the editor would drop every byte above 127 */
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    l->editor = needed(el_init("sparkhawk", stdin, stdout, stderr));
    l->history = needed(history_init());
    history(l->history, &event, H_SETSIZE, 1000);
    history(l->history, &event, H_SETUNIQUE, 1);
    if ((l->history_path = history_path())) history(l->history, &event, H_LOAD, l->history_path);
    el_set(l->editor, EL_CLIENTDATA, l);
    el_set(l->editor, EL_EDITOR, "emacs");
    el_set(l->editor, EL_PROMPT, prompt);
    el_set(l->editor, EL_HIST, history, l->history);
    el_set(l->editor, EL_SIGNAL, 1);
    /* a signal would leave the line as it is, so while one is edited Ctrl-C is a key; then so is Ctrl-Z. (The narrow form of
     * EL_ADDFN leaks.) */
    el_set(l->editor, EL_SETTY, "-d", "-isig", NULL);
    /* while none is, Ctrl-D must wait for the next line as other keys do; as a mark of the end it would be lost */
    el_set(l->editor, EL_SETTY, "-x", "eof=", NULL);
    el_wset(l->editor, EL_ADDFN, L"cancel", L"drop what has been typed", cancel);
    el_wset(l->editor, EL_ADDFN, L"suspend", L"stop the program", suspend);
    el_set(l->editor, EL_BIND, "^C", "cancel", NULL);
    el_set(l->editor, EL_BIND, "^Z", "suspend", NULL);
}

lines *lines_open(void) {
    lines *l = need(NULL, 1, sizeof *l);
    *l = (lines){ 0 };
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) open_editor(l);
    return l;
}

/* Under another name first: a program that is ended meanwhile leaves the history as it was. */
static void save_history(const lines *l) {
    HistEvent event;
    char *path = formatted("%s.new", l->history_path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* so that it is never anybody else's to read */
    if (fd >= 0) close(fd);
    if (fd >= 0 && history(l->history, &event, H_SAVE, path) >= 0) rename(path, l->history_path);
    free(path);
}

void lines_close(lines *l) {
    if (l->history) history_end(l->history);
    if (l->editor) el_end(l->editor);
    free(l->history_path);
    free(l->entry);
    free(l->piped);
    free(l);
}

bool lines_editing(const lines *l) { return l->editor != NULL; }

/* One line with its newline; NULL at the end. */
static const char *next_line(lines *l, size_t *n) {
    if (!l->editor) {
        ssize_t got = getline(&l->piped, &l->n_piped, stdin);
        *n = got > 0 ? strlen(l->piped) : 0; /* a zero byte ends the line early */
        return got > 0 ? l->piped : NULL;
    }
    int count = 0;
    const char *line = el_gets(l->editor, &count);
    *n = count > 0 ? strlen(line) : 0;
    if (l->cancelled || count <= 0) putf("\n"), put_flush(); /* the cursor still stands behind the prompt */
    return l->cancelled ? "" : count > 0 ? line : NULL;
}

/* Adds a line of n bytes to the entry. */
static void append(lines *l, const char *line, size_t n) {
    HistEvent event;
    if (l->editor && n > 1) {
        history(l->history, &event, H_ENTER, line);
        if (l->history_path) save_history(l); /* now: who closes the terminal leaves no time for it */
    }
    if (n && line[n - 1] == '\n') n--;
    if (l->n + n + 1 > l->capacity) l->entry = need(l->entry, l->capacity = 2 * (l->n + n + 1), 1);
    memcpy(l->entry + l->n, line, n);
    l->n += n;
    l->entry[l->n] = 0;
    if ((l->continued = n && line[n - 1] == '\\')) l->entry[l->n - 1] = '\n';
}

const char *lines_next(lines *l) {
    const char *line;
    size_t n;
    l->n = 0;
    l->continued = false;
    while ((line = next_line(l, &n))) {
        if (!l->cancelled) {
            append(l, line, n);
            if (!l->continued) return l->entry;
        } else {
            l->n = 0;
            l->cancelled = l->continued = false;
        }
    }
    return l->n ? l->entry : NULL;
}
