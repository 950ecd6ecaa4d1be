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
