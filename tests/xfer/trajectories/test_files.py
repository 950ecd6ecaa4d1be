"""Files of recorded observations: larger than memory, damaged, and hostile."""

import gzip
import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save, save_file

from xfer.errors import RunError
from xfer.trajectories import Trajectories, load_trajectories, rows, save_steps

STEPS, EVERY = 60, 20


@pytest.fixture
def small_pieces(monkeypatch):
    """Of 4 kB, which is a few rows."""
    monkeypatch.setattr("xfer.trajectories.reading.PIECE", 4096)
    monkeypatch.setattr(rows, "PIECE", 4096)


def seen(steps: int = STEPS, every: int = EVERY, width: int = 16) -> Trajectories:
    rng = np.random.default_rng(0)
    return Trajectories(
        {
            "left": rng.integers(0, 256, (steps, width, width, 3), np.uint8),
            "right": rng.integers(0, 4, (steps, width, width, 3), np.uint8),
            "joints": rng.normal(size=(steps, 2)).astype(np.float32),
        },
        np.arange(steps) % every == 0,
        np.arange(steps),
        starts={"memory": np.ones((-(-steps // every), 2), np.float32)},
    )


def write(recorded: Trajectories, path, how: str) -> None:
    if how == "gzip":
        recorded.save(path)
    elif how == "plain":
        tensors = {f"observations.{name}": array for name, array in recorded.observations.items()}
        save_file(tensors | {"resets": recorded.resets, "actions": recorded.actions}, path)
    else:
        save_steps(path, recorded.steps())


@pytest.mark.parametrize("how", ["gzip", "plain", "steps"])
def test_what_does_not_fit_into_memory_is_read_from_its_file_and_is_the_same(small_pieces, tmp_path, how):
    whole = seen()
    write(whole, tmp_path / "seen", how)
    stored = load_trajectories(tmp_path / "seen", 60_000)
    assert not isinstance(stored.observations["left"], np.ndarray)
    assert isinstance(stored.observations["joints"], np.ndarray), "it is small"
    assert replace(stored, starts={}).digest() == replace(whole, starts={}).digest()
    for name in ("left", "right"):
        array, read = whole.observations[name], stored.observations[name]
        assert (len(read), read.shape, read.dtype) == (len(array), array.shape, array.dtype)
        for index in (0, -1, STEPS - 1, slice(7, 33), slice(None), np.array([40, 3, 3, 59]), array[:, 0, 0, 0] > 99):
            np.testing.assert_array_equal(read[index], array[index])
        with pytest.raises(IndexError):
            read[STEPS]
    parts = [slice(20, 31), slice(50, 60)]
    some = stored.take(parts)
    assert not isinstance(some.observations["left"], np.ndarray)
    np.testing.assert_array_equal(some.observations["left"][:], whole.take(parts).observations["left"])


def test_what_is_recorded_step_by_step_is_a_file_as_any_other(tmp_path):
    save_steps(tmp_path / "seen", seen().steps())
    loaded = load_trajectories(tmp_path / "seen")
    assert loaded.digest() == replace(seen(), starts={}).digest()
    older = load(gzip.decompress((tmp_path / "seen").read_bytes()))  # which is how earlier versions read it
    np.testing.assert_array_equal(older["observations.left"], seen().observations["left"])


def test_a_file_is_written_and_read_in_pieces(tmp_path):
    frame = np.zeros((500, 500, 3), np.uint8)
    tracemalloc.start()
    try:
        save_steps(tmp_path / "seen", ((t % 20 == 0, {"frame": frame}) for t in range(140)))
        stored = load_trajectories(tmp_path / "seen", 20_000_000)
        for begins, observations in stored.steps():
            assert begins in (True, False)
            assert not observations["frame"].any()
        stored.take([slice(20, 80)]).save(tmp_path / "some")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60_000_000, "of 105 MB, 20 in memory, and some pieces of 8 MB"
    assert len(load_trajectories(tmp_path / "some")) == 60


def test_a_file_that_is_replaced_is_still_read_as_it_was(small_pieces, tmp_path):
    whole = seen()
    whole.save(tmp_path / "seen")
    stored = load_trajectories(tmp_path / "seen", 60_000)
    stored.take([slice(20, 60)]).save(tmp_path / "seen")
    np.testing.assert_array_equal(stored.observations["left"][:], whole.observations["left"])


def test_a_disk_that_is_full_is_told_in_one_line_and_an_environments_own_error_is_not(tmp_path):
    def fails():
        yield from seen().steps()
        raise OSError("the camera is unplugged")

    with pytest.raises(OSError, match="the camera is unplugged"):
        save_steps(tmp_path / "seen", fails())
    with pytest.raises(RunError, match=r"nowhere/seen cannot be written to: No such file"):
        save_steps(tmp_path / "nowhere" / "seen", seen().steps())
    assert list(tmp_path.iterdir()) == []


def header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, *shape: int, begin: int = 0, end: int | None = None) -> dict:
    size = int(np.prod([float(n) for n in shape])) * {"BOOL": 1, "U8": 1, "F32": 4}.get(dtype, 2)
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + size if end is None else end]}


def whole() -> bytes:
    tensors = {f"observations.{name}": array for name, array in seen().observations.items()}
    return save(tensors | {"resets": seen().resets})


HUGE = 10**10
DAMAGES = {
    "no gzip behind its first bytes": lambda: b"\x1f\x8b" + bytes(100),
    "a flipped byte": lambda: _flipped(gzip.compress(whole())),
    "another checksum": lambda: gzip.compress(whole())[:-8] + bytes(8),
    "torn gzip": lambda: gzip.compress(whole())[:-100],
    "without its checksum": lambda: gzip.compress(whole())[:-6],
    "torn": lambda: whole()[:-1],
    "one byte more": lambda: whole() + b"\0",
    "one byte more, gzipped": lambda: gzip.compress(whole() + b"\0"),
    "rubbish behind it": lambda: gzip.compress(whole()) + b"rubbish",
    "empty": lambda: b"",
    "a zip file": lambda: b"PK\3\4" + bytes(100),
    "zeros": lambda: bytes(1000),
    "zeros for ever": lambda: gzip.compress(bytes(50_000_000)),
    "more than its header says for ever": lambda: gzip.compress(whole() + bytes(50_000_000)),
    "a header larger than the file": lambda: (1 << 60).to_bytes(8, "little"),
    "a header that promises too much": lambda: header({"resets": entry("BOOL", HUGE)}),
    "a header that promises too much, gzipped": lambda: gzip.compress(header({"resets": entry("BOOL", HUGE)})),
    "a shape beyond numbers": lambda: gzip.compress(header({"resets": entry("BOOL", 2**62, 2**62, end=4)}, b"1234")),
    "a negative shape": lambda: header({"resets": entry("BOOL", -1, -1, end=1)}, b"1"),
    "a hole": lambda: header({"resets": entry("BOOL", 4, begin=4)}, bytes(8)),
    "two in one place": lambda: header({"resets": entry("BOOL", 4), "actions": entry("U8", 4)}, bytes(4)),
    "a type that NumPy has not": lambda: header({"resets": entry("BF16", 4)}, bytes(8)),
    "offsets that are none": lambda: header({"resets": {**entry("BOOL", 4), "data_offsets": None}}, bytes(4)),
    "no JSON": lambda: (4).to_bytes(8, "little") + b"\xff{{{",
    "JSON as deep as the sea": lambda: (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "no dictionary": lambda: header([1]),
    "no resets": lambda: header({"observations.x": entry("U8", 4)}, bytes(4)),
    "no steps": lambda: header({"resets": entry("BOOL", 0)}),
    "resets of another type": lambda: header({"resets": entry("U8", 4)}, bytes(4)),
    "resets of another shape": lambda: header({"resets": entry("BOOL", 2, 2)}, bytes(4)),
    "fewer rows than steps": lambda: header(
        {"observations.x": entry("U8", 3), "resets": entry("BOOL", 4, begin=3)}, bytes(7)
    ),
    "an observation without rows": lambda: header(
        {"observations.x": entry("U8"), "resets": entry("BOOL", 4, begin=1)}, bytes(5)
    ),
    "actions of fewer steps": lambda: header(
        {"actions": entry("U8", 3), "resets": entry("BOOL", 4, begin=3)}, bytes(7)
    ),
    "states for fewer stretches": lambda: header(
        {"starts.x": entry("F32", 1, 2), "resets": entry("BOOL", 4, begin=8)}, bytes(8) + b"\1\0\1\0"
    ),
    "a state for none": lambda: header({"starts.x": entry("F32"), "resets": entry("BOOL", 4, begin=4)}, bytes(8)),
}


def _flipped(data: bytes) -> bytes:
    return data[:500] + bytes([data[500] ^ 255]) + data[501:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_hostile_file_is_refused_in_one_line_and_little_memory(damage, tmp_path):
    path = tmp_path / "held-out.safetensors.gz"
    path.write_bytes(DAMAGES[damage]())
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match=r"held-out.safetensors.gz.*Make it again\.$") as refused:
            load_trajectories(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert peak < 5_000_000


@pytest.mark.parametrize("rows_at_once", [10**6, 1])
def test_what_may_not_be_unpacked_is_not(tmp_path, rows_at_once):
    """The header could be true, and the file begins so."""
    steps = 5 * 10**9 // rows_at_once
    tensors = {
        "observations.x": entry("U8", steps, rows_at_once),
        "resets": entry("BOOL", steps, begin=steps * rows_at_once),
    }
    (tmp_path / "bomb").write_bytes(gzip.compress(header(tensors, bytes(9_000_000))) + bytes(11_000_000))
    with pytest.raises(RunError, match=r"bomb: it holds [\d,]{13,} bytes, where 1,000 are allowed"):
        load_trajectories(tmp_path / "bomb", most=1000)
    if rows_at_once == 1:
        with pytest.raises(RunError, match=r"bytes of it must be in memory, and 1,000,000,000 may be"):
            load_trajectories(tmp_path / "bomb")


def test_rows_that_do_not_fit_into_memory_one_by_one_are_refused(tmp_path):
    tensors = {"observations.x": entry("U8", 4, 10**8), "resets": entry("BOOL", 4, begin=4 * 10**8)}
    (tmp_path / "wide").write_bytes(gzip.compress(header(tensors)) + bytes(10**6))
    with pytest.raises(RunError, match="must be in memory, and 300,000,000 may be"):
        load_trajectories(tmp_path / "wide", 300_000_000)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "it is no file"), (".", "it is no file"), ("none", "No such file")):
        with pytest.raises(RunError, match=message):
            load_trajectories(tmp_path / name)
