"""Commands on a terminal that is not UTF-8, as latin-1 or plain ASCII; names of users are not ASCII either."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.report import terminal
from benchmarks.report.conclusion import conclude
from export.targets import eager
from tests.benchmarks.report.sample_report import sample_report
from tests.chance_task import SAME, seeded, small_bundle
from xfer import cli, tasks

DASH = "\N{EN DASH}"
NAME = f"böt ✓ π{DASH}日本.bundle"


@pytest.fixture(params=["latin-1", "ascii"])
def on_terminal(request):
    """Runs something on a terminal of that encoding; gives its result, and what it wrote to stdout and stderr."""

    def run(function, *args):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=request.param, write_through=True) for _ in range(2)]
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            result = function(*args)
        return result, *(stream.buffer.getvalue().decode(request.param) for stream in streams)

    return run


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv(tasks.TRUSTED, seeded().name)
    return small_bundle(tmp_path / NAME).path


def test_tables_and_reasons_are_printed_and_keep_their_columns(bundle, on_terminal, monkeypatch):
    monkeypatch.setattr(eager, "runnable", lambda place: f"Größe {DASH} π")
    status, out, _ = on_terminal(cli.main, ["verify", str(bundle), "--pairs", "0"])
    heading, *rows = [line for line in out.splitlines() if line.startswith(("status", "provisional", "built"))]
    assert status == 0
    assert "score d" in heading
    assert rows[1].index("100.0%") + 6 == heading.index("agree") + 5
    assert " - ?" in out
    assert on_terminal(cli.main, ["doctor"])[0] == 0


def test_a_refusal_names_a_file_that_the_terminal_cannot_spell(bundle, on_terminal):
    shutil.rmtree(bundle)
    status, _, errors = on_terminal(cli.main, ["verify", str(bundle)])
    (line,) = errors.strip().splitlines()
    assert status == 1
    assert line.endswith("?-??.bundle is not a bundle: it has no manifest.json.")
    assert "Unknown command 'no-such'" in on_terminal(cli.main, [f"no{DASH}such"])[2]


def test_json_is_ascii_everywhere(bundle, on_terminal):
    status, out, _ = on_terminal(cli.main, ["pack", str(bundle), "--variant", SAME, "--json"])
    assert status == 0
    assert NAME.removesuffix(".bundle") in str(json.loads(out.splitlines()[-1]))


def test_help_and_a_report_are_drawn(on_terminal):
    def draw():
        with pytest.raises(SystemExit):
            cli.main(["bench", "--help"])
        report = sample_report()
        terminal.show(report, conclude(report), {"html": f"/tmp/{NAME}/report.html"})

    out = on_terminal(draw)[1]
    assert "--deadline-ms" in out
    assert "Reward d" in out


def test_a_process_of_its_own_prints_too():
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "xfer.cli", f"train{DASH}"]
    done = subprocess.run(words, capture_output=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 2
    assert done.stderr.decode("ascii").startswith("xfer: Unknown command 'train")
