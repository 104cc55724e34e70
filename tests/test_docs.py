"""Code blocks of the README and the docs run as they stand, in order, one namespace a page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.table import pages

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    namespace = {"__name__": "__main__"}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(page), "exec"), namespace)
        else:
            run_commands(code)


def test_figures_are_those_of_the_newest_run():
    for page, text in pages().items():
        assert page.read_text(encoding="utf-8") == text, "run python -m benchmarks.table"


def run_commands(block):
    """Each `$ lowdim ...` line runs; the lines below it are shown for the reader."""
    for line in block.splitlines():
        if line.startswith("$ lowdim "):
            tool = shutil.which("lowdim", path=str(Path(sys.executable).parent))
            words = line.removeprefix("$ lowdim ").split("#")[0].split()
            done = subprocess.run([tool, *words], capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
