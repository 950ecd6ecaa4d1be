"""What commands print where a terminal has 80 columns: fixed data in, these very lines out."""

import itertools
import os
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle.machine import Machine
from export.bundle.manifest import Build, FileFact
from export.bundle.record import Verification
from export.commands.console import (
    WIDTH,
    advice,
    build_lines,
    command_lines,
    fault_summary,
    finding_lines,
    next_lines,
    reason_lines,
    verdict_lines,
)
from export.commands.doctor import State, as_row, doctor_lines
from export.verification.fault_injection.inject import FaultInjection, Finding

MACHINE = Machine("AMD EPYC 9R14 96-Core Processor", 2, "avx512_vnni", 2**34, "Linux 6.1", "3.11.7")
PYTORCH = "PyTorch is not installed: pip install 'xfer-policy[train]'"
DRIVER = "no NVIDIA GPU with a driver (libcuda.so.1, on a Jetson part of JetPack): apt-get install nvidia-driver"
BINDINGS = "cuda-bindings, which holds the GPU's buffers, is not installed: pip install cuda-bindings"
WHEEL = (
    "this wheel of onnxruntime has no OpenVINOExecutionProvider: pip uninstall onnxruntime onnxruntime-gpu"
    " && pip install 'xfer-policy[onnx-openvino]'"
)
STATES = [
    State("eager", PYTORCH, {"": PYTORCH, "cuda": PYTORCH}),
    State("onnx", PYTORCH, {"": None, "cuda": None, "openvino": WHEEL}),
    State("tensorrt", PYTORCH, {"": f"{DRIVER}; {BINDINGS}"}),
]
DOCTOR = """\
AMD EPYC 9R14 96-Core Processor, 2 cores, no GPU

target    export  run  run with
eager     no      no   @cuda no
onnx      no      yes  @cuda yes, @openvino no
tensorrt  no      no

Missing here:
  PyTorch is not installed
    needed to export eager, onnx, tensorrt, and to run eager, eager@cuda
      pip install 'xfer-policy[train]'
  this wheel of onnxruntime has no OpenVINOExecutionProvider
    needed to run onnx@openvino
      pip uninstall onnxruntime onnxruntime-gpu && \\
        pip install 'xfer-policy[onnx-openvino]'
  no NVIDIA GPU with a driver (libcuda.so.1, on a Jetson part of JetPack)
    needed to run tensorrt
      apt-get install nvidia-driver
  cuda-bindings, which holds the GPU's buffers, is not installed
    needed to run tensorrt
      pip install cuda-bindings"""

MORE = "reward: 129 more clean pairs needed (xfer verify --full)"
PASSED = {"max_abs_diff": 3.814697265625e-06, "agreement": 1.0, "regret": 0.0, "pairs": 20}
VERDICTS = {
    "eager-fp32": Verification(
        "verified",
        "reward",
        "the reference itself",
        **{**PASSED, "max_abs_diff": 0.0},
        reward_delta=0.0,
        reward_interval=(0.0, 0.0),
    ),
    "onnx-fp32": Verification("provisional", "reward", MORE, **PASSED, reward_delta=0.0, reward_interval=(-58.3, 58.3)),
    "onnx-int8": Verification(
        "provisional",
        "reward",
        MORE,
        **{**PASSED, "max_abs_diff": 0.0712, "agreement": 0.984, "regret": 0.000412},
        reward_delta=-1.25,
        reward_interval=(-60.4, 57.9),
    ),
    "torchscript-fp32": Verification(
        "rejected",
        "numbers",
        "numbers: score differs by 0.1 at golden step 3 (batch 1, row 0), allowed 0.01",
        max_abs_diff=0.1,
    ),
    "tensorrt-fp16": Verification("built", reason=f"not run here: {DRIVER}; {BINDINGS}"),
    "tensorrt-int8": Verification("built", reason=f"not run here: {DRIVER}; {BINDINGS}"),
}
VERIFY = """\
status       variant           score Δ  agree  regret             reward Δ pairs
verified     eager-fp32              0 100.0%       0   +0.00 [+0.0, +0.0]    20
provisional  onnx-fp32         3.8e-06 100.0%       0 +0.00 [-58.3, +58.3]    20
provisional  onnx-int8           0.071  98.4% 0.00041 -1.25 [-60.4, +57.9]    20
rejected     torchscript-fp32      0.1
built        tensorrt-fp16
built        tensorrt-int8

  eager-fp32
    the reference itself
  onnx-fp32, onnx-int8
    reward: 129 more clean pairs needed (xfer verify --full)
  torchscript-fp32
    numbers: score differs by 0.1 at golden step 3 (batch 1, row 0), allowed
      0.01
  tensorrt-fp16, tensorrt-int8
    not run here: no NVIDIA GPU with a driver (libcuda.so.1, on a Jetson part of
      JetPack):
      apt-get install nvidia-driver
    cuda-bindings, which holds the GPU's buffers, is not installed:
      pip install cuda-bindings"""

WORSE = (
    "reward: looks worse (mean loss 275.00% of the scale over 20 pairs): 35 more pairs decide; the bound is of the"
    " clipped loss: 1 of 20 pairs lost or gained more than the scale"
)
LOOKS_WORSE = """\
status       variant    agree                  reward Δ  pairs
provisional  onnx-int8  98.4%  -5500.00 [-478.2, +12.5]     20

  onnx-int8
    reward: looks worse (mean loss 275.00% of the scale over 20 pairs): 35 more
      pairs decide; the bound is of the clipped loss: 1 of 20 pairs lost or
      gained more than the scale"""


def too_long(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(line) > WIDTH]


def test_doctor_says_yes_and_no_and_each_missing_thing_once():
    text = "\n".join(doctor_lines(MACHINE, STATES))
    assert text == DOCTOR
    assert not too_long(text)


def test_json_names_what_pip_installs():
    assert [as_row(state)["install"] for state in STATES] == [
        "pip install 'xfer-policy[train]'",
        "pip install 'xfer-policy[train]'",
        "pip install 'xfer-policy[train]' && pip install cuda-bindings",
    ]


def test_verify_has_one_line_a_variant_and_says_a_shared_reason_once():
    text = "\n".join(verdict_lines(VERDICTS))
    assert text == VERIFY
    assert not too_long(text)


def test_verify_says_of_what_looks_worse_how_many_pairs_decide_and_what_was_clipped():
    figures = {"agreement": 0.984, "pairs": 20, "reward_delta": -5500.0, "reward_interval": (-478.25, 12.5)}
    text = "\n".join(verdict_lines({"onnx-int8": Verification("provisional", "reward", WORSE, **figures)}))
    assert text == LOOKS_WORSE


def test_a_long_command_is_continued_after_a_backslash_and_means_the_same():
    packages = " ".join(f"'package-{i}[extra one]'" for i in range(12))
    command = f"pip uninstall a b && pip install {packages}"
    lines = command_lines(command)
    assert len(lines) > 2
    assert all(len(line) <= WIDTH for line in lines)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    answer = subprocess.run(["bash", "-c", 'pip() { echo pip "$@"; }\n' + "\n".join(lines)], capture_output=True)
    assert answer.stdout.decode().count("pip ") == 2, answer


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=30)


@given(st.lists(st.tuples(words, st.lists(words, max_size=60).map(" ".join)), max_size=6))
def test_no_reason_makes_a_line_too_long(reasons):
    lines = reason_lines(reasons)
    assert all(len(line) <= WIDTH for line in lines)
    said = " ".join(" ".join(lines).split())
    assert all(reason in said for reason in itertools.chain(reason for _, reason in reasons))


@given(words, st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_no_figure_makes_a_line_too_long(name, delta, low, diff):
    found = Verification(
        "verified", "reward", "", diff, None, 0.5, diff, pairs=1000, reward_delta=delta, reward_interval=(low, -low)
    )
    lines = verdict_lines({f"{name}-fp32@channels_last": found, "eager-fp32": found})
    assert all(len(line) <= WIDTH for line in lines)
    assert name in "".join(lines)


def test_builds_have_a_line_each():
    built = Build("onnx-int8", "built", notes="kept in float: policy.trunk.layer1.0.conv1", seconds=3.21)
    built.files["policy.onnx"] = FileFact(2_900_000, "0" * 64)
    assert build_lines(built, False) == [
        "built        onnx-int8            2.9 MB, 3.2 s",
        "             kept in float: policy.trunk.layer1.0.conv1",
    ]
    assert build_lines(built, True)[0].endswith("2.9 MB, unchanged")
    assert build_lines(Build("tensorrt-fp16", "unavailable", DRIVER), False) == ["unavailable  tensorrt-fp16"]
    assert next_lines("a.bundle", "xfer verify", "xfer bench") == [
        "a.bundle  Next:",
        "  xfer verify a.bundle",
        "  xfer bench a.bundle",
    ]


def test_findings_and_their_summary_fit():
    caught = Finding("red and blue swapped", "BGR was taken for RGB.", "numbers", f"score differs {'x ' * 60}", True, 3)
    missed = Finding("crop shifted", "Three pixels off.", "", "let through", True, 1.5)
    untested = Finding("history late", "A step late.", "", "not tested: the bundle has no history", False)
    result = FaultInjection((caught, missed, untested), {"eager-fp32": Verification("rejected")})
    lines = [line for finding in result.findings for line in finding_lines(finding)]
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].startswith("numbers      red and blue swapped")
    assert lines[0].endswith("3.0 s")
    assert "nothing      crop shifted" in "\n".join(lines)
    assert fault_summary(result) == (
        "1 of 2 faults caught; 1 could not be tested here; let through: crop shifted;"
        " untouched, but rejected: eager-fp32"
    )


def test_advice_keeps_prose_together():
    assert advice("tensorrt_rtx engine; not run here: no GPU") == [("tensorrt_rtx engine; not run here: no GPU", "")]
    assert advice("") == []


def at_80_columns(*words) -> str:
    env = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "xfer.cli", *map(str, words)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("command", ["export", "verify", "run", "pack", "doctor", "cmake-dir"])
def test_help_fits_and_shows_no_type_none(command):
    text = at_80_columns(command, "--help")
    assert not too_long(text)
    assert "{None" not in text


def test_doctor_of_this_machine_fits():
    text = at_80_columns("doctor")
    assert not too_long(text)
    assert "…" not in text


def test_verify_of_a_real_bundle_fits(bundle_path):
    text = at_80_columns("verify", bundle_path, "--pairs", "10", "--workers", "1")
    assert not too_long(text)
    assert "…" not in text
    assert text.count("more clean pairs needed") == 1
    (line,) = [line for line in text.splitlines() if line.startswith("provisional  onnx-fp32")]
    assert line.endswith(" 10")
