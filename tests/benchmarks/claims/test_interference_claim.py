import pytest

from benchmarks.claims import Options, interference
from benchmarks.measure.protocol import full, quick
from xfer.errors import UsageError


@pytest.mark.timing
def test_benches_under_a_known_load_are_marked(monkeypatch):
    monkeypatch.setattr(interference, "LOADS", (interference.Load(0.002, 0.02, marks="some"),))
    found = interference.reproduce(Options(runs=3))
    assert found.holds, found.rows
    assert [(row["load"], row["rounds"]) for row in found.rows] == [("10%: 2 of 20 ms", 3)] * 2
    assert found.notes[0].startswith("Two threads were left out")


def test_fewer_rounds_are_as_long_as_those_of_a_bench():
    for form in (full(1), quick(2)):
        fewer = interference.fewer(form, 10)
        assert (fewer.rounds, fewer.passes, fewer.turn.seconds) == (10, form.passes, pytest.approx(form.turn.seconds))
        assert abs(fewer.turn.calls - form.turn.calls) <= 1


def test_one_round_is_not_enough_for_the_claim():
    with pytest.raises(UsageError, match="--runs 1"):
        interference.reproduce(Options(runs=1))
