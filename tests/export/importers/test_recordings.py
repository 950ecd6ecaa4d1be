"""Recordings that are larger than the memory that they may take."""

import tracemalloc

import numpy as np
import pytest

from export.build import export
from export.importers import ImportOptions, _recordings, check_memory, in_words
from export.importers._recordings import split
from tests.large_task import limited
from xfer.errors import UsageError
from xfer.evaluate import CALIBRATION_SEED, HELD_OUT_SEED
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories, load_trajectories

SOURCE, TASK = "tests.large_task:make", "tests.large_task:task"
FEW = {"calibration": (CALIBRATION_SEED, 32, 16), "held-out": (HELD_OUT_SEED, 96, 32)}


def test_an_export_holds_no_more_of_its_recordings_in_memory_than_it_may(tmp_path, monkeypatch):
    """It records 177 MB, and may hold 50; what it does with the frames, and golden, takes some more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XFER_TEST_CAMERA", "640x360")
    monkeypatch.setenv("XFER_TASK", "")  # put back afterwards
    monkeypatch.setattr(_recordings, "RECORDED", FEW)
    notes: list[str] = []
    tracemalloc.start()
    try:
        done = export(SOURCE, "eager", importing=ImportOptions(task=TASK), max_memory=0.05, on_note=notes.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [build.status for build, _ in done.builds] == ["built"]
    said = "recording 128 observations of 1.4 MB: 177 MB, on disk, compressed; at most 50 MB of it in memory"
    assert notes == [f"{said} (--max-memory)"]
    assert peak < 120_000_000


@pytest.mark.slow
def test_two_large_cameras_are_exported_and_verified_in_less_than_three_gigabytes(tmp_path):
    words = ("export", SOURCE, "--task", TASK, "--targets", "eager,torchscript,onnx-int8")
    status, output, peak = limited(tmp_path, *words, most=3 * 10**9)
    assert status == 0, output
    assert "recording 1,256 observations of 5.5 MB: 6.9 GB" in output
    assert output.count("built") == 3, output
    assert 0 < peak < 3 * 10**9
    words = ("verify", "make.bundle", "--variants", "torchscript", "--pairs", "0")
    status, output, peak = limited(tmp_path, *words, most=3 * 10**9)
    assert 0 < peak < 3 * 10**9, output


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
    with pytest.raises(UsageError, match=r"--max-memory .* must be a positive number of GB"):
        export(str(tmp_path), max_memory=memory)


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
    parts = split(given, "x", spec(16, 16, 3))
    assert not isinstance(parts[0].observations["frame"], np.ndarray)
    for name, part in zip(("calibration", "held-out"), parts, strict=True):
        part.save(tmp_path / f"{name}.safetensors.gz")
    halves = [load_trajectories(tmp_path / f"{name}.safetensors.gz") for name in ("calibration", "held-out")]
    np.testing.assert_array_equal(np.concatenate([half.observations["frame"] for half in halves]), frames)
