#!/usr/bin/env python3
"""Times PyTorch on the models of train_speed.py: torch.compile, bf16 autocast over f32 weights, fused AdamW.

    tools/train_speed_torch.py [KIND...] [--steps 60]

The same shapes, batches and steps, as a PyTorch user writes them: scaled_dot_product_attention where no mask depends on scores, the
recurrence by doubling, gemma2-131m by transformers, the loss outside of what is compiled. The first third of the steps, in which it
compiles, does not count.
"""
import argparse, math, time
import torch
from torch import nn
from torch.nn import functional as F
from train_speed import KINDS, shape

CUDA = "cuda"


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.w)).to(x.dtype)


def linear(inputs, outputs, bias=False):
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=inputs ** -0.5)
    return layer


def quantile(p):
    """Of the normal distribution."""
    return math.sqrt(2) * torch.erfinv(2 * torch.as_tensor(p) - 1)


def rope(x):
    half, length = x.shape[-1] // 2, x.shape[-2]
    angle = torch.arange(length, device=CUDA)[:, None] * 10000.0 ** (-torch.arange(half, device=CUDA) / half)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c, spark):
        super().__init__()
        self.heads, self.kv, self.size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        d = c["hidden_size"]
        self.q, self.k = linear(d, self.heads * self.size), linear(d, self.kv * self.size)
        self.v, self.o = linear(d, self.kv * self.size), linear(self.heads * self.size, d)
        self.rank, self.keep = (c["spark_attn_rank"], c["spark_attn_k"]) if spark else (0, 0)

    def forward(self, x):
        batch, length, _ = x.shape
        split = lambda y, heads: y.view(batch, length, heads, self.size).transpose(1, 2)
        q, k, v = split(self.q(x), self.heads), split(self.k(x), self.kv), split(self.v(x), self.kv)
        y = self.spark(q, k, v) if self.rank else self.full(q, k, v)
        return self.o(y.transpose(1, 2).reshape(batch, length, -1))

    def full(self, q, k, v):
        every = lambda y: y.expand(-1, self.heads, -1, -1)
        return F.scaled_dot_product_attention(rope(q), every(rope(k)), every(v), is_causal=True)

    def spark(self, q, k, v):
        """A statistical threshold on the first part's scores keeps about `keep` positions; the second part weighs them."""
        length, r = q.shape[-2], self.rank
        score = lambda a, b: (rope(a) @ rope(b).transpose(-1, -2)).float() * self.size ** -0.5
        s, w = score(q[..., :r], k[..., :r]), score(q[..., r:], k[..., r:])
        causal = torch.ones(length, length, dtype=torch.bool, device=CUDA).tril()
        n = torch.arange(1, length + 1, device=CUDA).float()[:, None]
        mean = s.masked_fill(~causal, 0).sum(-1, keepdim=True) / n
        deviation = ((s - mean).masked_fill(~causal, 0).square().sum(-1, keepdim=True) / n + 1e-9).sqrt()
        threshold = mean + deviation * quantile((1 - self.keep / n).clamp(min=1e-6))
        kept = causal & ((s > threshold) | (n <= self.keep))
        return (torch.softmax(s.masked_fill(~kept, -1e30), -1) * F.softplus(w)).to(v.dtype) @ v


class Recurrent(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, width, self.blocks = c["hidden_size"], c["lru_width"], c["lru_blocks"]
        each = width // self.blocks
        self.x, self.y, self.out = linear(d, width, True), linear(d, width, True), linear(width, d, True)
        self.conv, self.conv_bias = nn.Parameter(torch.randn(4, width) * 0.05), nn.Parameter(torch.zeros(width))
        self.gates = nn.ParameterList([torch.randn(self.blocks, each, each) * each ** -0.5 for _ in range(2)])
        self.biases = nn.ParameterList([torch.zeros(width) for _ in range(2)])
        self.decay = nn.Parameter(torch.empty(width).uniform_(-9, -4))

    def forward(self, x):
        length = x.shape[1]
        y, z = F.gelu(self.y(x), approximate="tanh"), F.pad(self.x(x), (0, 0, 3, 0))
        z = sum(z[:, k:k + length] * self.conv[k] for k in range(4)) + self.conv_bias
        parts = z.view(*z.shape[:2], self.blocks, -1)
        i, r = (torch.sigmoid((torch.einsum("btni,nio->btno", parts, w.to(parts.dtype)).flatten(-2) + b).float())
                for w, b in zip(self.gates, self.biases))
        log_a = -8 * r * F.softplus(self.decay)
        a, h = log_a.exp(), (-torch.expm1(2 * log_a)).clamp(min=1e-6).sqrt() * i * z.float()
        step = 1
        while step < length:
            h = torch.cat([h[:, :step], h[:, step:] + a[:, step:] * h[:, :-step]], 1)
            a = torch.cat([a[:, :step], a[:, step:] * a[:, :-step]], 1)
            step *= 2
        return self.out(h.to(x.dtype) * y)


class MLP(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        d, width = c["hidden_size"], c["intermediate_size"]
        self.rank = c["spark_ffn_rank"] if kind == "spark" else 0
        keep = c.get("spark_ffn_k" if kind == "spark" else "topk_ffn_k")
        self.gate, self.up = linear(self.rank or d, width), linear(d - self.rank, width)
        self.down = linear(width, d)
        self.z = None if kind == "gated" else float(quantile(1 - keep / width))

    def forward(self, x):
        g, u = self.gate(x[..., :self.rank] if self.rank else x), self.up(x[..., self.rank:])
        if self.z is not None:
            wide = g.float()
            g = F.relu(wide - wide.mean(-1, keepdim=True) - self.z * wide.std(-1, keepdim=True, unbiased=False)).to(x.dtype)
        return self.down(F.gelu(g, approximate="tanh") * u)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        layers = range(c["num_hidden_layers"])
        kinds = [c["mixers"][i % len(c["mixers"])] for i in layers]
        d = c["hidden_size"]
        self.embedding, self.norm = nn.Parameter(torch.randn(c["vocab_size"], d) * d ** -0.5), Norm(d)
        self.mixers = nn.ModuleList([Recurrent(c) if k == "recurrent" else Attention(c, k == "spark") for k in kinds])
        self.mlps = nn.ModuleList([MLP(c, c["mlps"][0]) for _ in layers])
        self.norms = nn.ModuleList([nn.ModuleList([Norm(d) for _ in range(4)]) for _ in layers])

    def forward(self, ids):
        x = (F.embedding(ids, self.embedding) * self.embedding.shape[1] ** 0.5).bfloat16()
        for mixer, mlp, norm in zip(self.mixers, self.mlps, self.norms):
            x = x + norm[1](mixer(norm[0](x)))
            x = x + norm[3](mlp(norm[2](x)))
        return 30 * torch.tanh((self.norm(x) @ self.embedding.T.to(x.dtype)).float() / 30)


def gemma2(c):
    from transformers import AutoModelForCausalLM, Gemma2Config
    config = Gemma2Config(**{k: v for k, v in c.items() if k != "model_type"})
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kinds", nargs="*", metavar="KIND", help=" ".join(KINDS))
    p.add_argument("--steps", type=int, default=60)
    a = p.parse_args()
    print(f"{'kind':12} {'params':>8} {'batch':>12} {'ms':>8} {'tok/s':>10}", flush=True)
    for kind in a.kinds or KINDS:
        c, (batch, length) = KINDS[kind], shape(kind)
        model = (gemma2(c) if kind == "gemma2-131m" else Model(c)).to(CUDA)
        run = torch.compile(model)
        forward = (lambda ids: run(input_ids=ids, use_cache=False).logits) if kind == "gemma2-131m" else run
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
        data = torch.randint(3, c["vocab_size"], (20, batch, length + 1), device=CUDA)
        for step in range(a.steps):
            if step == a.steps // 3:
                torch.cuda.synchronize()
                start = time.monotonic()
            ids = data[step % len(data)]
            with torch.autocast(CUDA, torch.bfloat16):
                logits = forward(ids[:, :-1])
            F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), ids[:, 1:].reshape(-1)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds = (time.monotonic() - start) / (a.steps - a.steps // 3)
        params = sum(x.numel() for x in model.parameters())
        print(f"{kind:12} {params / 1e6:7.1f}M {f'{batch} x {length}':>12} {seconds * 1e3:8.2f} {batch * length / seconds:10,.0f}",
              flush=True)
        del model, run, forward, optimizer
        torch._dynamo.reset()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
