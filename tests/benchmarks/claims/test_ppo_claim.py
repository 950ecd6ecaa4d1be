import pytest

from benchmarks.claims import Options, _learning_curves, ppo


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_learns_from_pixels_and_its_curve_is_drawn(tmp_path):
    pytest.importorskip("minigrid", reason="needs minigrid: pip install 'xfer-policy[navigation]'")
    found = ppo.reproduce(Options(name="ppo", output=tmp_path, runs=1))
    assert found.holds, found.rows
    assert (tmp_path / _learning_curves.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert "after" in (tmp_path / _learning_curves.PAGE).read_text()
