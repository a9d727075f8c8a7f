#!/usr/bin/env python3
"""Runs of `sparkhawk train` beside each other: a picture and a table.

    tools/compare_runs.py RUN... [-o docs/training.svg]
    tools/compare_runs.py --apart RUN RUN...

RUN is a run's directory (the `out` of its settings), or NAME=DIRECTORY. The picture has the losses over the tokens (lines:
training, smoothed; points: held out) and, for each run that has sparse layers, a panel with each layer's share of active neurons
or the positions that its heads attend to.

With --apart the runs are to be the same but for rounding, and are not drawn: the table has the absolute differences of each run's
losses from those of the first run at the same steps. If the first line is step 1 no update has been made yet, and what is apart
there is sums alone; later steps multiply it. Needs nothing but Python."""
import argparse
import json
import math
import os

COLOURS = ["#d1495b", "#00798c", "#edae49", "#30638e", "#7b5ea7", "#5b8c5a", "#a05a2c", "#444444"]
WIDTH, LEFT, RIGHT, TOP, BOTTOM, GAP = 760, 60, 150, 26, 40, 24
TALL, LOW = 330, 150  # heights of the panels
BINS = 200


def read(argument):
    """(name, lines) of a run."""
    name, _, path = argument.rpartition("=")
    path = path.rstrip("/")
    with open(os.path.join(path, "metrics.jsonl"), encoding="utf-8") as f:
        lines = [json.loads(line) for line in f if line.endswith("\n")]
    if not lines:
        raise SystemExit(f"{path}/metrics.jsonl: no lines")
    return name or os.path.basename(path), lines


def smooth(points):
    """Means over BINS equal stretches of x."""
    last = max(x for x, _ in points)
    bins = {}
    for x, y in points:
        bins.setdefault(min(int(x / last * BINS), BINS - 1), []).append((x, y))
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for _, b in sorted(bins.items())]


def ticks(low, high, about):
    """Round numbers within a range."""
    unit = 10 ** math.floor(math.log10((high - low) / about))
    step = next(unit * f for f in (1, 2, 5, 10) if (high - low) / (unit * f) <= about)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def short(tokens):
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.4g}{name}"
    return f"{tokens:g}"


class Panel:
    """Axes at a height of the picture, and what is drawn on them."""

    def __init__(self, svg, top, height, x_range, y_range, title):
        self.svg, self.top, self.height, self.x_range, self.y_range = svg, top, height, x_range, y_range
        for y in ticks(*y_range, 6):
            svg.append(f'<line x1="{LEFT}" y1="{self.y(y):.1f}" x2="{WIDTH - RIGHT}" y2="{self.y(y):.1f}" stroke="#ddd"/>'
                       f'<text x="{LEFT - 8}" y="{self.y(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
        for x in ticks(*x_range, 6):
            svg.append(f'<text x="{self.x(x):.1f}" y="{top + height + 16}" text-anchor="middle">{short(x)}</text>')
        svg.append(f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}</text>')

    def x(self, value):
        return LEFT + (value - self.x_range[0]) / (self.x_range[1] - self.x_range[0]) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        value = min(max(value, self.y_range[0]), self.y_range[1])
        return self.top + (self.y_range[1] - value) / (self.y_range[1] - self.y_range[0]) * self.height

    def line(self, points, colour, width):
        where = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.svg.append(f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{where}"/>')

    def dots(self, points, colour):
        self.svg += [f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in points]

    def label(self, row, text, colour):
        self.svg.append(f'<text x="{WIDTH - RIGHT + 10}" y="{self.top + 12 + 15 * row}" fill="{colour}">{escape(text)}</text>')


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def margin(low, high):
    room = 0.05 * (high - low) or 1
    return low - room, high + room


def loss_range(runs):
    """All held-out losses, and the training losses but for a run's first tenth, which falls from those of random weights."""
    values = []
    for _, lines in runs:
        values += [p["loss"] for p in lines[len(lines) // 10:]] + [p["held_out"] for p in lines if "held_out" in p][1:]
    return margin(min(values), max(values))


def layers_of(lines, key):
    """{layer: [(tokens, value)]} of a list that has null where a layer is not of the kind."""
    curves = {}
    for p in lines:
        for layer, value in enumerate(p.get(key, [])):
            if value is not None:
                curves.setdefault(layer, []).append((p["tokens"], value))
    return curves


def shade(i, n):
    """From the first layer to the last, from blue to red."""
    t = i / max(n - 1, 1)
    return "#{:02x}{:02x}{:02x}".format(round(40 + 180 * t), round(90 - 30 * t), round(190 - 130 * t))


def draw(runs):
    detail = [(name, what, layers_of(lines, key)) for name, lines in runs
              for key, what in (("active_layers", "share of active neurons"), ("attended_layers", "positions attended to"))]
    detail = [d for d in detail if d[2]]
    height = TOP + TALL + BOTTOM + len(detail) * (LOW + BOTTOM + GAP)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    tokens = (0, max(lines[-1]["tokens"] for _, lines in runs))
    panel = Panel(svg, TOP, TALL, tokens, loss_range(runs), "loss over tokens: training (line), held out (points)")
    for i, (name, lines) in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        panel.line(smooth([(p["tokens"], p["loss"]) for p in lines]), colour, 1.2)
        panel.dots([(p["tokens"], p["held_out"]) for p in lines if "held_out" in p], colour)
        panel.label(i, name, colour)
    for i, (name, what, curves) in enumerate(detail):
        values = [v for c in curves.values() for _, v in c]
        top = TOP + TALL + BOTTOM + GAP + i * (LOW + BOTTOM + GAP)
        panel = Panel(svg, top, LOW, tokens, margin(0, max(values)), f"{escape(name)}: {what}, by layer")
        for k, (layer, points) in enumerate(sorted(curves.items())):
            panel.line(smooth(points), shade(k, len(curves)), 1.2)
            if k in (0, len(curves) - 1):
                panel.label(k > 0, f"layer {layer}", shade(k, len(curves)))
    return svg + ["</svg>"]


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))))


def apart(runs):
    """The table of --apart. Norms of gradients are compared in the first line, relative to the first run's."""
    rows = [("run", "steps", "loss", "held out", "apart: first", "norm, first", "most to step 10", "most", "mean", "most held out")]
    first = runs[0][1]
    for name, lines in runs:
        if [(p["step"], p["tokens"]) for p in lines] != [(p["step"], p["tokens"]) for p in first]:
            raise SystemExit(f"{name}: other steps than {runs[0][0]}'s")
        off = {key: [(p["step"], abs(p[key] - q[key])) for p, q in zip(first, lines) if key in p and key in q]
               for key in ("loss", "norm", "held_out")}
        losses, held_out = off["loss"], [p["held_out"] for p in lines if "held_out" in p]
        figures = [losses[0][1], off["norm"][0][1] / first[0]["norm"], max(d for step, d in losses[:1] + losses if step <= 10),
                   max(d for _, d in losses), sum(d for _, d in losses) / len(losses)]
        figures += [max(d for _, d in off["held_out"])] if off["held_out"] else []
        rows.append((name, str(lines[-1]["step"]), f'{lines[-1]["loss"]:.4f}', f"{held_out[-1]:.5f}" if held_out else "-",
                     *(f"{x:.1e}" for x in figures), *["-"] * (6 - len(figures))))
    aligned(rows)


def table(runs):
    rows = [("run", "steps", "tokens", "training", "held out", "best", "tokens/s", "active")]
    for name, lines in runs:
        last = lines[-(len(lines) + 9) // 10:]
        held_out = [p["held_out"] for p in lines if "held_out" in p]
        active = [p["active"] for p in lines if "active" in p]
        rows.append((name, str(lines[-1]["step"]), short(lines[-1]["tokens"]), f'{sum(p["loss"] for p in last) / len(last):.4f}',
                     f"{held_out[-1]:.4f}" if held_out else "-", f"{min(held_out):.4f}" if held_out else "-",
                     f'{lines[-1]["tokens_per_s"]:.0f}', f"{100 * active[-1]:.2f} %" if active else "-"))
    aligned(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("-o", "--output", default="docs/training.svg")
    args = parser.parse_args()
    runs = [read(argument) for argument in args.run]
    if args.apart:
        return apart(runs)
    table(runs)
    temporary = args.output + ".new"
    with open(temporary, "w", encoding="utf-8") as f:
        f.write("\n".join(draw(runs)) + "\n")
    os.replace(temporary, args.output)


if __name__ == "__main__":
    main()
