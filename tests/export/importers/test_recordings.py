"""Recordings that are larger than the memory that they may take."""

import numpy as np
import pytest

from export.importers import check_memory, in_words
from export.importers._recordings import split
from tests.large_task import export
from xfer.errors import UsageError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories, load_trajectories


def test_an_export_holds_no_more_of_its_recordings_in_memory_than_it_may(tmp_path):
    done = export(tmp_path, "--targets", "eager,torchscript", "--max-memory", "0.04", camera="240x160", most=3 * 10**9)
    assert done.status == 0, done.output
    assert "recording 1,256 observations of 230 kB: 289 MB" in done.output
    assert done.output.count("built") == 2, done.output
    assert done.peak - done.before < 150_000_000


@pytest.mark.slow
def test_two_large_cameras_are_exported_in_less_than_three_gigabytes(tmp_path):
    done = export(tmp_path, "--targets", "eager,torchscript,onnx-int8", camera="1280x720", most=3 * 10**9)
    assert done.status == 0, done.output
    assert "recording 1,256 observations of 5.5 MB: 6.9 GB" in done.output
    assert done.output.count("built") == 3, done.output
    assert 0 < done.peak < 3 * 10**9


def spec(*shape: int) -> PolicySpec:
    frame = TensorSpec("frame", "uint8", shape, color_order="RGB", value_range=(0, 255))
    return PolicySpec("", 20.0, (frame,), (), ActionSpec("discrete", ("a", "b")), "logits")


def test_a_memory_that_is_too_small_is_refused_with_the_least_that_will_do():
    with pytest.raises(
        UsageError, match=r"--max-memory 0.05 is too little: 32 observations .* of 2.8 MB each. Give 0.09"
    ):
        check_memory(spec(720, 1280, 3), 50_000_000)
    check_memory(spec(720, 1280, 3), 90_000_000)


@pytest.mark.parametrize("memory", [0.0, -1.0, float("nan"), float("inf")])
def test_a_memory_that_means_nothing_is_refused(memory, tmp_path):
    from export.build import export as export_policy

    with pytest.raises(UsageError, match=r"--max-memory .* must be a positive number of GB"):
        export_policy(str(tmp_path), max_memory=memory)


@pytest.mark.parametrize(
    ("size", "words"),
    [(7, "7 bytes"), (6144, "6.1 kB"), (230_400, "230 kB"), (999_600, "1 MB"), (5_529_600, "5.5 MB"), (10**9, "1 GB")],
)
def test_sizes_are_said_in_words(size, words):
    assert in_words(size) == words


def test_an_observations_file_that_is_the_one_to_be_written_is_read_to_its_end_first(tmp_path, monkeypatch):
    """And one that does not fit into memory is cut in two without being held."""
    monkeypatch.setattr("xfer.trajectories.reading.PIECE", 4096)
    frames = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)
    seen = Trajectories({"frame": frames}, np.arange(200) % 40 == 0)
    seen.save(tmp_path / "calibration.safetensors.gz")
    given = load_trajectories(tmp_path / "calibration.safetensors.gz", 60_000)
    parts = split(given, "x")
    assert not isinstance(parts[0].observations["frame"], np.ndarray)
    for name, part in zip(("calibration", "held-out"), parts, strict=True):
        part.save(tmp_path / f"{name}.safetensors.gz")
    halves = [load_trajectories(tmp_path / f"{name}.safetensors.gz") for name in ("calibration", "held-out")]
    np.testing.assert_array_equal(np.concatenate([half.observations["frame"] for half in halves]), frames)
