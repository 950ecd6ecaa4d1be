from dataclasses import replace

import pytest

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.report import conclusion, decision
from benchmarks.report.figures import loop_figures, pareto_front, reward_summaries
from tests.benchmarks.report.sample_report import TYPICAL_MS, looped, measured, sample_report


@pytest.fixture(scope="module")
def sample():
    return sample_report()


def loops(**missed):
    names = list(TYPICAL_MS)
    return [loop_figures(looped(name, missed.get(name.replace("-", "_"), 0))) for name in names if "@" not in name]


def changed(rows, **changes):
    return [{**row, **changes} for row in rows]


def test_the_fastest_proven_variant_is_shipped(sample):
    text = conclusion.headline(sample.rows)
    assert text.startswith("Ship onnx-int8: the fastest variant that is verified. It is 5.0 times as fast as eager: ")


def test_a_missed_deadline_is_named_and_the_next_variant_shipped(sample):
    found = loops(onnx_int8=3)
    text = conclusion.headline(sample.rows, found)
    assert text.startswith("Ship onnx-fp32: ")
    assert "kept all 3,000 deadlines of 5 ms" in text
    assert conclusion.misses(found) == ["onnx-int8 missed 3 of 3,000 deadlines of 5 ms."]


def test_a_variant_that_kept_its_deadlines_is_shipped_and_it_says_so(sample):
    assert conclusion.headline(sample.rows, loops()).startswith(
        "Ship onnx-int8: the fastest variant that is verified and kept all 3,000 deadlines of 5 ms."
    )


def test_a_variant_whose_loop_broke_off_is_not_shipped(sample):
    broken = loop_figures(ControlLoop("onnx-int8", 50.0, 5.0, (1.0,) * 100, error="its process ended"))
    found = [loop for loop in loops() if loop.name != "onnx-int8"] + [broken]
    assert decision.choose(sample.rows, found)["variant"] == "onnx-fp32"
    assert conclusion.misses(found) == ["onnx-int8 did not finish its control loop: its process ended."]


def test_nothing_is_shipped_where_every_variant_misses(sample):
    found = [loop_figures(looped(name, 10 if name == "onnx-fp32" else 20)) for name in TYPICAL_MS]
    assert decision.choose(sample.rows, found) is None
    text = conclusion.headline(sample.rows, found)
    assert text.startswith("Ship nothing at 50 Hz yet")
    assert "onnx-fp32 came closest" in text
    silent = [loop_figures(ControlLoop("onnx-int8", 50.0, 5.0, error="no"))]
    assert "no verified variant has run" in conclusion.headline(sample.rows, silent)


def test_the_headline_is_careful_where_nothing_is_proven(sample):
    text = conclusion.headline(changed(sample.rows, status="built"))
    assert text.startswith("Ship nothing yet: onnx-int8 is the fastest (")
    assert "nothing is verified on this machine" in text
    assert conclusion.headline(sample.rows[5:]) == "No variant could be measured on this machine."


def test_eager_is_shipped_where_nothing_proven_is_faster(sample):
    text = conclusion.headline(sample.rows[:1])
    assert text.startswith("Ship eager-fp32: no variant that is verified here is faster")


def test_without_a_baseline_no_gain_is_claimed(sample):
    text = conclusion.headline(changed(sample.rows[4:5], speedup=None, speedup_spread=None))
    assert "It takes " in text
    assert "times as fast" not in text


def test_a_whole_backbone_is_never_shipped(sample):
    whole = {**sample.rows[4], "variant": "onnx-int8 (whole resnet18)", "p50_ms": 0.1, "whole_backbone": True}
    assert decision.choose([*sample.rows, whole])["variant"] == "onnx-int8"


def test_caveats_name_what_is_wrong_with_the_whole_report(sample):
    unstable = tuple(changed(sample.rows, stable=False))
    found = replace(sample, partial="only three rounds", rows=unstable, loops=()).findings.caveats
    assert [caveat.mark for caveat in found] == ["partial", "quick", "disturbed", "unstable"]
    texts = {caveat.mark: caveat.text for caveat in found}
    assert "only three rounds" in texts["partial"]
    assert "4 of 10 rounds of onnx-fp32: other processes took up to 90 %" in texts["disturbed"]
    assert texts["unstable"] == "The speed-up of 6 rows moved by more than 5 % during the run."


def test_a_clean_report_has_no_caveats(sample):
    measurements = tuple(replace(m, disturbances=()) for m in sample.measurements)
    quiet = replace(sample, protocol=replace(sample.protocol, quick=False), measurements=measurements, loops=())
    clean = replace(quiet, rows=tuple(changed(sample.rows, stable=True)))
    assert clean.findings.ship == "onnx-int8"
    assert clean.findings.caveats == ()


def test_what_is_shipped_on_too_few_episodes_is_a_caveat(sample):
    assert sample.findings.ship == "onnx-fp32"
    assert "provisional" in [caveat.mark for caveat in sample.findings.caveats]


def test_the_pareto_front_is_what_no_other_beats_in_both(sample):
    assert [row["variant"] for row in pareto_front(sample.rows)] == ["onnx-int8", "onnx-fp32"]
    rejected = [{**row, "status": "rejected"} if row["variant"] == "onnx-int8" else row for row in sample.rows]
    assert [row["variant"] for row in pareto_front(rejected)] == ["onnx-fp32"]
    better = [{**row, "reward_delta": 1.0} if row["variant"] == "onnx-int8" else row for row in sample.rows]
    assert [row["variant"] for row in pareto_front(better)] == ["onnx-int8"]


def test_eager_s_returns_are_those_of_all_seeds_once(sample):
    found = reward_summaries(sample.rows)
    assert found["eager-fp32"].episodes == 160
    assert found["onnx-fp32"].episodes == 20
    assert found["onnx-int8"].mean.value < 500
    assert reward_summaries(changed(sample.rows, returns=())) == {}


def test_a_precision_that_is_slower_than_fp32_of_its_target_is_said_to_be(sample):
    slow = replace(measured("onnx-bf16", 2.8, seed=9), name="onnx-bf16 in C++")
    fp32 = replace(measured("onnx-fp32", seed=8), name="onnx-fp32 in C++")
    texts = conclusion.slower_than_fp32([*sample.measurements, slow, fp32])
    assert len(texts) == 1  # onnx-int8 is faster
    assert texts[0].startswith("onnx-bf16 in C++ is slower than onnx-fp32 in C++ here: 0.5")
    found = replace(sample, measurements=(*sample.measurements, slow, fp32)).findings.caveats
    assert found[-1] == conclusion.Caveat("slower", texts[0])


def test_a_precision_is_not_called_slower_by_chance_nor_without_fp32_or_enough_rounds(sample):
    same = measured("onnx-fp16", TYPICAL_MS["onnx-fp32"], seed=10)
    assert not conclusion.slower_than_fp32([*sample.measurements, same])
    slow = measured("onnx-fp16", 2.8)
    assert not conclusion.slower_than_fp32([slow])
    few = [replace(one, rounds=one.rounds[:5]) for one in (slow, *sample.measurements)]
    assert not conclusion.slower_than_fp32(few)
    failed = replace(slow, error="its process ended")
    assert not conclusion.slower_than_fp32([failed, *sample.measurements])
