#!/usr/bin/env python3
"""Asks `sparkhawk serve` as clients do, and as they should not. Started by serve.sh in a folder with the models it names."""
import base64
import concurrent.futures
import contextlib
import http.client
import json
import math
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time

try:
    import openai
except ImportError:
    openai = None

PROGRAM = os.environ["SPARKHAWK"]
passed = failed = skipped = 0


def check(what, true, *seen):
    global passed, failed
    passed, failed = passed + bool(true), failed + (not true)
    if not true:
        print(f"serve.py:{sys._getframe(1).f_lineno}: not true: {what}", *(str(s)[:300] for s in seen), flush=True)


class Server:
    """The program, on a port of its own."""

    def __init__(self, model, *options, env=None, host="127.0.0.1"):
        self.host = host
        self.log = open(f"{model}.log", "a+")
        command = [PROGRAM, "serve", "-m", model, "--port", "0", "-t", "1", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, **(env or {})})
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)$", line)[1])
        self.url = f"http://{host}:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = "it had to be killed"
        self.process.stdout.close()
        self.log.close()
        check("the server ends with status 0", status == 0, status)

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """Status, headers and body; JSON where it is."""
        c = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        c.request(method, path, data, headers or {})
        r = c.getresponse()
        text = r.read()
        c.close()
        if text and r.headers.get("Content-Type", "").startswith("application/json"):
            text = json.loads(text)
        return r.status, r.headers, text

    def post(self, path, **body):
        return self.ask("POST", path, body)[2]

    def stream(self, path, **body):
        """The chunks of a stream; the last line must be [DONE]."""
        _, _, text = self.ask("POST", path, {**body, "stream": True})
        events = text.decode().split("\n\n")
        check("a stream ends with [DONE]", events[-2:] == ["data: [DONE]", ""], events[-2:])
        return [json.loads(e.removeprefix("data: ")) for e in events[:-2]]

    def text(self, prompt, n=24, **more):
        """A greedy continuation, as ids cannot end it: token by token the same for the same prompt."""
        r = self.post("/v1/completions", prompt=prompt, max_tokens=n, temperature=0, logit_bias=NO_END, **more)
        return r["choices"][0]["text"]

    def metrics(self):
        text = self.ask("GET", "/metrics")[2].decode()
        return {k: float(v) for k, v in re.findall(r"^sparkhawk_(\w+) (\S+)$", text, re.M)}

    def alive(self):
        return self.ask("GET", "/health", timeout=10)[0] == 200

    def socket(self, data=b""):
        s = socket.create_connection((self.host, self.port), timeout=20)
        s.sendall(data)
        return s


NO_END = {"1": -100, "5": -100}  # <eos> and <end_of_turn>
HI = [{"role": "user", "content": "Hi"}]


def test_interface(s):
    status, headers, models = s.ask("GET", "/v1/models")
    name = models["data"][0]["id"]
    check("the model is named for its file", name == "griffin" and models["object"] == "list", models)
    check("one model can be asked for", s.ask("GET", "/v1/models/griffin")[2]["id"] == name)
    check("another is not there", s.ask("GET", "/v1/models/other")[2]["error"]["code"] == "model_not_found")
    check("/health says ok", s.ask("GET", "/health")[2] == {"status": "ok"})

    r = s.post("/v1/chat/completions", model=name, messages=HI, max_tokens=10, temperature=0, logit_bias=NO_END)
    c = r["choices"][0]
    check("a chat has an answer", c["message"]["role"] == "assistant" and c["message"]["content"] and c["index"] == 0, r)
    check("which says why it ended", c["finish_reason"] == "length" and r["object"] == "chat.completion", r)
    usage = r["usage"]
    check("and what it took", usage["prompt_tokens"] == 18 and usage["completion_tokens"] == 10 and usage["total_tokens"] == 28,
          usage)
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]
    same = s.post("/v1/chat/completions", messages=parts, max_tokens=10, temperature=0, logit_bias=NO_END)
    check("parts of text are joined", same["choices"][0]["message"] == c["message"], same)
    ended = s.post("/v1/chat/completions", messages=HI, max_tokens=10, logit_bias={"5": 100})
    check("an end token ends", ended["choices"][0]["finish_reason"] == "stop" and not ended["choices"][0]["message"]["content"],
          ended)

    chunks = s.stream("/v1/chat/completions", messages=HI, max_tokens=10, temperature=0, logit_bias=NO_END,
                      stream_options={"include_usage": True})
    deltas = [k["choices"][0]["delta"] for k in chunks if k["choices"]]
    check("a stream is the same text", "".join(d.get("content", "") for d in deltas) == c["message"]["content"], chunks)
    check("whose first chunk says who speaks", deltas[0]["role"] == "assistant" and "role" not in deltas[1], deltas)
    check("whose last ones say why it ended and what it took",
          chunks[-2]["choices"][0]["finish_reason"] == "length" and chunks[-1]["choices"] == [] and
          chunks[-1]["usage"]["completion_tokens"] == 10 and chunks[0]["usage"] is None, chunks[-2:])

    whole = s.text("Hello")
    check("a completion has text", len(whole) > 0)
    ids = s.post("/v1/tokenize", text="Hello")["tokens"]
    check("tokens begin with bos", ids[0] == 2 and len(ids) == 6, ids)
    check("a prompt may be ids", s.text(ids) == whole)
    check("ids become text again", s.post("/v1/detokenize", tokens=ids)["text"] == "Hello")
    check("special tokens are text", len(s.post("/v1/tokenize", text="<eos>")["tokens"]) == 6)
    check("unless they are asked for", s.post("/v1/tokenize", text="<eos>", special=True)["tokens"] == [2, 1])
    several = s.post("/v1/completions", prompt=["Hello", ids, "You"], max_tokens=24, temperature=0, logit_bias=NO_END)["choices"]
    check("several prompts are answered in order", [c["text"] for c in several] == [whole, whole, s.text("You")], several)
    check("and numbered", [c["index"] for c in several] == [0, 1, 2])
    chunks = s.stream("/v1/completions", prompt="Hello", max_tokens=24, temperature=0, logit_bias=NO_END)
    check("a streamed completion is the same", "".join(c["choices"][0]["text"] for c in chunks) == whole, chunks)
    stop = whole[3:6]
    stopped = s.post("/v1/completions", prompt="Hello", max_tokens=24, temperature=0, logit_bias=NO_END, stop=["nowhere", stop])
    check("a stop string stops", stopped["choices"][0]["text"] == whole[:whole.index(stop)] and
          stopped["choices"][0]["finish_reason"] == "stop", stopped)
    check("curl may ask", json.loads(subprocess.run(["curl", "-s", s.url + "/v1/completions", "-d",
                                                     '{"prompt":"x","max_tokens":1}'],
                                                    capture_output=True).stdout)["object"] == "text_completion")


def test_sampling(s):
    def texts(**more):
        fields = {"prompt": "Hello", "max_tokens": 20, "temperature": 2, "top_k": 0, "top_p": 1, "logit_bias": NO_END, **more}
        r = s.post("/v1/completions", **fields)
        return [c["text"] for c in r["choices"]]

    first = texts(n=3, seed=7)
    check("a seed repeats, for all choices", texts(n=3, seed=7) == first, first)
    check("choices differ", len(set(first)) == 3, first)
    check("the second choice is the next seed's first", texts(seed=8)[0] == first[1])
    check("no seed differs", texts() != texts())
    check("top_k 1 is greedy", texts(top_k=1)[0] == s.text("Hello", 20))
    check("so is a tiny top_p", texts(top_p=0)[0] == s.text("Hello", 20))
    check("and a min_p of 1", texts(min_p=1)[0] == s.text("Hello", 20))
    check("a bias forces", texts(logit_bias={"72": 100})[0] == chr(72 - 6) * 20)
    greedy = {"prompt": "Hello", "max_tokens": 40, "temperature": 0}
    favour = {**NO_END, "72": 2}
    plain = s.post("/v1/completions", logit_bias=favour, **greedy)["choices"][0]["text"]
    for name, value in ("presence_penalty", 2), ("frequency_penalty", 2), ("repeat_penalty", 50):
        text = s.post("/v1/completions", logit_bias=favour, **greedy, **{name: value})["choices"][0]["text"]
        check(f"{name} makes a token rarer", text.count("B") < plain.count("B"), plain, text)

    r = s.post("/v1/chat/completions", messages=HI, max_tokens=5, temperature=0, logit_bias=NO_END, logprobs=True, top_logprobs=4)
    content = r["choices"][0]["logprobs"]["content"]
    check("each token has its log-probability", len(content) == 5, content)
    for t in content:
        top = t["top_logprobs"]
        check("likely ones come first, and probabilities are at most 1 together",
              len(top) == 4 and all(a["logprob"] >= b["logprob"] for a, b in zip(top, top[1:])) and
              sum(math.exp(a["logprob"]) for a in top) <= 1 + 1e-6, top)
        check("bytes say what the text cannot", bytes(t["bytes"]).decode(errors="replace") == t["token"], t)
    chunks = s.stream("/v1/chat/completions", messages=HI, max_tokens=5, temperature=0, logit_bias=NO_END, logprobs=True,
                      top_logprobs=4)
    streamed = [t for c in chunks for t in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    check("a stream has the same", streamed == content, streamed)
    r = s.post("/v1/completions", prompt="Hello", max_tokens=5, temperature=0, logit_bias=NO_END, logprobs=2)
    lists = r["choices"][0]["logprobs"]
    check("completions have lists", all(len(lists[k]) == 5 for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")),
          lists)
    every = s.post("/v1/completions", prompt="Hello", max_tokens=1, temperature=0, logprobs=20, top_k=1)["choices"][0]["logprobs"]
    check("the chosen one is among them", every["token_logprobs"][0] == max(every["top_logprobs"][0].values()), every)


def test_structured(s):
    """Random weights write what the schema asks for."""
    chat = "/v1/chat/completions"
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 5}, "size": {"enum": ["big", "small"]},
                                               "age": {"type": "integer", "minimum": 0, "maximum": 99}},
              "required": ["city", "size", "age"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}
    r = s.post(chat, messages=HI, max_tokens=200, n=4, seed=1, temperature=1, response_format=form)
    for c in r["choices"]:
        v = json.loads(c["message"]["content"])
        check("an answer fits its schema", list(v) == ["city", "size", "age"] and len(v["city"]) <= 5 and
              v["size"] in ("big", "small") and 0 <= v["age"] <= 99 and c["finish_reason"] == "stop", c)
    chunks = s.stream(chat, messages=HI, max_tokens=200, seed=1, temperature=1, response_format=form)
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    check("a stream is the same", text == r["choices"][0]["message"]["content"], text)
    r = s.post("/v1/completions", prompt="Hi", max_tokens=30, response_format={"type": "json_object"})["choices"][0]
    check("an object begins as one", r["text"].lstrip().startswith("{"), r)
    form["json_schema"]["schema"] = {"type": "object", "minProperties": 7}
    status, _, r = s.ask("POST", chat, {"messages": HI, "response_format": form})
    check("what a schema may not say is told", status == 400 and r["error"]["param"] == "response_format.json_schema.schema" and
          "minProperties" in r["error"]["message"], r)


def test_stats(s, sparse):
    r = s.post("/v1/chat/completions", messages=HI, max_tokens=8, temperature=0, logit_bias=NO_END, stats=True)
    stats = r["stats"]
    layers = s.ask("GET", "/v1/models")[2]["data"][0]["sparkhawk"]["layers"]
    check("stats have a number for each layer", len(stats["active"]) == len(layers), stats)
    check("the share of active neurons is there where the layer is sparse",
          all((a is None) == (l["mlp"] == "gated") and (a is None or 0 <= a <= 1) for a, l in zip(stats["active"], layers)), stats)
    check("sparse models have such layers", any(a is not None for a in stats["active"]) == sparse, stats)
    check("sizes are there", stats["state_bytes"] > 0 and stats["cache_bytes"] > 0 and stats["tok_s"] > 0, stats)
    chunks = s.stream("/v1/completions", prompt="Hi", max_tokens=8, logit_bias=NO_END, stats=True)
    check("every chunk has them", all("stats" in c for c in chunks), chunks)
    sizes = [c["stats"]["cache_bytes"] for c in chunks]
    check("what a cache would take grows", sizes == sorted(sizes) and sizes[0] < sizes[-1], sizes)


def test_embeddings(s):
    def embed(text, **more):
        return s.post("/v1/embeddings", input=text, **more)

    r = embed(["Hello", "Hello there", "Hello"])
    v = [d["embedding"] for d in r["data"]]
    check("one for each input, in order", [d["index"] for d in r["data"]] == [0, 1, 2] and r["object"] == "list", r)
    check("of length 1", all(abs(sum(x * x for x in e) - 1) < 1e-5 for e in v))
    check("the same for the same text, whatever is beside it", v[0] == v[2] == embed("Hello")["data"][0]["embedding"] and
          v[0] != v[1])
    check("of ids too", embed(s.post("/v1/tokenize", text="Hello")["tokens"])["data"][0]["embedding"] == v[0])
    packed = base64.b64decode(embed("Hello", encoding_format="base64")["data"][0]["embedding"])
    check("in base64 they are the same", struct.unpack(f"<{len(v[0])}f", packed) ==
          tuple(struct.unpack("f", struct.pack("f", x))[0] for x in v[0]))
    check("usage counts", r["usage"]["prompt_tokens"] == 6 + 12 + 6, r["usage"])
    long = embed("abc " * 500)
    check("a long text has one", len(long["data"][0]["embedding"]) == len(v[0]))


def test_errors(s):
    chat = "/v1/chat/completions"
    cases = [
        (chat, {"messages": HI, "temperature": 3}, "temperature"), (chat, {"messages": HI, "n": "x"}, "n"), (chat, {}, "messages"),
        (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0]"),
        (chat, {"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        (chat, {"messages": HI, "tools": [{}]}, "tools"),
        (chat, {"messages": HI, "logit_bias": {"320": 1}}, "logit_bias"), (chat, {"messages": HI, "n": 99}, "n"),
        (chat, {"messages": HI, "n": 16, "logprobs": True, "top_logprobs": 20}, "top_logprobs"),
        ("/v1/completions", {"prompt": ["x"] * 7, "logprobs": 20}, "logprobs"),
        (chat, {"messages": HI, "stop": [""]}, "stop"), (chat, {"messages": HI, "response_format": {"type": "x"}},
                                                         "response_format.type"),
        ("/v1/completions", {"prompt": [320]}, "prompt"), ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": "x", "echo": True}, "echo"), ("/v1/embeddings", {"input": [""] * 600}, "input"),
        ("/v1/detokenize", {"tokens": [320]}, "tokens"), ("/v1/tokenize", {"text": 7}, "text"),
    ]
    for path, body, param in cases:
        status, _, r = s.ask("POST", path, body)
        check(f"{json.dumps(body)[:80]} is refused for {param}", status == 400 and r["error"]["param"] == param and
              r["error"]["type"] == "invalid_request_error" and r["error"]["message"], status, r)
    for body in b"", b"{", b"[]", b"{} x", b"\xff", b"[" * 100000, b'{"a":' * 5000, b'{"prompt":"\\u0000"}', b'{"n":1e999}':
        status, _, r = s.ask("POST", "/v1/completions", body)
        check(f"{body[:20]} is refused", status == 400 and r["error"]["message"], status, r)
    check("an unknown model is not there", s.ask("POST", chat, {"model": "gpt", "messages": HI})[0] == 404)
    check("an unknown address neither", s.ask("GET", "/../etc/passwd")[0] == 404 and s.ask("GET", "/v1")[0] == 404)
    for method, path, allowed in ("GET", chat, "POST"), ("HEAD", chat, "POST"), ("DELETE", "/v1/models/griffin", "GET, HEAD"):
        status, headers, _ = s.ask(method, path)
        check(f"{method} {path} is told what is allowed", status == 405 and headers["Allow"] == allowed, status, headers)
    check("none of what is off is no error", s.ask("POST", chat, {"messages": HI, "max_tokens": 1, "logprobs": False,
                                                                  "top_logprobs": 0, "tools": []})[0] == 200)
    check("a body that is too large is refused", s.ask("POST", chat, b" " * ((1 << 20) + 1))[0] == 413)
    check("and the server is there", s.alive())


def test_page(s):
    for path, kind in ("/", "text/html"), ("/page/style.css", "text/css"), ("/page/app.js", "text/javascript"):
        status, headers, body = s.ask("GET", path)
        check(f"{path} is there", status == 200 and headers["Content-Type"].startswith(kind) and body, status, headers)
        check("it may load nothing from elsewhere", "default-src 'none'" in headers["Content-Security-Policy"], headers)
        status, _, body = s.ask("GET", path, headers={"If-None-Match": headers["ETag"]})
        check("who has it is told so", status == 304 and not body, status)
    check("what it has not is not there", s.ask("GET", "/page/none.js")[0] == s.ask("GET", "/page/")[0] == 404)
    html = s.ask("GET", "/")[2].decode()
    check("the page asks nobody else", not re.search(r"https?://(?!127|localhost)", html), html)


def test_doors(s, key):
    """Host, Origin and key."""
    def get(path="/v1/models", **headers):
        return s.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    right = {"Authorization": f"Bearer {key}"}
    check("without the key nothing is told", get()[0] == 401 and get(Authorization="Bearer x")[0] == 401)
    check("nor with half of it", get(Authorization=f"Bearer {key[:-1]}")[0] == 401 and get(Authorization=f"Bearer {key}x")[0] ==
          401)
    check("with it all is", get(**right)[0] == 200)
    check("health and page are open", get("/health")[0] == 200 and get("/")[0] == 200 and get("/metrics")[0] == 401)
    check("another name is not ours", get(**right, Host="evil.example:80")[0] == 421)
    check("localhost is", get(**right, Host=f"localhost:{s.port}")[0] == 200 and get(**right, Host=f"[::1]:{s.port}")[0] == 200)
    check("and a name that was given", get(**right, Host="llm.example")[0] == 200)
    check("a foreign page may not ask", get(**right, Origin="https://evil.example")[0] == 403 and get(**right, Origin="null")[0] ==
          403)
    check("our own may", get(**right, Origin=s.url)[0] == 200)
    status, headers, _ = get(**right, Origin="https://app.example")
    check("and one that was named", status == 200 and headers["Access-Control-Allow-Origin"] == "https://app.example", headers)
    status, headers, _ = s.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://app.example"})
    check("which may ask whether it may", status == 204 and "POST" in headers["Access-Control-Allow-Methods"], status)
    check("others may not", s.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://evil.example"})[0] == 403)


def test_host():
    with Server("griffin", "--host", "127.0.0.2", host="127.0.0.2") as s:
        check("the host that it was given is its own", s.alive())
        check("others are not", s.ask("GET", "/health", headers={"Host": "127.0.0.3"})[0] == 421)


def parallel(s, jobs):
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(lambda job: job(s), jobs))


def test_parallel(s):
    """32 clients at once, of all kinds: each gets what it gets alone."""
    prompts = ["prompt %d " % i * (1 + 7 * i % 40) for i in range(16)]
    jobs = [lambda s, p=p: s.text(p, 30) for p in prompts]
    jobs += [lambda s, p=p: s.stream("/v1/completions", prompt=p, max_tokens=30, temperature=0,
                                     logit_bias=NO_END) for p in prompts[:8]]
    jobs += [lambda s, p=p: s.post("/v1/embeddings", input=p)["data"][0]["embedding"] for p in prompts[:4]]
    jobs += [lambda s, i=i: s.post("/v1/completions", prompt="Hi", n=2, seed=i, max_tokens=30)["choices"] for i in range(4)]
    alone = [job(s) for job in jobs]
    together = parallel(s, jobs)

    def text(r):
        streamed = isinstance(r, list) and isinstance(r[0], dict) and "choices" in r[0]
        return "".join(c["choices"][0]["text"] for c in r) if streamed else r

    for a, b in zip(alone, together):
        check("a text does not depend on what is made beside it", text(a) == text(b), a, b)
    m = s.metrics()
    check("passes were shared", m["pass_rows_total"] > m["passes_total"] > 0, m)


def test_leaving(s):
    """Clients that go away or do not read hold nobody up, and what is made for them ends."""
    body = json.dumps({"prompt": "Hello", "max_tokens": 1000000, "logit_bias": NO_END, "stream": True}).encode()
    ask = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    whole = ask.replace(b'"stream": true', b'"stream":false')
    cancelled = s.metrics()["requests_cancelled_total"]
    sockets = [s.socket(ask) for _ in range(4)] + [s.socket(whole) for _ in range(4)]
    for c in sockets[:4]:
        check("a stream begins at once", b"text/event-stream" in c.recv(4096))
    deadline = time.time() + 20
    while s.metrics()["sequences_running"] < 8 and time.time() < deadline:
        time.sleep(0.05)
    check("all eight are running", s.metrics()["sequences_running"] == 8, s.metrics())
    for c in sockets:
        c.close()
    while s.metrics()["sequences_running"] and time.time() < deadline:
        time.sleep(0.05)
    m = s.metrics()
    check("none is, once they have gone", m["sequences_running"] == 0 and m["requests_cancelled_total"] == cancelled + 8, m)

    slow = s.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(ask)
    start = time.time()
    texts = [s.text("Hello %d" % i) for i in range(5)]
    check("who does not read holds nobody up", all(texts) and time.time() - start < 20)
    while s.metrics()["sequences_running"] and time.time() < start + 40:
        time.sleep(0.1)
    check("and is dropped at last", s.metrics()["sequences_running"] == 0, s.metrics())
    slow.close()


def test_hostile(s):
    """Malformed requests, trickles and floods: the server answers others meanwhile."""
    post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    garbage = [b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n",
               post + b"Content-Length: -5\r\n\r\n", post + b"Content-Length: 99999999999999999999\r\n\r\n",
               b"GET / HTTP/1.1\r\nX: " + b"y" * 100000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10000 + b"\r\n",
               post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"]
    for data in garbage:
        with contextlib.suppress(OSError):
            c = s.socket(data)
            c.settimeout(0.2)
            c.recv(1000)
            c.close()
        check(f"after {data[:30]} it is there", s.alive())
    chunk = post + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n" + b" " * 65536 + b"\r\n"
    c = s.socket(chunk)
    with contextlib.suppress(OSError):
        for _ in range(64):
            c.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
    c.close()
    check("after an endless body it is there", s.alive())
    slow = [s.socket(post + b"Content-Length: 100\r\n\r\n{") for _ in range(60)]
    start = time.time()
    check("clients that send slowly hold nobody up", s.text("Hello") and time.time() - start < 10)
    for i in range(40):
        time.sleep(0.1)
        for c in slow:
            with contextlib.suppress(OSError):
                c.sendall(b" ")
    closed = 0
    for c in slow:
        c.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            try:
                closed += c.recv(100) == b""
            except ConnectionError:
                closed += 1
        c.close()
    check("and are closed in time, though bytes trickle in", closed == 60, closed)
    check("the server is there", s.alive())


def test_queue():
    with Server("griffin", "--parallel", "1", "--queue", "2", "--request-seconds", "3") as s:
        def ask(_):
            return s.ask("POST", "/v1/completions", {"prompt": "Hello", "max_tokens": 1000000, "logit_bias": NO_END})
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        refused = [a for a in answers if a[0] == 429]
        # two wait, and one runs if its turn has come before the third asks
        check("what the queue cannot hold is refused", len(refused) in (5, 6), [a[0] for a in answers])
        check("and told when to come again", all(int(a[1]["Retry-After"]) >= 1 and a[2]["error"]["type"] ==
                                                 "rate_limit_error" for a in refused))
        made = [a for a in answers if a[0] == 200]
        check("the time limit ends an answer", made and made[0][2]["choices"][0]["finish_reason"] == "length")
        late = [a for a in answers if a[0] == 504]
        check("or the wait for one", len(made) + len(late) + len(refused) == 8 and
              all(a[2]["error"]["type"] == "timeout_error" for a in late), late)


def test_slow():
    """One who does not read takes nobody's place."""
    with Server("griffin", "--parallel", "1") as s:
        body = json.dumps({"prompt": "Hello", "max_tokens": 1000000, "logit_bias": NO_END, "stream": True}).encode()
        readers = []
        for _ in range(3):
            c = s.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            readers.append(c)
        start = time.time()
        check("three do not read, and a fourth is served", s.text("Hello") and time.time() - start < 40, time.time() - start)
        while s.metrics()["sequences_running"] < 3 and time.time() < start + 40:  # it may have come before the third
            time.sleep(0.05)
        check("while they rest", s.metrics()["sequences_running"] == 3, s.metrics())
        for c in readers:
            c.close()


def test_stall():
    """Who does not read for a while goes on, after --stall-seconds it has an error; and starts nothing that waits."""
    def start(s, n):
        body = json.dumps({"prompt": ["Hello"] * n, "max_tokens": 100000, "logit_bias": NO_END, "stream": True, "logprobs": 20})
        c = s.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body.encode())
        return c

    def settle(s):
        """Waits until all that runs rests."""
        passes, deadline = -1, time.time() + 20
        while (m := s.metrics())["passes_total"] != passes and time.time() < deadline:
            passes = m["passes_total"]
            time.sleep(0.3)
        return m

    with Server("griffin", "--parallel", "1", "--stall-seconds", "4") as s:
        c = start(s, 2)  # one of the two waits
        m = settle(s)
        check("who does not read rests", m["sequences_running"] == 1 and m["requests_cancelled_total"] == 0, m)
        deadline = time.time() + 20
        while s.metrics()["sequences_running"] and time.time() < deadline:
            time.sleep(0.1)
        check("and is dropped", s.metrics()["requests_cancelled_total"] == 1, s.metrics())
        text = b""
        while not text.endswith(b"\r\n0\r\n\r\n") and (data := c.recv(1 << 16)):
            text += data
        check("which does not look like an end", b"[DONE]" not in text and b"timeout_error" in text[-300:], text[-300:])
        c.close()
    with Server("griffin", "--parallel", "1", "--stall-seconds", "60") as s:
        c = start(s, 200)
        settle(s)
        begun = time.time()
        check("many prompts of one who does not read hold nobody up", s.text("Hello") and time.time() - begun < 20)
        m = settle(s)
        check("nor do they start", m["sequences_running"] == 1, m)
        c.close()
    with Server("griffin", "--parallel", "128", "--stall-seconds", "60") as s:
        c = start(s, 128)
        settle(s)
        check("where all places are taken by such, there is one still", s.text("Hello"))
        check("for which one is dropped", s.metrics()["requests_cancelled_total"] == 1, s.metrics())
        c.close()


def test_flood():
    """More connections and larger bodies than there is room for."""
    with Server("griffin", "--connections", "20", "--max-body", "1") as s:
        idle = [s.socket() for _ in range(60)]
        trickling = [s.socket(b"GET /v1/models HTTP/1.1\r\n") for _ in range(60)]
        start = time.time()
        check("who asks for nothing makes room for who asks", s.text("Hello") and time.time() - start < 10, time.time() - start)
        for c in idle + trickling:
            c.close()
    with Server("griffin", "--max-body", "1", "--request-seconds", "3") as s:
        def resident():
            return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{s.process.pid}/status").read_text())[1])

        body = b'{"prompt":[' + b"1," * 500000 + b"1]}"  # as JSON values, 20 MB

        def ask(_):
            with contextlib.suppress(OSError, http.client.HTTPException):
                return s.ask("POST", "/v1/completions", body)[0]

        s.text("Hello")
        before = resident()
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(48)))
        check("large bodies are answered", 503 in answers and all(a in (503, 504) for a in answers), answers)
        # 16 prompts run and 8 bodies are received at a time; one body is parsed
        check("and take a bounded amount of memory", resident() - before < 200000, before, resident())
        check("the server is there", s.alive())


def test_cache(model):
    """What is kept changes nothing but the time: conversations with and without, of every kind of model."""
    def talk(s):
        """Turns of a conversation, a second one that parts from it, a regenerated answer, an edited question."""
        out, cached = [], []
        def say(messages, **more):
            r = s.post("/v1/chat/completions", messages=messages, max_tokens=40, logit_bias=NO_END, seed=3, logprobs=True, **more)
            out.append(r["choices"][0])
            cached.append(r["usage"]["prompt_tokens_details"]["cached_tokens"])
            return {"role": "assistant", "content": r["choices"][0]["message"]["content"]}
        system = [{"role": "system", "content": "Be brief. " * 30}]
        m = system + [{"role": "user", "content": "What is a heron?"}]
        m.append(say(m))
        m.append({"role": "user", "content": "And where does it live?"})
        say(m)
        say(m)
        for word in "one", "two", "three":
            say(system + [{"role": "user", "content": f"Count to {word}."}])
        say(m[:-1] + [{"role": "user", "content": "And what does it eat, please?"}])
        r = s.post("/v1/completions", prompt="The longest river " * 20, n=3, seed=5, max_tokens=20, logprobs=1)
        return out + r["choices"], cached

    with Server(model, "--cache-mb", "0") as s:
        plain, none = talk(s)
        check(f"{model}: --cache-mb 0 keeps nothing", not any(none) and s.metrics()["cache_entries"] == 0, none)
    with Server(model) as s:
        kept, cached = talk(s)
        check(f"{model}: what is kept changes nothing", kept == plain, kept, plain)
        check(f"{model}: later turns find what was kept", all(cached[i] > 250 for i in (1, 2, 5, 6)), cached)
        check(f"{model}: and again", talk(s)[0] == plain)
        check(f"{model}: the cache is counted", 0 < s.metrics()["cache_bytes"] <= 1 << 30)
    directory = pathlib.Path(f"{model}.states")
    with Server(model, "--cache-dir", str(directory)) as s:
        check(f"{model}: with files nothing changes", talk(s)[0] == plain)
    files = list(directory.iterdir())
    check(f"{model}: files are kept", len(files) > 2 and directory.stat().st_mode & 0o77 == 0, files)
    (directory / "other.ids").write_bytes(b"x")
    for f in sorted(directory.glob("*.ids"))[:1]:
        f.write_bytes(f.read_bytes()[:-1])
    for f in sorted(directory.glob("*.state"))[:2]:
        f.write_bytes(f.read_bytes()[:-1] + b"\x55")
    gone = subprocess.Popen(["true"])
    gone.wait()
    orphan, temporary = directory / f"{0:016x}-{1:016x}.state", directory / f".sparkhawk-{gone.pid}-0.tmp"
    ours = directory / f".sparkhawk-{os.getpid()}-0.tmp"
    for f in orphan, temporary, ours:
        f.write_bytes(b"x")
    os.utime(orphan, (0, 0))
    with Server(model, "--cache-dir", str(directory)) as s:
        kept, cached = talk(s)
        check(f"{model}: after a restart nothing changes, damaged files or not", kept == plain)
        check(f"{model}: and the first turn finds what was kept", cached[0] > 0, cached)
        check(f"{model}: what was left half written is gone", not orphan.exists() and not temporary.exists() and ours.exists())
    with Server(model, "--cache-dir", str(directory), "--exact") as s:
        check(f"{model}: states of other bits are let alone", talk(s)[1][0] == 0)
    with Server(model, "--cache-dir", str(directory), "--kv", "f32") as s:
        check(f"{model}: states of other sessions are let alone", talk(s)[1][0] == 0)
    with Server(model, "--cache-dir", str(directory), "--cache-dir-mb", "1", "--cache-mb", "1") as s:
        check(f"{model}: a small cache changes nothing", talk(s)[0] == plain)
        check(f"{model}: and is small", s.metrics()["cache_bytes"] <= 1 << 20 and s.metrics()["cache_file_bytes"] <= 1 << 20,
              s.metrics())


def test_log():
    with Server("sparkhawk", "--log") as s:
        s.ask("GET", "/x%0Ay%1B[2J")
        s.log.seek(0)
        check("a log line is one line, and plain", re.search(r"^GET /x\?y\?\[2J 404 \d+\.\d+ s$", s.log.read(), re.M))


def test_drain():
    with Server("griffin", "--drain-seconds", "60") as s:
        c = http.client.HTTPConnection("127.0.0.1", s.port)
        body = {"prompt": "Hello", "max_tokens": 10000, "temperature": 0, "logit_bias": NO_END, "stream": True}
        c.request("POST", "/v1/completions", json.dumps(body))
        r = c.getresponse()
        r.read(100)
        s.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        status, headers, refused = s.ask("POST", "/v1/completions", {"prompt": "x"})
        check("who comes late is told so", status == 503 and refused["error"]["code"] == "draining" and headers["Retry-After"],
              status)
        check("health says so", s.ask("GET", "/health")[0] == 503)
        check("who was there is served to the end", r.read().endswith(b"data: [DONE]\n\n"))
        check("then it ends", s.process.wait(20) == 0)


def test_client(s):
    """The real one."""
    global skipped
    if not openai:
        print("skipped: the openai package is not installed")
        skipped += 1
        return
    c = openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0)
    check("openai: models", [m.id for m in c.models.list()] == ["griffin"])
    r = c.chat.completions.create(model="griffin", messages=HI, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2, n=2)
    check("openai: chat", len(r.choices) == 2 and r.usage.prompt_tokens == 18 and r.choices[1].logprobs.content, r)
    text = r.choices[0].message.content
    stream = c.chat.completions.create(model="griffin", messages=HI, max_tokens=10, temperature=0, stream=True,
                                       stream_options={"include_usage": True})
    chunks = list(stream)
    check("openai: stream", "".join(k.choices[0].delta.content or "" for k in chunks if k.choices) == text and chunks[-1].usage,
          chunks)
    r = c.completions.create(model="griffin", prompt="Hello", max_tokens=10, logprobs=1, stop=["\n"])
    check("openai: completions", r.choices[0].finish_reason in ("stop", "length") and r.usage.prompt_tokens == 6, r)
    e = c.embeddings.create(model="griffin", input=["a", "b"])
    check("openai: embeddings", len(e.data) == 2 and abs(sum(x * x for x in e.data[0].embedding) - 1) < 1e-5)
    for error, more in (openai.BadRequestError, {"temperature": 5.0}), (openai.NotFoundError, {"model": "gpt-4"}):
        try:
            c.chat.completions.create(**{"model": "griffin", "messages": HI, **more})
            check(f"openai: {error.__name__}", False)
        except error as e:
            check(f"openai: {error.__name__}", e.body["message"] and e.param in ("temperature", "model"), e.body)
    with c.chat.completions.create(model="griffin", messages=HI, max_tokens=100000, stream=True, logit_bias=NO_END) as stream:
        next(iter(stream))
    deadline = time.time() + 10
    while s.metrics()["sequences_running"] and time.time() < deadline:
        time.sleep(0.05)
    check("openai: a stream that is closed is cancelled", s.metrics()["sequences_running"] == 0)


def main():
    limits = ["--max-body", "1", "--receive-seconds", "3", "--stall-seconds", "3"]
    with Server("griffin", *limits) as s:
        for test in (test_interface, test_sampling, test_structured, test_embeddings, test_errors, test_page, test_client,
                     test_parallel, test_leaving, test_hostile):
            test(s)
        test_stats(s, sparse=False)
    with Server("sparkhawk") as s:
        test_stats(s, sparse=True)
    with Server("gemma3") as s:
        test_parallel(s)
    with Server("griffin", "--allow-host", "llm.example", "--cors", "https://app.example", env={"SPARKHAWK_API_KEY": "a key"}) as s:
        test_doors(s, "a key")
    test_host()
    test_queue()
    test_slow()
    test_stall()
    test_flood()
    test_log()
    for model in "griffin", "gemma3", "sparkhawk":
        test_cache(model)
    test_drain()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
