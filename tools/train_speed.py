#!/usr/bin/env python3
"""Times `sparkhawk train`: a model of each kind on random tokens.

    tools/train_speed.py [KIND...] [--device cuda] [--ranks 1] [--steps 60] [--sparkhawk build/cuda/sparkhawk]

Models of 35M parameters learn from 128 sequences of 512 tokens a step, gemma2-131m from 32 of 1,024; several ranks (mpirun's, a
GPU each; --sparkhawk build/cuda/mpi/sparkhawk) from as many each. The first steps, in which kernels are loaded and chosen, do not
count. `ms` is a step; `TFLOP/s` counts 6 operations a parameter and token and the six products of attention, as far as they are
not masked.
"""
import argparse, array, json, os, random, struct, subprocess, sys, tempfile

COMMON = dict(model_type="sparkhawk", vocab_size=16384, hidden_size=512, num_hidden_layers=9, num_attention_heads=4,
              num_key_value_heads=1, head_dim=128, sliding_window=512, rope_fraction=1.0, query_pre_attn_scalar=128,
              final_logit_softcapping=30.0, attn_logit_softcapping=None, post_norms=True, tie_word_embeddings=True, lru_width=640,
              lru_blocks=8, conv1d_width=4, bos_token_id=2, eos_token_id=1, pad_token_id=0)
GATED = dict(intermediate_size=1536, mlps=["gated"])
SPARK = dict(intermediate_size=2304, mlps=["spark"], spark_ffn_rank=224, spark_ffn_k=184)
GRIFFIN = ["recurrent", "recurrent", "global"]
KINDS = {
    "dense": dict(COMMON, **GATED, mixers=["global"]),
    "topk": dict(COMMON, **dict(GATED, mlps=["topk"], topk_ffn_k=123), mixers=["global"]),
    "spark": dict(COMMON, **SPARK, mixers=["spark"], spark_attn_rank=64, spark_attn_k=64),
    "griffin": dict(COMMON, **GATED, mixers=GRIFFIN),
    "sparkhawk": dict(COMMON, **SPARK, mixers=GRIFFIN),
    "gemma2-131m": dict(model_type="gemma2", vocab_size=32000, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                        num_attention_heads=6, num_key_value_heads=3, head_dim=128, query_pre_attn_scalar=128, sliding_window=1024,
                        attn_logit_softcapping=None, final_logit_softcapping=None, max_position_embeddings=8192,
                        bos_token_id=2, eos_token_id=1, pad_token_id=0),
}


def shape(kind):
    """Sequences of a step and their length."""
    return (32, 1024) if kind == "gemma2-131m" else (128, 512)


def write_shard(path, vocab, tokens, length):
    """Documents of `length` random tokens."""
    random.seed(1)
    values = array.array("H", random.choices(range(3, vocab), k=tokens))
    documents = array.array("q", range(0, tokens, length))
    header = json.dumps({"tokens": {"dtype": "I16", "shape": [tokens], "data_offsets": [0, 2 * tokens]},
                         "documents": {"dtype": "I64", "shape": [len(documents)],
                                       "data_offsets": [2 * tokens, 2 * tokens + 8 * len(documents)]}})
    header += " " * (-len(header) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header.encode() + values.tobytes() + documents.tobytes())


def count(directory):
    """Parameters of a model directory."""
    with open(os.path.join(directory, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    total = 0
    for name, tensor in header.items():
        n = 1
        for size in tensor.get("shape", [0]):
            n *= size
        total += n
    return total


def attention_operations(config, length):
    """Of a token: two products forward, four backward."""
    kinds = config.get("mixers", ["global"])
    layers = [kinds[i % len(kinds)] for i in range(config["num_hidden_layers"])]
    width = config["num_attention_heads"] * config["head_dim"]
    return 6 * 2 * width * (length / 2) * sum(kind != "recurrent" for kind in layers)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kinds", nargs="*", metavar="KIND", help=" ".join(KINDS))
    p.add_argument("--device", default="cuda")
    p.add_argument("--compute", default="bf16")
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--batch", type=int)
    p.add_argument("--length", type=int)
    p.add_argument("--ranks", type=int, default=1)
    p.add_argument("--sparkhawk", default="build/cuda/sparkhawk")
    a = p.parse_args()
    print(f"{'kind':12} {'params':>8} {'batch':>12} {'ms':>8} {'tok/s':>10} {'TFLOP/s':>8}", flush=True)
    for kind in a.kinds or KINDS:
        config = KINDS[kind]
        batch, length = (given or usual for given, usual in zip((a.batch, a.length), shape(kind)))
        batch *= a.ranks
        launcher = ["mpirun", "-n", str(a.ranks)] if a.ranks > 1 else []
        with tempfile.TemporaryDirectory() as d:
            at = lambda name: os.path.join(d, name)
            with open(at("config.json"), "w") as f:
                json.dump(config, f)
            write_shard(at("train-00000.safetensors"), config["vocab_size"], 20 * batch * (length + 1), length + 1)
            subprocess.run([a.sparkhawk, "init", at("config.json"), "-o", at("start"), "--type", "f32"], check=True)
            every = max(a.steps // 3, 1)
            settings = dict(model=at("start"), data=d, out=at("run"), batch=batch, length=length, steps=a.steps, device=a.device,
                            compute=a.compute, log_every=every, save_every=10 ** 9)
            with open(at("train.json"), "w") as f:
                json.dump(settings, f)
            subprocess.run(launcher + [a.sparkhawk, "train", at("train.json"), "-q"], check=True)
            with open(at("run/metrics.jsonl")) as f:
                lines = [json.loads(line) for line in f]
            seconds = [x["tokens"] / x["tokens_per_s"] for x in lines]
            rate = (lines[-1]["tokens"] - lines[0]["tokens"]) / (seconds[-1] - seconds[0])
            params = count(at("start"))
            work = rate * (6 * params + attention_operations(config, length))
            print(f"{kind:12} {params / 1e6:7.1f}M {f'{batch} x {length}':>12} {batch * length / rate * 1e3:8.2f} {rate:10,.0f}"
                  f" {work / 1e12:8.1f}", flush=True)


if __name__ == "__main__":
    main()
