"""The programs of README.md and python/README.md run as they stand there."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

from models import ROOT, speaking


class Readme(unittest.TestCase):
    def test_examples_run(self):
        examples = [(path, code) for path in (ROOT / "README.md", ROOT / "python" / "README.md")
                    for code in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)]
        self.assertGreater(len(examples), 3)
        with tempfile.TemporaryDirectory() as folder:
            os.rename(speaking("gemma3", folder), os.path.join(folder, "gemma.gguf"))
            for path, code in examples:
                environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
                done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True,
                                      check=False)
                self.assertEqual(done.returncode, 0, f"{path}: {code}\n{done.stderr}")
                self.assertTrue(done.stdout)
