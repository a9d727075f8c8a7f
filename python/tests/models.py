"""Small models and the program, for the tests."""
import contextlib
import json
import os
import pathlib
import subprocess
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = os.environ["SPARKHAWK"]


def golden(name):
    return str(ROOT / "tests" / "golden" / name)


def speaking(name, folder):
    """The golden model with a tokenizer of bytes, in the folder; its path."""
    path = os.path.join(folder, name)
    script = f'. "{ROOT}/tests/cli/lib.sh"; speaking "$1" && cp -r speaking "$2"'
    subprocess.run(["bash", "-c", script, "bash", name, path], check=True)
    return path


@contextlib.contextmanager
def serving(model):
    """A function that posts JSON to `sparkhawk serve`."""
    process = subprocess.Popen([PROGRAM, "serve", "-m", model, "--port", "0", "--threads", "1"], stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[-1]

        def ask(path, body):
            request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)

        yield ask
    finally:
        process.terminate()
        process.communicate(timeout=20)


def run(*arguments):
    """What `sparkhawk run --json` prints."""
    done = subprocess.run([PROGRAM, "run", "--json", *arguments], capture_output=True, check=True)
    return json.loads(done.stdout)
