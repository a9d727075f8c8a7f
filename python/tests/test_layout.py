"""What the package reads out of sparkhawk.h is what a C compiler reads there."""
import ctypes
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from models import ROOT

from sparkhawk import Status, Stop, _library
from sparkhawk._header import Header

COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


class Layout(unittest.TestCase):
    @unittest.skipIf(COMPILER is None, "no C compiler to compare structures with")
    def test_structures_and_constants(self):
        mine, questions = [], []
        for name, struct in _library.S.items():
            mine.append(ctypes.sizeof(struct))
            questions.append(f"sizeof({name})")
            for field, *_ in struct._fields_:
                at = getattr(struct, field)
                mine += [at.offset, at.size]
                questions += [f"offsetof({name}, {field})", f"sizeof((({name} *)0)->{field})"]
        for values in _library.header.enums.values():
            for name, value in values.items():
                mine.append(value)
                questions.append(f"(size_t){name}")
        lines = "".join(f'    printf("%zu\\n", {question});\n' for question in questions)
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "layout.c")
            source.write_text(f"#include <sparkhawk.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{lines}}}\n")
            subprocess.run([COMPILER, "-I", ROOT / "include", source, "-o", source.with_suffix("")], check=True)
            theirs = list(map(int, subprocess.run([source.with_suffix("")], capture_output=True, check=True).stdout.split()))
        for question, one, other in zip(questions, mine, theirs):
            self.assertEqual(one, other, question)
        self.assertGreater(len(questions), 50)

    def test_every_declaration_is_read(self):
        text = (ROOT / "include" / "sparkhawk.h").read_text()
        declared = text.count("\nSHK_API ")
        self.assertEqual(len(_library.header.functions), declared)
        self.assertEqual(len(_library.S), text.count("typedef struct ") - len([line for line in text.split("\n") if line.startswith(
            "typedef struct ") and line.split("/*")[0].rstrip().endswith(";") and "{" not in line]))

    def test_what_it_cannot_read_is_an_error(self):
        for text in ("typedef struct a { int x[2][3]; } a;", "SHK_API int f(int (*x[2])(void));"):
            with self.assertRaises(ValueError):
                Header(text)

    def test_enumerations(self):
        self.assertEqual({f"SHK_E_{one.name}": int(one) for one in Status} | {"SHK_OK": 0}, _library.header.enums["shk_status"])
        self.assertEqual({f"SHK_STOP_{one.name}": one.value for one in Stop}, _library.header.enums["shk_stop"])

    def test_version(self):
        self.assertIn(f'version = "{_library.header.version}"', (ROOT / "python" / "pyproject.toml").read_text())


class Finding(unittest.TestCase):
    def run_python(self, folder, **environment):
        kept = {name: value for name, value in os.environ.items() if name != "SPARKHAWK_LIBRARY"}
        script = "import sparkhawk._library as l; print(l.lib._name)"
        return subprocess.run(["python3", "-c", script], cwd=folder, env={**kept, "PYTHONPATH": folder, **environment}, text=True,
                              capture_output=True, check=False)

    def test_where_the_library_is_looked_for(self):
        library = os.environ["SPARKHAWK_LIBRARY"]
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "python" / "sparkhawk", os.path.join(folder, "deep", "sparkhawk"))
            deep = os.path.join(folder, "deep")
            named = self.run_python(deep, SPARKHAWK_LIBRARY=library)
            self.assertEqual(named.stdout.strip(), library)
            wrong = self.run_python(deep, SPARKHAWK_LIBRARY="/no/such/library.so")
            self.assertIn("ImportError: the library cannot be loaded: /no/such/library.so", wrong.stderr)
            os.mkdir(os.path.join(folder, "build"))
            for place in (os.path.join(folder, "build", "libsparkhawk.so"), os.path.join(deep, "sparkhawk", "libsparkhawk.so")):
                os.symlink(library, place)
                beside = os.path.realpath(os.path.dirname(place)) + "/libsparkhawk.so"
                self.assertEqual(self.run_python(deep).stdout.strip(), beside)

    def test_another_version_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "python" / "sparkhawk", os.path.join(folder, "sparkhawk"))
            header = pathlib.Path(folder, "sparkhawk", "sparkhawk.h")
            text = header.read_text()
            header.write_text(text.replace(f'SHK_VERSION "{_library.header.version}"', 'SHK_VERSION "99"'))
            self.assertIn("this package is for 99", self.run_python(folder, SPARKHAWK_LIBRARY=_library.lib._name).stderr)
            header.write_text(text + "\nSHK_API int shk_from_the_future(void);\n")
            self.assertIn("has no shk_from_the_future", self.run_python(folder, SPARKHAWK_LIBRARY=_library.lib._name).stderr)


class Types(unittest.TestCase):
    @unittest.skipUnless(shutil.which("mypy"), "mypy is not installed")
    def test_strict(self):
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(["mypy", "--cache-dir", cache], cwd=ROOT / "python", capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
