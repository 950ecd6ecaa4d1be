"""What `xfer doctor` says of this machine, asked through a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from export import targets
from export.libraries import cuda


@pytest.fixture(scope="module")
def doctor():
    """What it prints, and its object."""
    words = [sys.executable, "-m", "xfer.cli", "doctor", "--json"]
    env = {**os.environ, "COLUMNS": "200"}
    answer = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert answer.returncode == 0, answer.stderr
    *table, line = answer.stdout.splitlines()
    return "\n".join(table), json.loads(line)


def test_it_says_what_the_machine_lacks_to_run_each_target_at_each_place(doctor):
    table, answer = doctor
    rows = {row["target"]: row for row in answer["targets"]}
    assert [*rows] == targets.names()
    for name, row in rows.items():
        module = targets.load(name)
        assert row["runnable"] == (module.runnable("") is None)
        assert row["run"] == {place: module.runnable(place) or "" for place in ("", *module.PLACES)}
        assert name in table
        assert all(f"@{place}" in table for place in module.PLACES)
        assert row["reason"] or (row["available"] and row["runnable"])
    lacking = cuda.missing()
    assert all(reason in rows["tensorrt"]["reason"] for reason in lacking)
    assert rows["tensorrt"]["runnable"] or lacking


def test_without_a_driver_it_names_the_driver_and_not_the_library_that_is_there(doctor):
    if not importlib.util.find_spec("tensorrt_rtx"):
        pytest.skip("needs TensorRT for RTX: pip install 'xfer-policy[tensorrt-rtx]'")
    if not cuda.missing():
        pytest.skip("this machine has an NVIDIA GPU")
    (row,) = [row for row in doctor[1]["targets"] if row["target"] == "tensorrt"]
    assert "NVIDIA" in row["run"][""]
    assert "install" in row["run"][""]
    assert "TensorRT is not installed" not in row["run"][""]


def test_a_library_that_is_installed_and_does_not_work_is_no_yes(monkeypatch):
    from export.commands.doctor import look

    def broken(place=""):
        raise OSError("libcudart.so.13: cannot open shared object file")

    eager, onnx, torchscript = (targets.load(name) for name in ("eager", "onnx", "torchscript"))
    monkeypatch.setattr(eager, "runnable", broken)
    monkeypatch.setattr(torchscript, "available", broken)
    monkeypatch.setattr(onnx, "runnable", lambda place: None)
    monkeypatch.setattr(onnx, "try_out", lambda place: "it does not add" if place == "cuda" else None)
    states = {state.target: state for state in look()}
    for said in (states["eager"].run[""], states["torchscript"].export):
        assert said.startswith("OSError: libcudart.so.13: cannot open shared object file")
    assert (states["onnx"].run[""], states["onnx"].run["cuda"]) == (None, "it does not add")
