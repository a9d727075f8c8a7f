/* The loss over the steps as an SVG document. */
#include <math.h>

#include "train/record.h"

enum { WIDTH = 800, HEIGHT = 400, LEFT = 60, BOTTOM = 40, TOP = 15, RIGHT = 15, BINS = 400 };

typedef struct frame {
    double x0, x1, y0, y1; /* steps, losses */
} frame;

static double across(const frame *f, double step) { return LEFT + (WIDTH - LEFT - RIGHT) * (step - f->x0) / (f->x1 - f->x0); }
static double down(const frame *f, double loss) { return TOP + (HEIGHT - TOP - BOTTOM) * (f->y1 - loss) / (f->y1 - f->y0); }

/* 1, 2 or 5 times a power of ten, so that about five of them span the range */
static double spacing(double range) {
    double unit = pow(10, floor(log10(range / 5))), n = range / 5 / unit;
    return unit * (n < 1.5 ? 1 : n < 3.5 ? 2 : n < 7.5 ? 5 : 10);
}

/* The first tenth of a run falls from the loss of random weights: the range leaves out what is above all of the rest, if the rest
 * is long enough to be looked at. */
static frame frame_of(const shk_point *p, size_t n, double steps) {
    frame f = { 0, fmax(steps, 1), INFINITY, -INFINITY };
    size_t from = n >= 100 ? n / 10 : 0;
    for (size_t i = 0; i < n; i++) {
        double low = fmin(p[i].loss, isnan(p[i].held_out) ? INFINITY : p[i].held_out);
        f.y0 = fmin(f.y0, low);
        if (i >= from) f.y1 = fmax(f.y1, p[i].loss);
    }
    if (!(f.y1 > f.y0)) f.y0 = isfinite(f.y0) ? f.y0 - 1 : 0, f.y1 = f.y0 + 2;
    double margin = 0.05 * (f.y1 - f.y0);
    f.y0 -= margin, f.y1 += margin;
    return f;
}

static bool axes(shk_buffer *b, const frame *f) {
    bool ok = true;
    double dx = spacing(f->x1 - f->x0), dy = spacing(f->y1 - f->y0);
    for (double y = ceil(f->y0 / dy) * dy; ok && y <= f->y1; y += dy)
        ok = shk_buffer_printf(b, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>", LEFT, down(f, y), WIDTH - RIGHT) &&
             shk_buffer_printf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 6, down(f, y) + 4,
                               fabs(y) < dy / 2 ? 0 : y);
    for (double x = f->x0; ok && x <= f->x1; x += dx)
        ok = shk_buffer_printf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.9g</text>\n", across(f, x),
                               HEIGHT - BOTTOM + 18, x);
    return ok;
}

/* Means over equal stretches of steps. */
static bool curve(shk_buffer *b, const frame *f, const shk_point *p, size_t n) {
    double sum[BINS] = { 0 }, at[BINS] = { 0 };
    size_t count[BINS] = { 0 };
    for (size_t i = 0; i < n; i++) {
        double place = (p[i].step - f->x0) / (f->x1 - f->x0) * BINS;
        size_t k = place >= BINS ? BINS - 1 : place > 0 ? (size_t)place : 0;
        sum[k] += p[i].loss, at[k] += p[i].step, count[k]++;
    }
    bool ok = shk_buffer_printf(b, "<polyline fill=\"none\" stroke=\"#36c\" stroke-width=\"1.5\" points=\"");
    for (size_t k = 0; ok && k < BINS; k++)
        if (count[k]) {
            double loss = fmin(sum[k] / (double)count[k], f->y1);
            ok = shk_buffer_printf(b, "%.1f,%.1f ", across(f, at[k] / (double)count[k]), down(f, loss));
        }
    return ok && shk_buffer_printf(b, "\"/>\n");
}

bool shk_picture(shk_buffer *b, const shk_point *p, size_t n, double steps) {
    frame f = frame_of(p, n, steps);
    bool ok = shk_buffer_printf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
                                   "font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
                                WIDTH, HEIGHT, WIDTH, HEIGHT) &&
              axes(b, &f) && curve(b, &f, p, n);
    for (size_t i = 0; ok && i < n; i++)
        if (!isnan(p[i].held_out))
            ok = shk_buffer_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"#c33\"/>\n", across(&f, p[i].step),
                                   down(&f, fmin(p[i].held_out, f.y1)));
    return ok && shk_buffer_printf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#36c\">training loss</text>"
                                      "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#c33\">held-out loss</text>"
                                      "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">step</text>\n</svg>\n",
                                   WIDTH - RIGHT - 5, TOP + 15, WIDTH - RIGHT - 5, TOP + 32, WIDTH - RIGHT, HEIGHT - 6);
}
