"""Files of a run."""

import gzip

import pytest
import torch

from xfer.errors import RunError
from xfer.training.imitation import Frames
from xfer.training.run_folder import FRAMES, RunFolder, frames_bytes


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "rounds").mkdir()
    return RunFolder(tmp_path)


def test_frames_are_kept(folder):
    kept = Frames(*(torch.arange(6.0).reshape(3, 2) for _ in Frames._fields))
    folder.keep(0, {FRAMES: frames_bytes(kept)})
    assert all(map(torch.equal, folder.frames(0), kept))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:],
        lambda data: data[:-4],
        lambda data: data[:2] + bytes(40),
        lambda data: gzip.compress(bytes(50_000_000)),
    ],
)
def test_damaged_frames_are_refused_in_one_line(folder, damage):
    data = frames_bytes(Frames(*(torch.zeros(3, 2) for _ in Frames._fields)))
    folder.keep(0, {FRAMES: damage(data)})
    with pytest.raises(RunError, match=r"000-frames.safetensors.gz is missing or damaged \(.*\)\. Delete the run"):
        folder.frames(0)
