"""What the suite sees to by itself: of every command that is refused, and of every bundle that is made."""

import subprocess
import sys

import onnx
import pytest

from export.bundle.manifest import Build
from export.bundle.writer import BundleWriter
from tests import refusals
from xfer import cli
from xfer.errors import UsageError


def test_a_refusal_in_two_lines_or_with_a_traceback_fails_its_test(monkeypatch, tmp_path):
    def two(args):
        print("xfer: a first line", file=sys.stderr)
        raise UsageError("a second one")

    def crash(args):
        raise ZeroDivisionError("what nobody expected")

    from export.commands import verify

    monkeypatch.setattr(verify, "main", two)
    with pytest.raises(AssertionError, match="a first line"):
        cli.main(["verify", str(tmp_path)])
    monkeypatch.setattr(verify, "main", crash)
    with pytest.raises(AssertionError, match="did not expect this"):
        cli.main(["verify", str(tmp_path)])
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify", str(tmp_path), "--debug"])


def test_commands_in_processes_of_their_own_are_looked_at_too():
    with pytest.raises(AssertionError, match="Traceback"):
        subprocess.run([sys.executable, "-c", "raise OSError", "xfer.cli"], capture_output=True, check=False)
    assert refusals.is_a_command((sys.executable, "-m", "xfer.cli"))
    assert not refusals.is_a_command("ls")


def test_an_error_that_nobody_expected_is_one_line_that_names_its_place(monkeypatch, capsys):
    def crash(words):
        raise OSError(28, "No space left\non device")

    monkeypatch.setattr(refusals, "check", lambda *said: None)
    monkeypatch.setattr(cli, "run", lambda command, words: crash(words))
    assert cli.main(["doctor"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("xfer: OSError: [Errno 28] No space left on device (test_suite.py:")
    assert line.endswith("in crash; --debug shows the traceback)\n")


def test_an_onnx_that_the_checker_refuses_enters_no_bundle(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[1] x) => (float[1] y) { y = No(x) }'
    )
    (tmp_path / "build").mkdir()
    onnx.save(model, tmp_path / "build" / "policy.onnx")
    with pytest.raises(onnx.checker.ValidationError, match="No"):
        BundleWriter(tmp_path / "bundle").add(Build("onnx-fp32", "built"), tmp_path / "build")
