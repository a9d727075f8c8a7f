#!/usr/bin/env python3
"""Decode on one GPU beside Hugging Face transformers, in one run: the same shapes, random weights, bf16; Sparkhawk before and after
transformers. Wants torch and transformers.

    tools/compare_transformers.py build/cuda/sparkhawk FOLDER [--prompt 64] [--tokens 32] [--skip-compiled]

FOLDER keeps the files that `sparkhawk init` makes (5 GB each). transformers runs eagerly, and Gemma 2 also with a static cache
under torch.compile. A token's time is that of a generation less that of a shorter one.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("sparkhawk")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--prompt", type=int, default=64)
parser.add_argument("--tokens", type=int, default=32)
parser.add_argument("--skip-compiled", action="store_true")
args = parser.parse_args()
args.folder.mkdir(parents=True, exist_ok=True)


def ours(name):
    """Tokens a second and share of the bandwidth, by batch."""
    path = args.folder / f"{name}-bf16.gguf"
    if not path.exists():
        subprocess.run([args.sparkhawk, "init", name, "-o", path, "--type", "bf16"], check=True)
    command = [args.sparkhawk, "bench", "--device", "cuda", "-m", path, "--prefill", "0", "-n", "48", "-d", str(args.prompt), "-b",
               "1 16", "-r", "5", "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {row["batch"]: (row["tok_s"], row["share"]) for row in result["rows"]}


def model(name):
    import torch
    from transformers import AutoModelForCausalLM, Gemma2Config, RecurrentGemmaConfig
    torch.set_default_dtype(torch.bfloat16)
    if name.startswith("recurrent"):
        config, attention = RecurrentGemmaConfig(), "eager" # the one that it has
    else:
        config, attention = Gemma2Config(num_hidden_layers=26, hidden_size=2304, intermediate_size=9216, num_attention_heads=8,
                                         num_key_value_heads=4, head_dim=256, vocab_size=256000, sliding_window=4096), "sdpa"
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def theirs(made, batch, **options):
    """Tokens a second."""
    import torch
    ids = torch.randint(3, 1000, (batch, args.prompt), device="cuda")

    def seconds(n):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            made.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0, **options)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    for n in (8, 8 + args.tokens) * 2 if options else (8,): # what is compiled is so for a length
        seconds(n)
    return batch * args.tokens / statistics.median(seconds(8 + args.tokens) - seconds(8) for _ in range(3))


print("| model | sequences | transformers | its tok/s | Sparkhawk tok/s, before and after | ratio | share of the bandwidth |")
print("|---|---|---|---|---|---|---|", flush=True)
for name, ways in (("gemma2-2b", [("eager", 1, {}), ("static cache, compiled", 1, {"cache_implementation": "static"})]),
                   ("recurrentgemma-2b", [("eager", 1, {}), ("eager", 16, {})])):
    before, made = ours(name), model(name)
    rates = [theirs(made, batch, **options) for how, batch, options in ways if not (options and args.skip_compiled)]
    del made
    after = ours(name)
    for (how, batch, _), rate in zip(ways, rates):
        (first, _), (second, share) = before[batch], after[batch]
        print(f"| {name} | {batch} | {how} | {rate:,.0f} | {first:,.0f}, {second:,.0f} | {(first + second) / 2 / rate:.1f} | "
              f"{100 * share:.0f} % |", flush=True)
