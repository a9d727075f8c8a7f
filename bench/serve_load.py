#!/usr/bin/env python3
"""Throughput of an OpenAI-compatible server under 1, 8 and 32 clients.

    bench/serve_load.py URL [--clients "1 8 32"] [--tokens 64] [--prompt-words 64] [--requests 2] [--temperature 0]
                        [--model NAME] [--key KEY]

Each client sends --requests streamed completions, one after the other, every prompt another one, and reads them to their end.
Printed for each number of clients: generated tokens per second of all together, the median time to the first token, and the median
time between tokens within an answer. Tokens are counted by the server (usage), where it says so, else by chunks. top_k 64, top_p
0.95 and min_p 0 go with every request: servers that know OpenAI's fields alone may refuse them."""
import argparse
import concurrent.futures
import http.client
import json
import statistics
import time
import urllib.parse


def one(url, options, number):
    """Time to the first text, time from there to the end, tokens."""
    u = urllib.parse.urlparse(url)
    c = http.client.HTTPConnection(u.hostname, u.port, timeout=3600)
    words = [f"{(number * 7919 + i * 104729) % 100003:x}" for i in range(options.prompt_words)]
    body = {"prompt": f"{number} " + " ".join(words), "max_tokens": options.tokens, "stream": True,
            "stream_options": {"include_usage": True}, "temperature": options.temperature, "top_k": 64, "top_p": 0.95, "min_p": 0}
    if options.model:
        body["model"] = options.model
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {options.key}"} if options.key else {})}
    start = time.perf_counter()
    c.request("POST", u.path.rstrip("/") + "/v1/completions", json.dumps(body), headers)
    r = c.getresponse()
    if r.status != 200:
        raise SystemExit(f"{r.status}: {r.read()[:300]}")
    first, chunks, counted = None, 0, None
    for line in r:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            counted = event["usage"]["completion_tokens"]
        if event["choices"] and event["choices"][0].get("text"):
            first = first or time.perf_counter()
            chunks += 1
    end = time.perf_counter()
    return (first or end) - start, end - (first or end), counted or chunks


def warm(url, options):
    one(url, options, 0)  # what is made once is made now


def load(url, options, clients, number):
    """Tokens per second, median seconds to a first token, median milliseconds between tokens; prompts numbered from `number`."""
    n = clients * options.requests
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(lambda i: one(url, options, i), range(number, number + n)))
    spent = time.perf_counter() - start
    gaps = [rest / (tokens - 1) * 1000 for _, rest, tokens in results if tokens > 1]
    return (sum(tokens for _, _, tokens in results) / spent, statistics.median(first for first, _, _ in results),
            statistics.median(gaps or [0]))


def parser():
    p = argparse.ArgumentParser(add_help=False)
    p.add_argument("--clients", default="1 8 32")
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--prompt-words", type=int, default=64)
    p.add_argument("--requests", type=int, default=2)
    p.add_argument("--temperature", type=float, default=0)
    p.add_argument("--model")
    p.add_argument("--key")
    return p


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], parents=[parser()])
    p.add_argument("url")
    options = p.parse_args()
    warm(options.url, options)
    print("clients  tok/s  first token, median s  between tokens, median ms")
    number = 1
    for clients in map(int, options.clients.split()):
        speed, first, gap = load(options.url, options, clients, number)
        number += clients * options.requests
        print(f"{clients:7} {speed:6.1f} {first:22.3f} {gap:26.1f}", flush=True)


if __name__ == "__main__":
    main()
