"""A headless Chromium with one tab, driven through the DevTools protocol over a pair of pipes: nothing but the standard library."""
import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio",
         "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",  # a mouse
         "--no-default-browser-check", "--disable-features=Translate,OptimizationHints,MediaRouter", "--lang=en"]

# name: (DevTools' code, Windows' key number, the text that it types)
KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, None), "Tab": ("Tab", 9, None), "ArrowUp": ("ArrowUp", 38, None),
        "ArrowDown": ("ArrowDown", 40, None), "Delete": ("Delete", 46, None), "F2": ("F2", 113, None), "Space": ("Space", 32, " "),
        "/": ("Slash", 191, "/"), "?": ("Slash", 191, "?")}
MODIFIERS = {"Alt": 1, "Control": 2, "Shift": 8}


def find():
    """The browser's path, or None."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Failed(Exception):
    """The browser refused a command, or a script in the page threw."""


class Chromium:
    """`origin` is the only place that the page may ask for anything. What it asks elsewhere, and whatever its console reports as an
    error, is collected in `complaints`."""

    def __init__(self, origin):
        self.origin = origin
        self.complaints = []
        self.expected = []  # parts of complaints that do not count
        self.fakes = []     # [(part of a URL, answer)]: see `answering`
        self.replies = {}
        self.arrived = threading.Condition()
        self.last = 0
        self.session = None
        self.home = tempfile.mkdtemp(prefix="chromium-")
        self.process, self.to, self.back = self._start()
        threading.Thread(target=self._read, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _start(self):
        """Commands go in at descriptor 3 of the browser, answers come out at 4. They are moved out of the way first."""
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in pair]
        command_out, command_in, answer_out, answer_in = ends

        def place():
            os.dup2(command_out, 3)
            os.dup2(answer_in, 4)

        environment = {**os.environ, "HOME": self.home}
        command = [find(), *FLAGS, f"--user-data-dir={self.home}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, preexec_fn=place, pass_fds=(3, 4), env=environment, **quiet)
        os.close(command_out)
        os.close(answer_in)
        return process, os.fdopen(command_in, "wb", buffering=0), os.fdopen(answer_out, "rb")

    def _read(self):
        rest = b""
        while piece := os.read(self.back.fileno(), 1 << 16):
            *messages, rest = (rest + piece).split(b"\0")
            for text in messages:
                message = json.loads(text)
                if "id" not in message:
                    self._event(message["method"], message.get("params", {}))
                with self.arrived:
                    self.replies[message.get("id")] = message
                    self.arrived.notify_all()
        with self.arrived:
            self.back.close()
            self.arrived.notify_all()

    def _event(self, method, params):
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith((self.origin + "/", "data:", "blob:" + self.origin, "about:")):
                self._complain(f"a request to {url}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self._complain(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self._complain(f"console: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self._complain(f"exception: {details['text']} {details.get('exception', {}).get('description', '')}")
        elif method == "Fetch.requestPaused":
            self._fake(params)

    def _complain(self, text):
        if not any(part in text for part in self.expected):
            self.complaints.append(text)

    def _send(self, method, params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        return self.last

    def call(self, method, timeout=20, **params):
        with self.arrived:
            number = self._send(method, params)
            if not self.arrived.wait_for(lambda: number in self.replies or self.back.closed, timeout):
                raise Failed(f"{method}: no answer in {timeout} s")
            reply = self.replies.pop(number, {"error": "the browser is gone"})
        if "error" in reply:
            raise Failed(f"{method}: {reply['error']}")
        return reply["result"]

    def close(self):
        with contextlib.suppress(Failed, OSError):
            self.session = None
            self.call("Browser.close", timeout=5)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    # ---- answers in the server's stead ----

    @contextlib.contextmanager
    def answering(self, part, status, body, headers=()):
        """Requests whose URL holds `part` get this answer."""
        self.fakes.append((part, status, body, headers))
        self.call("Fetch.enable", patterns=[{"urlPattern": f"*{part}*"}])
        yield
        self.call("Fetch.disable")
        self.fakes.pop()

    def _fake(self, params):
        part, status, body, headers = self.fakes[-1]
        listed = [{"name": name, "value": value} for name, value in dict(headers).items()]
        with self.arrived:
            self._send("Fetch.fulfillRequest", {"requestId": params["requestId"], "responseCode": status, "responseHeaders": listed,
                                                "body": base64.b64encode(body.encode()).decode()})

    # ---- the page ----

    def before_all(self, script):
        """Runs in every document from now on, before its own scripts."""
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, path="/"):
        """Another document, also where the address differs in its fragment alone."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=self.origin + path)
        self.wait("document.readyState === 'complete'")

    def reload(self):
        self.run("window.old = true")
        self.call("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'")

    def run(self, script):
        """The value of an expression in the page; promises are waited for."""
        reply = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in reply:
            raise Failed(f"{script}: {reply['exceptionDetails'].get('exception', {}).get('description')}")
        return reply["result"].get("value")

    @contextlib.contextmanager
    def counting(self):
        """Code that is loaded in here is compiled with counters, for `work`."""
        self.call("Profiler.enable")
        self.call("Profiler.startPreciseCoverage", callCount=True, detailed=True)
        yield
        self.call("Profiler.disable")

    def work(self, script):
        """How often the blocks of the page's own code run for an expression, all together: a measure that the machine's load leaves
        alone. What the browser does within a call is not in it."""
        self.call("Profiler.takePreciseCoverage")  # from here on
        self.run(script)
        scripts = self.call("Profiler.takePreciseCoverage")["result"]
        ours = [f for s in scripts if s["url"].startswith(self.origin + "/page/") for f in s["functions"]]
        return sum(r["count"] for f in ours for r in f["ranges"])

    def wait(self, condition, seconds=10):
        """Until the expression is true; whether it became so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(Failed):  # a page that is being replaced
                if self.run(f"Boolean({condition})"):
                    return True
            time.sleep(0.02)
        return False

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")

    def count(self, selector):
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def click(self, selector):
        """With the mouse: whatever lies on top gets it."""
        x, y = self.run(f"""(() => {{
            const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{ block: "nearest" }});
            const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2];
        }})()""")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, keys):
        """`Enter`, `Alt+n`, `Shift+Tab`."""
        *held, name = keys.split("+")
        code, number, text = KEYS.get(name) or (f"Key{name.upper()}", ord(name.upper()), name)
        modifiers = sum(MODIFIERS[one] for one in held)
        key = name if text in (None, "\r") else text
        event = {"code": code, "key": key, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        typed = {"text": text} if text and not modifiers & ~MODIFIERS["Shift"] else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **event, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def viewport(self, width, height, phone=False):
        scale = 2 if phone else 1
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefers(self, **features):
        """prefers(color_scheme="dark", reduced_motion="reduce")"""
        listed = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
