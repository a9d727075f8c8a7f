#!/usr/bin/env python3
"""`sparkhawk serve` and llama.cpp's llama-server under the same load, in turns.

    bench/serve_versus.py MODEL.gguf LLAMA_SERVER [--turns 2] [--threads 2] [--build build] [serve_load.py's options]

Each turn starts one server, asks it as serve_load.py does with 1, 8 and 32 clients, and ends it; then the other one. Both have 32
places, the same threads and prompts, and keep nothing from one prompt for another. Printed: medians over turns, the turns, and
their ratios."""
import argparse
import http.client
import socket
import statistics
import subprocess
import time

import serve_load


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def started(command, port):
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while server.poll() is None:
        time.sleep(0.1)
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            c.request("GET", "/health")
            if c.getresponse().status == 200:
                return server
        except OSError:
            pass
    raise SystemExit(f"{command[0]} does not start: it ended with {server.returncode}")


def turn(command, options):
    port = free_port()
    server = started(command, port)
    url, number, rows = f"http://127.0.0.1:{port}", 1, []
    try:
        serve_load.warm(url, options)
        for clients in map(int, options.clients.split()):
            rows.append(serve_load.load(url, options, clients, number))
            number += clients * options.requests
        return rows
    finally:
        server.terminate()
        server.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], parents=[serve_load.parser()])
    p.add_argument("model_file", metavar="MODEL.gguf")
    p.add_argument("llama_server", metavar="LLAMA_SERVER")
    p.add_argument("--turns", type=int, default=2)
    p.add_argument("--threads", default="2")
    p.add_argument("--build", default="build")
    options = p.parse_args()
    both = {
        "sparkhawk": [f"{options.build}/sparkhawk", "serve", "-m", options.model_file, "-t", options.threads, "--parallel", "32",
                      "--cache-mb", "0"],
        "llama-server": [options.llama_server, "-m", options.model_file, "-t", options.threads, "-np", "32", "-c", "32768",
                         "-fa", "on", "--cache-ram", "0", "--no-cache-prompt"],
    }
    turns = {name: [] for name in both}
    for _ in range(options.turns):
        for name, command in both.items():
            turns[name].append(turn(command, options))
    print("clients  server        tok/s  first token, s  between tokens, ms  tok/s of each turn")
    for i, clients in enumerate(map(int, options.clients.split())):
        for name in both:
            speed, first, gap = (statistics.median(t[i][k] for t in turns[name]) for k in range(3))
            each = " ".join(f"{t[i][0]:.1f}" for t in turns[name])
            print(f"{clients:7}  {name:12} {speed:6.1f} {first:15.3f} {gap:19.1f}  {each}")
        ratios = [a[i][0] / b[i][0] for a, b in zip(turns["sparkhawk"], turns["llama-server"])]
        print(f"{'':9}ratio of tok/s, median {statistics.median(ratios):.2f}: {' '.join(f'{r:.2f}' for r in ratios)}")


if __name__ == "__main__":
    main()
