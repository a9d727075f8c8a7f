"""A server with a small model, a page in a browser, and the loop over tests."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import traceback

from chromium import Chromium, Failed, find

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
counts = {"passed": 0, "failed": 0, "skipped": 0}


def check(what, holds, detail=""):
    """`what` is a sentence that `holds` confirms."""
    counts["passed" if holds else "failed"] += 1
    if not holds:
        print(f"not true: {what} {detail}", flush=True)


def conversation(messages, title="Kept", ident="kept"):
    """As the page keeps it."""
    return {"id": ident, "title": title, "named": True, "updated": 1700000000000, "messages": messages}


class Server:
    """The program with a small spark model, on a port that it keeps over a restart."""

    def __init__(self, folder):
        script = f'. "{ROOT}/tests/cli/lib.sh"; speaking spark && cp -r speaking "$1"'
        subprocess.run(["bash", "-c", script, "bash", f"{folder}/model"], check=True)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self, *options):
        command = [os.environ["SPARKHAWK"], "serve", "-m", f"{self.folder}/model", "--port", str(self.port), "--threads", "1",
                   "--context", "1000000"]
        with open(f"{self.folder}/log", "ab") as log:
            self.process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"the server does not start: {pathlib.Path(self.folder, 'log').read_text()}")

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None


class Page(Chromium):
    """What a test does, in the page's own words."""

    def fresh(self, conversations=(), settings=None, path="/"):
        """The page as a new visitor finds it, or one with these conversations."""
        self.viewport(1200, 800)
        self.prefers(color_scheme="light")
        self.open()
        self.run("localStorage.clear(), sessionStorage.clear()")
        kept = {f"chat.{one['id']}": one for one in conversations}
        kept["index"] = [{name: one[name] for name in ("id", "title", "updated")} for one in conversations]
        kept["settings"] = {"max_tokens": 60, "seed": 1, **(settings or {})}
        for name, value in kept.items():
            self.run(f"probe.keep({json.dumps(name)}, {json.dumps(value)})")
        self.open(path)
        self.wait("probe.$('#model')?.textContent")

    def endless(self):
        """From now on answers do not end by themselves: <eos> and <end_of_turn> are forbidden."""
        self.run("probe.spy({ logit_bias: { 1: -100, 5: -100 } })")

    def say(self, text):
        self.run("probe.$('#text').focus()")
        self.type(text)
        self.press("Enter")

    def idle(self):
        """Until no answer is being written."""
        return self.wait("probe.$('#stop').hidden && probe.$('.answer') && !probe.$('.writing')", 20)

    def kept(self):
        """The conversation that the address names, as the browser keeps it."""
        return self.run("probe.kept('chat.' + location.hash.slice(1))")


def run(tests, folder):
    server, page = Server(folder), None
    try:
        server.start()
        page = Page(server.origin)
        page.before_all(pathlib.Path(__file__).with_name("probe.js").read_text(encoding="utf-8"))
        for test in tests:
            start = time.monotonic()
            page.complaints.clear()
            page.expected.clear()
            try:
                test(*(page, server)[:test.__code__.co_argcount])
            except Failed:
                check(f"{test.__name__} runs to its end", False, traceback.format_exc())
            check(f"{test.__name__}: the console is quiet and nothing leaves the origin", page.complaints == [], page.complaints)
            print(f"{test.__name__}: {time.monotonic() - start:.1f} s", flush=True)
    finally:
        if page:
            page.close()
        server.stop()


def main(tests):
    """Runs the tests that the arguments name, or all."""
    if find():
        with tempfile.TemporaryDirectory() as folder:
            run([test for test in tests if not sys.argv[1:] or test.__name__[5:] in sys.argv[1:]], folder)
    else:
        print("skipped: the page: chromium is not installed")
        counts["skipped"] += 1
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    sys.exit(counts["failed"] > 0)
