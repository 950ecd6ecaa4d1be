from dataclasses import replace

import numpy as np
import pytest

from benchmarks.measure import kernel
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.interference import Interference
from benchmarks.measure.protocol import Measurement
from benchmarks.report import conclusion, table
from benchmarks.report.conclusion import conclude, missed
from benchmarks.report.decision import Limits
from benchmarks.report.figures import comparable, pareto_front, reward_summaries
from tests.benchmarks.report.sample_report import TYPICAL_MS, looped, measured, sample_report

EAGER, NO_DEADLINE = "eager-fp32", Limits()


@pytest.fixture(scope="module")
def sample():
    return sample_report()


def loops(**missed):
    names = list(TYPICAL_MS)
    return tuple(looped(name, missed.get(name.replace("-", "_"), 0)) for name in names if "@" not in name)


def changed(rows, **changes):
    return tuple(replace(row, **changes) for row in rows)


def concluded(sample, limits=NO_DEADLINE, loops=(), **changes):
    return conclude(replace(sample, limits=limits, loops=loops, **changes))


def in_time(sample, loops):
    return concluded(sample, Limits(5.0, allow_provisional=True), loops)


def test_the_fastest_proven_variant_is_shipped(sample):
    text = concluded(sample).headline
    assert text.startswith("Ship onnx-int8: the fastest variant that is verified. It is 5.0 times as fast as eager: ")


def test_a_missed_deadline_is_named_and_the_next_variant_shipped(sample):
    found = in_time(sample, loops(onnx_int8=3))
    assert found.headline.startswith("Ship onnx-fp32: ")
    assert "kept all 3,000 deadlines of 5 ms" in found.headline
    assert len(found.misses) == 1
    said = "onnx-int8 missed 3 of 3,000 deadlines of 5 ms and is not proven to keep it: up to 0.26 %"
    assert found.misses[0].startswith(said)


def test_a_variant_that_kept_its_deadlines_is_shipped_and_it_says_so(sample):
    assert in_time(sample, loops()).headline.startswith(
        "Ship onnx-int8: the fastest variant that is verified and kept all 3,000 deadlines of 5 ms at 50 Hz"
        " (at most 0.1 % missed)."
    )


def test_a_variant_whose_loop_broke_off_is_not_shipped(sample):
    broken = ControlLoop("onnx-int8", 50.0, 5.0, (1.0,) * 100, error="its process ended")
    found = in_time(sample, (*(loop for loop in loops() if loop.name != "onnx-int8"), broken))
    assert found.ship == "onnx-fp32"
    assert found.misses == ("onnx-int8 did not finish its control loop: its process ended.",)


def test_nothing_is_shipped_where_every_variant_misses(sample):
    found = in_time(sample, tuple(looped(name, 10 if name == "onnx-fp32" else 20) for name in TYPICAL_MS))
    assert found.ship == ""
    assert found.headline.startswith("Ship nothing yet: no variant keeps 5 ms. onnx-fp32 came closest: missed 10 of")


def test_without_a_loop_the_bound_of_p99_judges_a_deadline(sample):
    bound = 1.5
    known = changed(sample.rows, p99_upper_ms=bound)
    found = concluded(sample, Limits(bound), rows=known)
    assert found.ship == "onnx-int8"
    assert f"keeps {bound:g} ms (p99 at most " in found.headline
    assert concluded(sample, Limits(0.99 * bound), rows=known).ship == ""
    few = changed(sample.rows, p99_upper_ms=None)
    assert "calls were in too few turns" in concluded(sample, Limits(bound), rows=few).headline
    assert concluded(sample, rows=few).ship == "onnx-int8"


def test_a_loop_judges_other_deadlines_than_its_own_too(sample):
    assert concluded(sample, Limits(4.0), loops(onnx_int8=3)).ship == "torchscript-fp32"
    assert concluded(sample, Limits(8.0), loops(onnx_int8=3)).ship == "onnx-int8"


def test_a_provisional_variant_is_shipped_only_where_that_is_allowed(sample):
    rows = changed(sample.rows[3:4], status="provisional")
    assert concluded(sample, rows=rows).ship == ""
    assert "onnx-fp32 is only provisional. Run xfer verify --full" in concluded(sample, rows=rows).headline
    assert concluded(sample, Limits(allow_provisional=True), rows=rows).ship == "onnx-fp32"


def test_a_variant_that_agrees_on_recordings_is_shipped_where_one_asks_for_no_more_and_it_says_so(sample):
    figures = {"reward_delta": None, "reward_interval": None, "agrees_on_recordings": True, "recordings_bound": 0.0191}
    rows = changed(sample.rows[3:4], status="provisional", rung="recordings", **figures)
    assert "onnx-fp32 agrees on recordings, its rewards were not compared. Bench with --on-recordings" in (
        concluded(sample, rows=rows).headline
    )
    assert concluded(sample, Limits(allow_provisional=True), rows=rows).ship == ""
    found = concluded(sample, Limits(on_recordings=True), rows=rows)
    assert found.headline.startswith("Ship onnx-fp32: the fastest variant that is in agreement on recordings. ")
    (caveat,) = [caveat.text for caveat in found.caveats if caveat.mark == "provisional"]
    assert "acts as eager does in recorded episodes (mean action loss at most 1.91%)" in caveat
    itself = concluded(sample, Limits(on_recordings=True), rows=changed(rows, variant="eager-fp32"))
    assert (itself.ship, [c.mark for c in itself.caveats if c.mark == "provisional"]) == ("eager-fp32", [])


def test_a_variant_that_may_lose_too_much_is_not_shipped(sample):
    # The bound of onnx-int8's loss is 4 of a span of 478.
    assert concluded(sample, Limits(max_reward_drop=0.0084)).ship == "onnx-int8"
    assert concluded(sample, Limits(max_reward_drop=0.0083)).ship == "torchscript-fp32"


def test_the_headline_is_careful_where_nothing_is_proven(sample):
    text = concluded(sample, rows=changed(sample.rows, status="built", reason="")).headline
    assert text.startswith("Ship nothing yet: onnx-int8 is the fastest (")
    assert "nothing is verified on this machine" in text
    assert concluded(sample, rows=sample.rows[5:]).headline == "No variant could be measured on this machine."


def test_eager_is_shipped_where_nothing_proven_is_faster(sample):
    text = concluded(sample, rows=sample.rows[:1]).headline
    assert text.startswith("Ship eager-fp32: no variant that is verified here is faster")


def test_without_a_baseline_no_gain_is_claimed(sample):
    text = concluded(sample, rows=changed(sample.rows[4:5], speedup=None, speedup_spread=None)).headline
    assert "It takes " in text
    assert "times as fast" not in text


def test_a_whole_backbone_is_never_shipped(sample):
    whole = replace(sample.rows[4], variant="onnx-int8 (whole resnet18)", p50_ms=0.1, whole_backbone=True)
    assert concluded(sample, rows=(*sample.rows, whole)).ship == "onnx-int8"


def test_another_reference_is_what_variants_are_compared_with(sample):
    """A bundle of a plain graph has no eager; its reference needs no comparison with itself."""
    rows = tuple(replace(row, variant=row.variant.replace("eager", "given")) for row in sample.rows)
    rows = (rows[0], *changed(rows[1:], reward_interval=None))
    found = concluded(sample, rows=rows, reference="given-fp32")
    assert found.ship == "given-fp32"
    assert next(iter(found.reward_summaries)) == "given-fp32"
    assert concluded(sample, rows=rows).ship == ""


def test_caveats_name_what_is_wrong_with_the_whole_report(sample):
    unstable = changed(sample.rows, stable=False)
    found = conclude(replace(sample, partial="only three rounds", rows=unstable, loops=())).caveats
    assert [caveat.mark for caveat in found] == ["partial", "quick", "disturbed", "unstable"]
    texts = {caveat.mark: caveat.text for caveat in found}
    assert "only three rounds" in texts["partial"]
    assert "4 of 10 rounds of onnx-fp32: other processes took up to 90 %" in texts["disturbed"]
    assert texts["unstable"] == "The speed-up of 5 rows moved by more than 5 % during the run."


@pytest.mark.parametrize(
    ("suffered", "words"),
    [
        ({"waited": 0.08, "preempted": 3}, "a variant waited for a core for up to 8 % of a round."),
        ({"throttled": 0.3}, "the container's quota was used up for up to 30 % of a round."),
        ({"steal": 0.2}, "the hypervisor took up to 20 % of the cores."),
    ],
)
def test_the_caveat_says_what_a_variant_suffered(sample, suffered, words):
    quiet = Interference(0.0, 0.0, waited=0.001, preempted=1)
    watched = (quiet, replace(quiet, **suffered), *[quiet] * 8)
    measurements = (replace(sample.measurements[0], disturbances=watched),)
    found = conclude(replace(sample, measurements=measurements, loops=()))
    (text,) = [caveat.text for caveat in found.caveats if caveat.mark == "disturbed"]
    assert text.startswith("Something else ran in 1 of 10 rounds of eager-fp32: ")
    assert text.endswith(words)
    columns, (row,) = table.disturbances(found.disturbances)
    assert len(columns) == len(row)
    assert f"{9 + suffered.get('preempted', 1)} times" in row


def test_rounds_in_which_the_reference_kernel_was_slowed_are_disturbed_for_all_but_whole_backbones(sample):
    times = np.ones((5, 2, 10))
    times[3, 1] = 1.5
    rounds = tuple(tuple(one.tolist()) for start in times for one in start)
    common = Measurement(kernel.NAME, "", rounds, turns=((1,) * 10,) * 10, starts=(2,) * 5)
    quiet = (Interference(0.0, 0.0, waited=0.0),) * 10
    measurements = tuple(replace(one, disturbances=quiet) for one in sample.measurements)
    rows = (*sample.rows[:-1], replace(sample.rows[-1], variant=measurements[-1].name, whole_backbone=True))
    found = conclude(replace(sample, measurements=measurements, rows=rows, kernel=common, loops=()))
    assert [one.disturbed for one in found.disturbances] == [1] * (len(measurements) - 1) + [0]
    (text,) = [caveat.text for caveat in found.caveats if caveat.mark == "disturbed"]
    assert text.endswith("the reference kernel was slowed in 1, by what no counter shows.")


def test_a_clean_report_has_no_caveats(sample):
    measurements = tuple(replace(m, disturbances=()) for m in sample.measurements)
    quiet = replace(sample, protocol=replace(sample.protocol, quick=False), measurements=measurements, loops=())
    clean = replace(quiet, rows=changed(sample.rows, stable=True), limits=Limits())
    assert conclude(clean).ship == "onnx-int8"
    assert conclude(clean).caveats == ()


def test_what_is_shipped_on_too_few_episodes_is_a_caveat(sample):
    assert conclude(sample).ship == "onnx-fp32"
    assert "provisional" in [caveat.mark for caveat in conclude(sample).caveats]


def test_the_pareto_front_is_what_no_other_beats_in_both(sample):
    def front(rows):
        return [point.row.variant for point in pareto_front(comparable(rows, EAGER))]

    assert front(sample.rows) == ["onnx-int8", "onnx-fp32"]
    int8 = sample.rows[4]
    assert front([*sample.rows[:4], replace(int8, status="rejected")]) == ["onnx-fp32"]
    assert front([*sample.rows[:4], replace(int8, reward_delta=1.0)]) == ["onnx-int8"]


def test_eager_s_returns_are_those_of_all_seeds_once(sample):
    found = reward_summaries(sample.rows, EAGER)
    assert found["eager-fp32"].episodes == 160
    assert found["onnx-fp32"].episodes == 20
    assert found["onnx-int8"].mean.value < 500
    assert reward_summaries(changed(sample.rows, returns=()), EAGER) == {}


def test_a_precision_that_is_slower_than_fp32_of_its_target_is_said_to_be(sample):
    # Whatever the rounds of one start say: a place in memory moves all of them alike.
    once = replace(measured("onnx-bf16", 2.8, seed=9), starts=(10,))
    assert not conclusion.slower_than_fp32([replace(sample.measurements[3], starts=(10,)), once])
    slow = replace(measured("onnx-bf16", 2.8, seed=9), name="onnx-bf16 in C++")
    fp32 = replace(measured("onnx-fp32", seed=8), name="onnx-fp32 in C++")
    texts = conclusion.slower_than_fp32([*sample.measurements, slow, fp32])
    assert len(texts) == 1  # onnx-int8 is faster
    assert texts[0].startswith("onnx-bf16 in C++ is slower than onnx-fp32 in C++ here: 0.5")
    found = conclude(replace(sample, measurements=(*sample.measurements, slow, fp32))).caveats
    assert found[-1] == conclusion.Caveat("slower", texts[0])


def test_a_precision_is_not_called_slower_by_chance_nor_without_fp32_or_enough_starts(sample):
    same = measured("onnx-fp16", TYPICAL_MS["onnx-fp32"], seed=10)
    assert not conclusion.slower_than_fp32([*sample.measurements, same])
    slow = measured("onnx-fp16", 2.8)
    assert not conclusion.slower_than_fp32([slow])
    for starts in ((10,), (5, 5)):
        few = [replace(one, starts=starts) for one in (slow, *sample.measurements)]
        assert not conclusion.slower_than_fp32(few)
    failed = replace(slow, error="its process ended")
    assert not conclusion.slower_than_fp32([failed, *sample.measurements])


def test_only_what_missed_on_the_evidence_has_missed(sample):
    few, many = loops(onnx_int8=3), loops(onnx_int8=30)
    rows = tuple(row for row in sample.rows if "@" not in row.variant)
    asked = replace(sample, limits=Limits(5.0), rows=rows)
    assert missed(replace(asked, loops=few)) == []
    assert missed(replace(asked, loops=many)) == ["onnx-int8"]
    assert missed(replace(asked, loops=many, limits=Limits(5.0, max_miss_rate=0.05))) == []
    assert missed(replace(asked, loops=many, limits=NO_DEADLINE)) == []
    # Without a loop the calls themselves say so.
    assert missed(replace(asked, loops=(), limits=Limits(100.0))) == []
    assert "onnx-int8" in missed(replace(asked, loops=(), limits=Limits(0.001)))


def test_a_disturbed_control_loop_is_said(sample):
    quiet, busy = Interference(0.01, 0.0), Interference(0.9, 0.0)
    one = replace(loops()[-1], segments=(1500, 1500), disturbances=(quiet, busy))
    found = [c.text for c in conclude(replace(sample, loops=(one,))).caveats if c.mark == "disturbed"]
    assert f"Something else ran in 1 of 2 segments of the control loops of {one.name}" in found[-1]
