#!/usr/bin/env python3
"""Speed beside llama.cpp, on one GGUF file, in one run: the two take turns, and the ratio is of such pairs.

    python3 -m venv llama && llama/bin/pip install llama-cpp-python     # builds llama.cpp here
    llama/bin/python tools/compare_llama.py build/sparkhawk MODEL.gguf [--threads 2] [--prefill 512] [--generate 32] [--pairs 5] \
        [--depth 0] [--sparkhawk-options "--kv q8_0"]

A file of random weights from `sparkhawk init` will do. Prints a table: medians, least to most."""
import argparse
import json
import statistics
import subprocess
import time

import llama_cpp

parser = argparse.ArgumentParser()
parser.add_argument("sparkhawk")
parser.add_argument("model")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--prefill", type=int, default=512)
parser.add_argument("--generate", type=int, default=32)
parser.add_argument("--pairs", type=int, default=5)
parser.add_argument("--depth", type=int, default=0, help="tokens before; llama.cpp reads them once")
parser.add_argument("--sparkhawk-options", default="")
args = parser.parse_args()

context = args.depth + args.prefill + args.generate + 8
llama = llama_cpp.Llama(args.model, n_ctx=context, n_threads=args.threads, n_threads_batch=args.threads, n_batch=512,
                        verbose=False)
prompt = [2] + [1000 + 7 * i % 9000 for i in range(args.prefill - 1)]
if args.depth:
    llama.eval([2] + [3000 + 11 * i % 9000 for i in range(args.depth - 1)])


def rewind(n):
    llama.n_tokens = n
    llama._ctx.kv_cache_seq_rm(-1, n, -1)


def theirs():
    rewind(args.depth)
    start = time.perf_counter()
    llama.eval(prompt)
    prefill = args.prefill / (time.perf_counter() - start)
    rewind(args.depth)
    llama.eval(prompt[:1])
    start = time.perf_counter()
    for i in range(args.generate):
        llama.eval([5000 + i])
    return {"prefill": prefill, "decode": args.generate / (time.perf_counter() - start)}


def ours():
    command = [args.sparkhawk, "bench", "-m", args.model, "--threads", str(args.threads), "--prefill", str(args.prefill),
               "-n", str(args.generate), "-d", str(args.depth), "-r", "1", "--json", *args.sparkhawk_options.split()]
    result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {row["test"]: row["tok_s"] for row in result["rows"]} | {"share": result["rows"][-1]["share"]}


theirs()
pairs = [(ours(), theirs()) for _ in range(args.pairs)]
print(f"{args.model}, {args.threads} threads, depth {args.depth}, llama-cpp-python {llama_cpp.__version__}, {args.pairs} pairs")
for test in "prefill", "decode":
    values = {"ours": [a[test] for a, _ in pairs], "llama.cpp": [b[test] for _, b in pairs],
              "ratio": [a[test] / b[test] for a, b in pairs]}
    for name, v in values.items():
        print(f"{test:8} {name:10} {statistics.median(v):8.2f}  ({min(v):.2f} to {max(v):.2f})")
print(f"decode reads {100 * statistics.median(a['share'] for a, _ in pairs):.0f} % of the bandwidth probed beside it")
