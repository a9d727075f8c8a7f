#!/usr/bin/env python3
"""Perplexity of a text under models that share a tokenizer: what a smaller type costs.

    tools/perplexity.py build/sparkhawk TEXT MODEL... [--tokens 16384] [--length 1024]

The text's tokens are cut into pieces of --length, which are read each by itself. The first model's perplexity is what the others'
are compared with. Needs numpy."""
import argparse
import math
import subprocess
import tempfile

import numpy

parser = argparse.ArgumentParser()
parser.add_argument("sparkhawk")
parser.add_argument("text")
parser.add_argument("model", nargs="+")
parser.add_argument("--tokens", type=int, default=16384)
parser.add_argument("--length", type=int, default=1024)
args = parser.parse_args()

with open(args.text, "rb") as text:
    listed = subprocess.run([args.sparkhawk, "tokenize", "-m", args.model[0]], stdin=text, capture_output=True, check=True)
ids = [int(i) for i in listed.stdout.split()][:args.tokens]


def loss(model):
    total, count = 0.0, 0
    for at in range(0, len(ids) - 1, args.length):
        piece = ids[at:at + args.length]
        with tempfile.NamedTemporaryFile() as out:
            subprocess.run([args.sparkhawk, "debug", "logits", "-m", model, "--tokens", " ".join(map(str, piece)), "-o", out.name],
                           check=True)
            z = numpy.fromfile(out.name, numpy.float32).reshape(len(piece), -1)[:-1].astype(numpy.float64)
        z -= z.max(axis=1, keepdims=True)
        total -= (z[numpy.arange(len(z)), piece[1:]] - numpy.log(numpy.exp(z).sum(axis=1))).sum()
        count += len(z)
    return total / count


first = None
for model in args.model:
    nll = loss(model)
    first = nll if first is None else first
    print(f"{model}: perplexity {math.exp(nll):.4f} ({100 * (math.exp(nll - first) - 1):+.2f} %), {len(ids)} tokens", flush=True)
