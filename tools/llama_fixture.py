#!/usr/bin/env python3
"""Records what llama.cpp computes from the model of `make run`: tests/golden/gemma3_270m.json.

    python3 -m venv oracle && oracle/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0
    oracle/bin/python tools/llama_fixture.py "$(tools/fetch_model.py)" tests/golden/gemma3_270m.json

llama.cpp rounds activations to 8 bits before each product with a quantized matrix, so its logits carry noise, and where two
candidates are near each other the noise decides. To know where, class Exact below computes the same model in f64, and the
fixture says of every token that llama.cpp chose by how much it leads all others there (`gaps`) and exactly (`exact_gaps`).

The same equations in f32 give those leads to within `gap_noise_f32`. An engine with f32 activations, other orders of
summation and its own exp and tanh may be some times worse: four times the largest difference is `near_tie`. Where the exact
lead exceeds it, such an engine must choose as llama.cpp did; where it does not (or llama.cpp's choice is not the exact one)
nothing is demanded. A log-likelihood is a mean of differences of logits, so the same bound holds for it."""
import json
import pathlib
import sys

import gguf
import llama_cpp
import numpy

STEPS = 40
TEXT = pathlib.Path(__file__).parent.parent / "tests/golden/likelihood.txt"

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village at the edge of a great forest, there lived",
    "Water boils at 100 degrees Celsius because",
    "1, 2, 3, 4, 5, 6,",
    "Monday, Tuesday, Wednesday,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++)",
    "SELECT name, COUNT(*) FROM orders",
    "<html>\n<head>\n<title>Welcome</title>\n",
    "{\"name\": \"Alice\", \"age\": 30, \"languages\": [\"English\",",
    "Die Hauptstadt von Deutschland ist Berlin. Die Hauptstadt von Italien ist",
    "Il était une fois une petite fille qui",
    "El agua es importante para la vida porque",
    "日本の首都は",
    "Столица России — Москва. Она расположена",
    "Ingredients for pancakes:\n- 2 cups of flour\n- 1 cup of milk\n-",
    "Q: How many legs does a spider have?\nA: Eight.\nQ: How many legs does a dog have?\nA:",
    "The three laws of motion were first stated by Isaac Newton in 1687. The first law says that a body remains at rest, or in "
    "motion at a constant speed in a straight line, unless it is acted upon by a force. The second law says that",
    "To be, or not to be, that is the question:\n",
    "Dear Sir or Madam,\n\nI am writing to complain about the train service between London and Brighton. On the morning of 4 March",
]


class Exact:
    """Gemma 3 as its equations say, over the dequantized weights, in the precision asked for."""

    def __init__(self, path, dtype):
        reader = gguf.GGUFReader(path)
        self.weights = {tensor.name.removesuffix(".weight"): gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(dtype)
                        for tensor in reader.tensors}
        self.meta = {name.removeprefix("gemma3."): field.contents() for name, field in reader.fields.items()
                     if name.startswith("gemma3.")}
        self.dtype = dtype

    def norm(self, x, name):
        mean = (x * x).mean(-1, keepdims=True)
        return x / numpy.sqrt(mean + self.dtype(self.meta["attention.layer_norm_rms_epsilon"])) * self.weights[name]

    def rope(self, x, base):
        """x [T, heads, D], pairs (i, i + D/2)."""
        half = x.shape[-1] // 2
        angle = numpy.arange(len(x))[:, None] * base ** (-numpy.arange(half) / half)
        cos, sin = (f(angle)[:, None, :].astype(self.dtype) for f in (numpy.cos, numpy.sin))
        a, b = x[..., :half], x[..., half:]
        return numpy.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x, layer, name):
        heads, width = self.meta["attention.head_count"], self.meta["attention.key_length"]
        q, k, v = ((x @ self.weights[f"{name}attn_{part}"].T).reshape(len(x), -1, width) for part in "qkv")
        is_global = layer % 6 == 5
        base = self.meta["rope.freq_base"] if is_global else 10000.0
        q, k = self.rope(self.norm(q, name + "attn_q_norm"), base), self.rope(self.norm(k, name + "attn_k_norm"), base)
        k, v = (numpy.repeat(part, heads // self.meta["attention.head_count_kv"], 1) for part in (k, v))
        scores = numpy.einsum("thd,shd->hts", q, k) / self.dtype(width ** 0.5)
        distance = numpy.subtract.outer(numpy.arange(len(x)), numpy.arange(len(x)))
        seen = (distance >= 0) & (is_global | (distance < self.meta["attention.sliding_window"]))
        scores = numpy.where(seen, scores, -numpy.inf)
        scores = numpy.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return numpy.einsum("hts,shd->thd", scores, v).reshape(len(x), -1) @ self.weights[name + "attn_output"].T

    def mlp(self, x, name):
        gate, up = x @ self.weights[name + "ffn_gate"].T, x @ self.weights[name + "ffn_up"].T
        gelu = gate / 2 * (1 + numpy.tanh(self.dtype((2 / numpy.pi) ** 0.5) * (gate + self.dtype(0.044715) * gate ** 3)))
        return (gelu * up) @ self.weights[name + "ffn_down"].T

    def logits(self, ids, start=0):
        """The logits after each of ids[start:]: [n, vocab]."""
        embedding = self.weights["token_embd"]
        x = embedding[ids] * self.dtype(embedding.shape[1] ** 0.5)
        for layer in range(self.meta["block_count"]):
            name = f"blk.{layer}."
            x = x + self.norm(self.attention(self.norm(x, name + "attn_norm"), layer, name), name + "post_attention_norm")
            x = x + self.norm(self.mlp(self.norm(x, name + "ffn_norm"), name), name + "post_ffw_norm")
        return self.norm(x[start:], "output_norm") @ embedding.T


def logits(model, tokens):
    """The logits after each of `tokens`, which continue what the model has consumed: [n, vocab]."""
    start = model.n_tokens
    model.eval(tokens)
    return model.scores[start:model.n_tokens].copy()


def greedy(model, text):
    """The prompt's ids, the continuation up to an end token, and the logits that each of its tokens was chosen from."""
    prompt = model.tokenize(text.encode(), add_bos=True, special=False)
    model.reset()
    rows = [logits(model, prompt)[-1]]
    tokens = [int(rows[0].argmax())]
    while len(tokens) < STEPS and tokens[-1] != model.token_eos():
        rows.append(logits(model, tokens[-1:])[-1])
        tokens.append(int(rows[-1].argmax()))
    return prompt, tokens, numpy.stack(rows)


def lead(rows, tokens):
    """By how much each token's logit exceeds every other one's: [n]; negative where it is not the best."""
    chosen = rows[numpy.arange(len(rows)), tokens]
    others = rows.copy()
    others[numpy.arange(len(rows)), tokens] = -numpy.inf
    return chosen - others.max(-1)


def mean_log_likelihood(rows, targets):
    rows = rows.astype(numpy.float64)
    peak = rows.max(-1, keepdims=True)
    normal = numpy.log(numpy.exp(rows - peak).sum(-1)) + peak[:, 0]
    return float((rows[numpy.arange(len(rows)), targets] - normal).mean())


def main(source, output):
    model = llama_cpp.Llama(source, n_ctx=2048, n_threads=2, n_gpu_layers=0, logits_all=True, flash_attn=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False)
    exact, single = Exact(source, numpy.float64), Exact(source, numpy.float32)
    cases, noise, noise_f32 = [], [], []
    for text in PROMPTS:
        prompt, tokens, rows = greedy(model, text)
        ids, start = prompt + tokens[:-1], len(prompt) - 1
        gaps, exact_gaps, single_gaps = (lead(part, tokens) for part in (rows, exact.logits(ids, start), single.logits(ids, start)))
        noise.append(numpy.abs(gaps - exact_gaps))
        noise_f32.append(numpy.abs(single_gaps - exact_gaps))
        cases.append({"text": text, "prompt": prompt, "tokens": tokens, "gaps": gaps.round(4).tolist(),
                      "exact_gaps": exact_gaps.round(6).tolist()})
        print(len(prompt), repr(model.detokenize(tokens).decode(errors="replace")), file=sys.stderr)
    noise, noise_f32 = numpy.concatenate(noise), numpy.concatenate(noise_f32)
    turned = sum(gap <= 0 for case in cases for gap in case["exact_gaps"])
    ids = model.tokenize(TEXT.read_bytes(), add_bos=True, special=False)
    model.reset()
    document = {
        "made_by": f"tools/llama_fixture.py, llama-cpp-python {llama_cpp.__version__}, CPU, f32 KV cache, no flash attention",
        "steps": len(noise),
        "steps_that_rounding_turned": turned,
        "gap_noise_llama": {"rms": float((noise ** 2).mean() ** 0.5), "max": float(noise.max())},
        "gap_noise_f32": {"rms": float((noise_f32 ** 2).mean() ** 0.5), "max": float(noise_f32.max())},
        "near_tie": 4 * float(noise_f32.max()),
        "likelihood": {"file": TEXT.name, "tokens": len(ids), "mean": mean_log_likelihood(logits(model, ids[:-1]), ids[1:]),
                       "exact_mean": mean_log_likelihood(exact.logits(ids[:-1]), ids[1:])},
    }
    print(json.dumps(document, indent=1), file=sys.stderr)
    head, lines = json.dumps(document, indent=1), ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    pathlib.Path(output).write_text(head[:-2] + ',\n "cases": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
