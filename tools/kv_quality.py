#!/usr/bin/env python3
"""What keys and values in fewer bits do to a model's predictions of a text.

    tools/kv_quality.py build/sparkhawk MODEL.gguf TEXT [--tokens 1024]

For each --kv type, with activations in f32 (--exact): the mean log-likelihood of the text, the mean divergence KL(f32 || type) of
the predictions, and how often both have the same likeliest token. Needs numpy."""
import argparse
import subprocess
import tempfile

import numpy

parser = argparse.ArgumentParser()
parser.add_argument("sparkhawk")
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--tokens", type=int, default=1024)
args = parser.parse_args()

with open(args.text, "rb") as text:
    listed = subprocess.run([args.sparkhawk, "tokenize", "-m", args.model], stdin=text, capture_output=True, check=True)
ids = [int(i) for i in listed.stdout.split()][:args.tokens]


def log_probabilities(kv):
    """Of each next token: [len(ids) - 1, vocab]."""
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([args.sparkhawk, "debug", "logits", "-m", args.model, "--tokens", " ".join(map(str, ids)), "--kv", kv,
                        "--exact", "-o", out.name], check=True)
        z = numpy.fromfile(out.name, numpy.float32).reshape(len(ids), -1)[:-1]
    z -= z.max(axis=1, keepdims=True)
    z -= numpy.log(numpy.exp(z).sum(axis=1, keepdims=True, dtype=numpy.float64)).astype(numpy.float32)
    return z


exact = log_probabilities("f32")
print(f"{args.model}, {len(ids)} tokens of {args.text}")
for kv in ("f32", "bf16", "q8_0"):
    p = exact if kv == "f32" else log_probabilities(kv)
    likelihood = p[numpy.arange(len(p)), ids[1:]].mean(dtype=numpy.float64)
    divergence = numpy.mean([(numpy.exp(a, dtype=numpy.float64) * (a - b)).sum() for a, b in zip(exact, p)])
    same = (exact.argmax(axis=1) == p.argmax(axis=1)).mean()
    print(f"{kv:5} log-likelihood {likelihood:.5f}  divergence {divergence:.1e}  same likeliest token {100 * same:.1f} %",
          flush=True)
