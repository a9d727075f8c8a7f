/* sparkhawk train: from token shards to a model. */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "options.h"
#include "program.h"
#include "sparkhawk_train.h"

typedef struct train_args {
    strings set;
    bool quiet;
} train_args;

#define AT(field) offsetof(train_args, field)

static const option train_options[] = {
    { "set", 0, OPT_LIST, AT(set), 0, 0, "KEY=VALUE", "over what the file says" },
    { "quiet", 'q', OPT_FLAG, AT(quiet), 0, 0, NULL, "no progress on standard error" },
    { 0 }
};

/* On a terminal one line that changes; else a line now and then. */
typedef struct display {
    bool quiet, terminal;
    bool stopped; /* before the last step; rank 0 alone says so */
    time_t shown;
} display;

static int on_step(void *user, const shk_train_progress *p) {
    display *d = user;
    time_t now = time(NULL), interval = d->terminal ? 1 : 10;
    bool last = p->step == p->steps || interrupted;
    d->stopped = p->rank == 0 && p->step < p->steps;
    if (!d->quiet && p->rank == 0 && (last || p->saved || !isnan(p->held_out) || now - d->shown >= interval)) {
        char held_out[32] = "";
        long long left = (long long)p->remaining_s;
        d->shown = now;
        if (!isnan(p->held_out)) snprintf(held_out, sizeof held_out, "  held out %.4f", p->held_out);
        fprintf(stderr, "%sstep %llu/%llu  loss %.4f%s  rate %.2e  norm %.2f  %.0f tokens/s  %lld:%02lld:%02lld left%s%s",
                d->terminal ? "\r\033[K" : "", (unsigned long long)p->step, (unsigned long long)p->steps, p->loss, held_out,
                p->rate, p->norm, p->tokens_per_s, left / 3600, left / 60 % 60, left % 60, p->saved ? "  -> " : "",
                p->saved ? p->saved : "");
        if (!d->terminal || last || p->saved || held_out[0]) fputc('\n', stderr);
    }
    return interrupted;
}

static void on_terminate(int signal) {
    (void)signal;
    interrupted = 1;
}

static int train_run(const void *p, const strings *operands) {
    const train_args *a = p;
    display d = { .quiet = a->quiet, .terminal = isatty(STDERR_FILENO) };
    struct sigaction terminate = { .sa_handler = on_terminate };
    shk_error err;
    catch_interrupts(true);
    sigaction(SIGTERM, &terminate, NULL);
    /* Of several processes one says what failed, and its status is that of all: the launcher, when it sees a failure, ends the
     * others, who may not have said it yet. */
    if (shk_train(operands->items[0], a->set.items, a->set.n, on_step, &d, &err))
        return *err.message ? fail("%s", err.message) : EXIT_SUCCESS;
    return d.stopped ? EXIT_INTERRUPTED : EXIT_SUCCESS;
}

const command cmd_train = {
    .name = "train",
    .summary = "train a model on token shards",
    .operands = "CONFIG.json",
    .description = "Trains as the file says: docs/TRAINING.md lists its keys. In the output directory are checkpoints (each a "
                   "model that run takes), metrics.jsonl, loss.svg and index.html, a page that follows the run. If there is a "
                   "checkpoint already, training goes on from it.\n\n"
                   "SIGTERM and the first Ctrl-C save a checkpoint and end with status 130.",
    .options = train_options,
    .defaults = &(const train_args){ .quiet = false },
    .size = sizeof(train_args),
    .min_operands = 1,
    .max_operands = 1,
    .operand_files = true,
    .run = train_run,
};
