#!/usr/bin/env python3
"""Whether Hugging Face transformers reads a model that Sparkhawk has written, and computes the same from it.

    tools/check_export.py build/sparkhawk MODEL...

MODEL is a directory that train, convert or init has made, of a family that transformers has (gemma, gemma2, gemma3_text,
recurrent_gemma). Both programs compute the logits of the same tokens in f32. Needs torch and transformers: ends with status 77 and
says so where they are missing."""
import array
import json
import os
import random
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

# Rounding alone tells the two apart: f32 sums in another order. A product of n factors has a relative error of about sqrt(n) 2^-24,
# 2e-6 for n = 1024, and some tens of them follow one another; a wrong tensor is off by the size of the logits.
TOLERANCE = 1e-4  # of the largest logit


def tokens_of(config, count=96):
    """Random ids, as many as go beyond a window of attention where it is short."""
    window = config.get("sliding_window") or config.get("attention_window_size") or 0
    count = max(count, 2 * window if window <= 512 else 0)
    pick = random.Random(1)
    return [pick.randrange(config["vocab_size"]) for _ in range(count)]


def ours(sparkhawk, model, tokens, vocab):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "logits")
        command = [sparkhawk, "debug", "logits", "-m", model, "--tokens", " ".join(map(str, tokens)), "-o", path, "--exact",
                   "--kv", "f32"]
        subprocess.run(command, check=True)
        values = array.array("f")
        with open(path, "rb") as f:
            values.frombytes(f.read())
    return torch.tensor(values).view(len(tokens), vocab)


def theirs(model, tokens):
    """The logits, and which tensors of the files transformers has not used, or has missed."""
    net, info = transformers.AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager", output_loading_info=True)
    left = [k for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in info[kind]]
    with torch.no_grad():
        logits = net.float().eval()(torch.tensor([tokens]), use_cache=False).logits[0].float()
    return logits, [k for k in left if "lm_head" not in str(k)]  # tied to the embeddings


def check(sparkhawk, model):
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    tokens = tokens_of(config)
    other, left = theirs(model, tokens)
    own = ours(sparkhawk, model, tokens, config["vocab_size"])
    error = (own - other).abs().max().item() / other.abs().max().item()
    good = not left and error <= TOLERANCE
    print(f"{model}: {config['model_type']}, {len(tokens)} tokens, largest difference {error:.2g} of the largest logit"
          f"{'; tensors not understood: ' + ', '.join(map(str, left)) if left else ''}: {'equal' if good else 'NOT EQUAL'}")
    return good


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    results = [check(sys.argv[1], model) for model in sys.argv[2:]]
    sys.exit(0 if all(results) else 1)
