#!/usr/bin/env python3
"""What a long history costs a server that has kept nothing of it, and one that has: beside serve_resume.py.

    bench/serve_reread.py URL [--depths "1024 32768"] [--new 16]

For each depth N a text of N token ids that this server has not read before (start it for each run; its vocabulary must have 101,002
ids), asked for one token; then three times the same with --new more ids at its end, as a conversation goes on. Printed: the time of
the first request and its tokens per second, and the median of the others, which a cache of prompts makes short."""
import argparse
import http.client
import json
import statistics
import time
import urllib.parse


def ask(url, ids):
    u = urllib.parse.urlparse(url)
    c = http.client.HTTPConnection(u.hostname, u.port, timeout=3600)
    body = json.dumps({"prompt": ids, "max_tokens": 1, "temperature": 0})
    start = time.perf_counter()
    c.request("POST", u.path.rstrip("/") + "/v1/completions", body, {"Content-Type": "application/json"})
    r = c.getresponse()
    text = r.read()
    if r.status != 200:
        raise SystemExit(f"{r.status}: {text[:300]}")
    return time.perf_counter() - start


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("url")
    p.add_argument("--depths", default="1024 32768")
    p.add_argument("--new", type=int, default=16)
    options = p.parse_args()
    ask(options.url, [2, 1000])  # what is made once is made now
    print("tokens before  read, s  tok/s  goes on, s", flush=True)
    for n in map(int, options.depths.split()):
        ids = [2] + [1000 + (n + i * 7919) % 100003 for i in range(n - 1 + 3 * options.new)]
        first, *others = (ask(options.url, ids[:n + k * options.new]) for k in range(4))
        print(f"{n:13} {first:8.2f} {n / first:6.1f} {statistics.median(others):11.3f}", flush=True)


if __name__ == "__main__":
    main()
