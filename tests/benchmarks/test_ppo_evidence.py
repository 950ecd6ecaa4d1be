import pytest

from benchmarks import learning_curves
from benchmarks.commands.reproduce import Args
from benchmarks.evidences import ppo


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_learns_from_pixels_and_its_curve_is_drawn(tmp_path):
    pytest.importorskip("minigrid")
    found = ppo.collect(Args(name="ppo", output=tmp_path, runs=1))
    assert found.holds, found.rows
    assert (tmp_path / learning_curves.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert "after" in (tmp_path / learning_curves.PAGE).read_text()
