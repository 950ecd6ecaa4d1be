"""A robot: the core, one runtime and the simulator, in an environment of its own, without torch."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """A fresh virtual environment with xfer-policy[onnx]; it says how many bytes its packages take."""
    folder = tmp_path_factory.mktemp("robot") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", f"{ROOT}[onnx]"], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    ours = [path for path in packages.rglob("*") if path.is_file() and path.relative_to(packages).parts[0] != "pip"]
    size = sum(path.stat().st_size for path in ours if "setuptools" not in path.parts)
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[cartpole]"], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode != 0
    return folder / "bin", size


def test_xfer_run_drives_the_environment_without_torch(robot, shared_bundle):
    words = [robot[0] / "xfer", "run", shared_bundle, "--variant", "onnx-int8", "--episodes", "2", "--json"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert len(json.loads(answer.stdout.splitlines()[-1])["returns"]) == 2


def test_numbers_and_actions_are_verified_without_torch_on_golden_alone(robot, bundle_path):
    words = [robot[0] / "xfer", "verify", bundle_path, "--json"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    rows = {row["variant"]: row for row in json.loads(answer.stdout.splitlines()[-1])["variants"]}
    assert rows["onnx-fp32"]["rung"] == "actions"
    assert "reward not run" in rows["onnx-fp32"]["reason"]
    assert rows["torchscript-fp32"]["status"] == "built"
    assert "pip install" in rows["torchscript-fp32"]["reason"]


def test_core_and_onnx_stay_small(robot):
    # As shipped: Python's bytecode caches, written at first import, are another 30 MB.
    assert robot[1] < 150e6


OURS = """
import sys
from export import Bundle
bundle = Bundle(sys.argv[1])
golden = bundle.golden()
with bundle.runner("onnx-fp32", threads=2) as policy:
    print(int(policy.act({"frame": golden.observations["frame"][0]}).action))
"""

BARE = """
import glob, gzip, sys
import numpy as np
import onnxruntime
from safetensors.numpy import load
golden = load(gzip.decompress(open(sys.argv[1] + "/golden.safetensors.gz", "rb").read()))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
model = glob.glob(sys.argv[1] + "/variants/onnx-fp32-*/policy.onnx")[0]
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
shape = [1, *session.get_inputs()[1].shape[1:]]
frame = golden["observations.frame"][:1]
print(int(session.run(["action"], {"frame": frame, "history": np.zeros(shape, np.float32)})[0][0]))
"""


@pytest.mark.timing
def test_opening_a_bundle_and_acting_costs_little_over_bare_onnx_runtime(shared_bundle):
    ratios, answers = [], set()
    for _ in range(8):
        seconds = []
        for code in (OURS, BARE):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code, shared_bundle], capture_output=True, text=True, check=True
            )
            seconds.append(time.perf_counter() - start)
            answers.add(done.stdout)
        ratios.append(seconds[0] / seconds[1])
    assert len(answers) == 1
    assert statistics.median(ratios) < 1.5, ratios
