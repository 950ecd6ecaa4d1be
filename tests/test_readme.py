"""README's Python runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
SHELL = "".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL))
COMMANDS = sorted(set(re.findall(r"^xfer (\w+)", SHELL, re.MULTILINE)))


def run(code, folder):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_five_textbook_steps_run(tmp_path):
    answer = run(SNIPPETS[0], tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(r"\{1: [\d.]+, 2: [\d.]+\}|\{2: [\d.]+, 1: [\d.]+\}", answer.stdout.strip())


def test_ten_lines_open_a_bundle_and_act(tmp_path, shared_bundle):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cartpole.bundle").symlink_to(shared_bundle)
    answer = run(SNIPPETS[1], tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_readme_names_exists(command):
    from xfer import cli

    assert command in cli.COMMANDS


def test_the_tree_names_files_that_exist():
    tree = re.search(r"## What is where\n\n```\n(.*?)```", README.read_text(), re.DOTALL)[1]
    folder = ""
    for line in tree.splitlines():
        names = line.split("  ")[0].strip() if not line.startswith(" ") else re.split(r"\s{2,}", line.strip())[0]
        if not line.startswith(" "):
            folder = names
            assert (README.parent / folder).is_dir(), folder
        else:
            for name in names.split(", "):
                assert (README.parent / folder / name).exists(), name
