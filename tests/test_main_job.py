"""The main job at full length: half an hour and more. `make slow` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def xfer(*words):
    """Run a command as a user would, and return its JSON object."""
    command = [sys.executable, "-m", "xfer.cli", *map(str, words), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[Path, dict]]:
    """Three training seeds, from pixels, with --weights none."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["train", "cartpole", "--weights", "none"]
    return [
        (folder / f"seed{seed}", xfer(*words, "--seed", seed, "--output", folder / f"seed{seed}")) for seed in range(3)
    ]


@pytest.fixture(scope="module")
def bundle(runs) -> Path:
    best, _ = max(runs, key=lambda run: run[1]["eval_return_mean"])
    return Path(xfer("export", best)["bundle"])


def test_two_of_three_seeds_return_475_over_20_fresh_episodes(runs):
    print([result for _, result in runs])
    assert all(result["eval_episodes"] == 20 for _, result in runs)
    assert sum(result["eval_return_mean"] >= 475 for _, result in runs) >= 2


def test_full_verification_makes_the_cpu_variants_verified(bundle):
    rows = {row["variant"]: row for row in xfer("verify", bundle, "--full")["variants"]}
    for variant in ("torchscript-fp32", "onnx-fp32", "onnx-int8"):
        assert rows[variant]["status"] == "verified", rows[variant]


def test_onnx_is_2_2_times_and_int8_4_times_as_fast_as_eager_cut_and_whole(bundle):
    rows = {row["variant"]: row for row in xfer("bench", bundle)["variants"]}
    for ending in ("", " (whole resnet18)"):
        assert rows[f"onnx-fp32{ending}"]["speedup"] >= 2.2
        assert rows[f"onnx-int8{ending}"]["speedup"] >= 4.0
