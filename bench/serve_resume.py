#!/usr/bin/env python3
"""How long a conversation of N tokens takes to go on, when its state is kept.

    bench/serve_resume.py MODEL [--depths "1024 32768 1048576"] [--build build] [--new 16]

The states are made by bench/resume and found by the service in --cache-dir, as after a restart. Each request sends the whole text,
N token ids and some new ones, as a client would, and asks for one token. Printed: the time of the first such request, which reads
the state from its file; the median of five that follow, each with other new tokens; and of that what does not depend on the model,
an answer to the same body that is refused at its end."""
import argparse
import http.client
import json
import re
import statistics
import subprocess
import tempfile
import time


def ask(port, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
    start = time.perf_counter()
    c.request("POST", "/v1/completions", body)
    r = json.loads(c.getresponse().read())
    return time.perf_counter() - start, r


def body(ids, new, **more):
    return json.dumps({"prompt": ids + new, "max_tokens": 1, "temperature": 0, **more}, separators=(",", ":")).encode()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("model")
    p.add_argument("--depths", default="1024 32768 1048576")
    p.add_argument("--build", default="build")
    p.add_argument("--new", type=int, default=16)
    options = p.parse_args()
    depths = [int(n) for n in options.depths.split()]
    with tempfile.TemporaryDirectory() as states:
        subprocess.run([f"{options.build}/bench/resume", options.model, states, *map(str, depths)], check=True)
        serve = [f"{options.build}/sparkhawk", "serve", "-m", options.model, "--port", "0", "--max-body", "64"]
        server = subprocess.Popen([*serve, "--cache-dir", states], stdout=subprocess.PIPE, text=True)
        port = int(re.search(r":(\d+)$", server.stdout.readline())[1])
        vocab = json.loads(get(port, "/v1/models"))["data"][0]["sparkhawk"]["vocab"]
        ask(port, body([5], []))  # what is made once is made now
        print("tokens before  first, s  then, s  of which HTTP and JSON, s  found", flush=True)
        for n in depths:
            ids = [2 + i % (vocab - 2) for i in range(n)]
            new = [[7 + k + i for i in range(options.new)] for k in range(6)]
            times, found = zip(*(ask(port, body(ids, tokens)) for tokens in new))
            plain = ask(port, body(ids, [vocab]))[0]
            cached = {r["usage"]["prompt_tokens_details"]["cached_tokens"] for r in found}
            print(f"{n:13} {times[0]:9.3f} {statistics.median(times[1:]):8.3f} {plain:26.3f}  {sorted(cached)}", flush=True)
        server.terminate()
        server.wait()


def get(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port)
    c.request("GET", path)
    return c.getresponse().read()


if __name__ == "__main__":
    main()
