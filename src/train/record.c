#include "train/record.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "file/writer.h"

double shk_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char *joined(const char *dir, const char *name) {
    shk_buffer b = { 0 };
    shk_buffer_printf(&b, "%s/%s", dir, name);
    return b.data;
}

static bool add_point(shk_record *r, shk_point p) {
    if (r->n == r->room) {
        shk_point *grown = shk_realloc(r->points, r->room * 2 + 64, sizeof *grown);
        if (!grown) return false;
        r->points = grown, r->room = r->room * 2 + 64;
    }
    r->points[r->n++] = p;
    return true;
}

static double number(const json_t *line, const char *key) {
    const json_t *v = json_object_get(line, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* Keeps the whole lines up to the step, and their points. */
static shk_status keep_lines(shk_record *r, const char *path, uint64_t step, shk_error *err) {
    shk_map map;
    shk_buffer kept = { 0 };
    if (access(path, F_OK) != 0) return SHK_OK;
    shk_status st = shk_map_open(&map, path, err);
    if (st) return st;
    const char *at = (const char *)map.data, *end = at + map.size, *newline;
    for (; !st && at < end && (newline = memchr(at, '\n', (size_t)(end - at))); at = newline + 1) {
        json_t *line = json_loadb(at, (size_t)(newline - at), 0, NULL);
        shk_point p = { number(line, "step"), number(line, "loss"), number(line, "held_out") };
        json_decref(line);
        if (!(p.step <= (double)step)) continue;
        if (!add_point(r, p) || !shk_buffer_append(&kept, at, (size_t)(newline + 1 - at)))
            st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", path);
    }
    if (!st) st = shk_write_file(path, kept.data ? kept.data : "", kept.n, err);
    shk_buffer_free(&kept);
    shk_map_close(&map);
    return st;
}

shk_status shk_record_open(shk_record *r, const char *dir, uint64_t step, shk_error *err) {
    *r = (shk_record){ .dir = shk_strdup(dir), .file = -1 };
    char *path = joined(dir, "metrics.jsonl");
    shk_status st = r->dir && path ? keep_lines(r, path, step, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    if (!st && (r->file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) < 0) st = shk_fail_errno(err, "%s", path);
    free(path);
    return st;
}

/* ,"NAME":[0.081,null] unless there is no value at all */
static bool put_layers(shk_buffer *line, const char *name, const double *values, size_t n) {
    bool ok = true, any = false;
    for (size_t i = 0; i < n; i++) any |= !isnan(values[i]);
    if (!any) return true;
    for (size_t i = 0; ok && i < n; i++) {
        ok = i ? shk_buffer_printf(line, ",") : shk_buffer_printf(line, ",\"%s\":[", name);
        if (ok) ok = isnan(values[i]) ? shk_buffer_printf(line, "null") : shk_buffer_printf(line, "%.4g", values[i]);
    }
    return ok && shk_buffer_printf(line, "]");
}

shk_status shk_record_add(shk_record *r, const shk_train_progress *p, uint64_t tokens, const shk_activity *active, shk_error *err) {
    shk_buffer line = { 0 };
    bool ok = shk_buffer_printf(&line, "{\"step\":%llu,\"tokens\":%llu,\"loss\":%.7g,\"rate\":%.6g,\"norm\":%.6g",
                                (unsigned long long)p->step, (unsigned long long)tokens, p->loss, p->rate, p->norm) &&
              shk_buffer_printf(&line, ",\"tokens_per_s\":%.6g", p->tokens_per_s);
    if (ok && !isnan(active->share)) ok = shk_buffer_printf(&line, ",\"active\":%.4g", active->share);
    ok = ok && put_layers(&line, "active_layers", active->neurons, active->layers) &&
         put_layers(&line, "attended_layers", active->positions, active->layers);
    if (ok && !isnan(p->held_out)) ok = shk_buffer_printf(&line, ",\"held_out\":%.7g", p->held_out);
    ok = ok && shk_buffer_printf(&line, "}\n") && add_point(r, (shk_point){ (double)p->step, p->loss, p->held_out });
    shk_status st = ok ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", r->dir);
    if (!st && write(r->file, line.data, line.n) != (ssize_t)line.n) st = shk_fail_errno(err, "%s/metrics.jsonl", r->dir);
    shk_buffer_free(&line);
    return st;
}

static bool page(shk_buffer *b, const shk_train_progress *p, const shk_buffer *picture) {
    static const char style[] = "body{font:15px sans-serif;margin:2em auto;max-width:60em}td{padding:.1em 1.5em .1em 0}"
                                "svg{width:100%;height:auto}";
    unsigned long long step = p->step, steps = p->steps;
    return shk_buffer_printf(b, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">%s<title>%llu of %llu</title>\n",
                             step < steps ? "<meta http-equiv=\"refresh\" content=\"5\">" : "", step, steps) &&
           shk_buffer_printf(b, "<style>%s</style></head><body>\n<table><tr><td>step<td>%llu of %llu<tr><td>loss<td>%.4f", style,
                             step, steps, p->loss) &&
           (isnan(p->held_out) || shk_buffer_printf(b, "<tr><td>held out<td>%.4f", p->held_out)) &&
           shk_buffer_printf(b, "<tr><td>learning rate<td>%.3g<tr><td>gradient norm<td>%.3g<tr><td>tokens/s<td>%.0f", p->rate,
                             p->norm, p->tokens_per_s) &&
           shk_buffer_printf(b, "<tr><td>left<td>%.0f min</table>\n", p->remaining_s / 60) &&
           shk_buffer_append(b, picture->data, picture->n) &&
           shk_buffer_printf(b, "<p><a href=\"metrics.jsonl\">metrics.jsonl</a></body></html>\n");
}

shk_status shk_record_draw(shk_record *r, const shk_train_progress *p, double seconds, shk_error *err) {
    double now = shk_seconds();
    if (r->drawn > 0 && now - r->drawn < seconds) return SHK_OK;
    r->drawn = now;
    shk_train_progress last = *p; /* with the last held-out loss there is */
    for (size_t i = r->n; i-- > 0 && isnan(last.held_out);) last.held_out = r->points[i].held_out;
    shk_buffer picture = { 0 }, html = { 0 };
    char *svg = joined(r->dir, "loss.svg"), *index = joined(r->dir, "index.html");
    bool ok = svg && index && shk_picture(&picture, r->points, r->n, (double)p->steps) && page(&html, &last, &picture);
    shk_status st = ok ? shk_write_file(svg, picture.data, picture.n, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", r->dir);
    if (!st) st = shk_write_file(index, html.data, html.n, err);
    shk_buffer_free(&picture);
    shk_buffer_free(&html);
    free(svg), free(index);
    return st;
}

void shk_record_close(shk_record *r) {
    if (r->dir && r->file >= 0) close(r->file);
    free(r->points);
    free(r->dir);
    *r = (shk_record){ .file = -1 };
}
