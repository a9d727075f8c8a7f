#!/usr/bin/env python3
"""Decode speed against context length, as docs/scaling.svg and a table.

    tools/scaling_curves.py build/sparkhawk FOLDER [-o docs/scaling.svg] [--type q8_0] [--repeats 5]

FOLDER holds (and gets, where they are missing: 2 to 3 GB each) random weights of four models of 2B parameters. The state at a
depth is filled at random, so that a million tokens need not be read first. The models take turns at each depth. Needs nothing but
Python."""
import argparse
import json
import math
import os
import subprocess

MODELS = [  # preset, name, colour, deepest context
    ("gemma2-2b", "Gemma 2 (dense)", "#d1495b", 32768),
    ("spark-gemma2-2b", "Spark on Gemma 2", "#edae49", 32768),
    ("griffin-2b", "Griffin", "#00798c", 1 << 20),
    ("sparkhawk-2b", "Spark on Griffin", "#30638e", 1 << 20),
]
DEPTHS = [0, 1024, 4096, 8192, 16384, 32768, 131072, 1 << 20]

parser = argparse.ArgumentParser()
parser.add_argument("sparkhawk")
parser.add_argument("folder")
parser.add_argument("-o", "--output", default="docs/scaling.svg")
parser.add_argument("--type", default="q8_0")
parser.add_argument("--repeats", type=int, default=5)
args = parser.parse_args()


def measure(preset, depth):
    path = os.path.join(args.folder, f"{preset}-{args.type}.gguf")
    if not os.path.exists(path):
        subprocess.run([args.sparkhawk, "init", preset, "-o", path, "--type", args.type], check=True)
    command = [args.sparkhawk, "bench", "-m", path, "--prefill", "0", "-n", "16", "-d", str(depth), "-r", str(args.repeats),
               "--json"]
    result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    row = result["rows"][0]
    print(f"{preset:16} {depth:8}  {row['tok_s']:6.2f} tok/s ({row['tok_s_min']:.2f} to {row['tok_s_max']:.2f})  "
          f"{row['bytes_per_token'] * 1e-6:6.0f} MB a token, {100 * row['share']:3.0f} % of {result['bandwidth_gb_s']:.0f} GB/s",
          flush=True)
    return row["tok_s"]


speeds = {m[0]: [] for m in MODELS}
for depth in DEPTHS:
    for preset, _, _, deepest in MODELS:
        if depth <= deepest:
            speeds[preset].append((depth, measure(preset, depth)))

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 430, 56, 20, 150, 46
top = 5 * math.ceil(max(v for s in speeds.values() for _, v in s) / 5)


def x(depth):  # logarithmic, with 0 where 512 would be
    return LEFT + (math.log2(max(depth, 512)) - 9) / (20 - 9) * (WIDTH - LEFT - RIGHT)


def y(speed):
    return TOP + (1 - speed / top) * (HEIGHT - TOP - BOTTOM)


svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
       f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
for speed in range(0, top + 1, 5):
    svg.append(f'<line x1="{LEFT}" y1="{y(speed):.1f}" x2="{WIDTH - RIGHT}" y2="{y(speed):.1f}" stroke="#ddd"/>'
               f'<text x="{LEFT - 8}" y="{y(speed) + 4:.1f}" text-anchor="end">{speed}</text>')
for depth in DEPTHS:
    name = "0" if not depth else f"{depth >> 10}k" if depth < 1 << 20 else "1M"
    svg.append(f'<text x="{x(depth):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{name}</text>')
svg.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">tokens of context</text>')
svg.append(f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
           f'tokens a second, {args.type}</text>')
labels = []
for preset, name, colour, _ in sorted(MODELS, key=lambda m: speeds[m[0]][-1][1]):
    points = [(x(d), y(v)) for d, v in speeds[preset]]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    svg.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{line}"/>')
    svg += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
    svg.append(f'<text x="{points[-1][0] + 9:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{name}</text>')
svg.append("</svg>")
temporary = args.output + ".new"
with open(temporary, "w", encoding="utf-8") as f:
    f.write("\n".join(svg) + "\n")
os.replace(temporary, args.output)
