"""The report and ``xfer recommend`` never name different variants."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.protocol import Candidate, Measurement, Protocol
from benchmarks.report import decision
from benchmarks.report.conclusion import conclude
from benchmarks.report.decision import Limits
from benchmarks.report.facts import Conditions, Facts, loop_record, of_records
from benchmarks.report.rows import RowBuilder
from export.bundle import records
from export.bundle.latencies import Latency, LoopRecord
from export.bundle.manifest import Build
from export.bundle.records import Record
from export.bundle.verdicts import Verification
from tests.benchmarks.report.sample_report import sample_report
from xfer.errors import UsageError
from xfer.spec import RewardScale

NAMES = ("eager-fp32", "eager-fp32@channels_last", "torchscript-fp32", "onnx-fp32", "onnx-int8")
BUILDS = ("eager-fp32", "torchscript-fp32", "onnx-fp32", "onnx-int8")
REWARD = RewardScale(0, 500)
PROTOCOL = Protocol(1, rounds=5)
DEADLINES_MS = (4.0, 2.0, 1.0)

# Hypothesis prefers what stands first, and small numbers: so what can be shipped stands first.
changes = st.sampled_from([0.0, 3.0, -5.0, -10.0, -20.0, -60.0])
verifications = st.builds(
    lambda status, reason, delta, below, agrees, margin: Verification(
        status,
        reason=reason,
        reward_delta=delta,
        reward_interval=None if delta is None or below is None else (delta + below, delta + 5.0),
        agrees_on_recordings=agrees,
        trials_margin=margin,
    ),
    st.sampled_from(["verified", "verified", "verified", "provisional", "provisional", "rejected", "built"]),
    st.sampled_from(["", "too few pairs"]),
    changes | st.none(),
    changes.filter(lambda value: value <= 0) | st.none(),
    st.booleans(),
    st.sampled_from([None, None, 20.0]),
)


@st.composite
def measurements(draw, name):
    """Rounds of a variant: of a few calls or enough for p99, with a tail or without one; or a process that failed."""
    if draw(st.integers(0, 5)) == 5:
        return Measurement(name, name, error="its process ended")
    typical = draw(st.sampled_from([0.5, 0.8, 1.0, 2.0, 5.0])) / 1000
    tail = draw(st.sampled_from([1.0, 1.0, 3.0]))
    calls = draw(st.sampled_from([180, 4]))
    window = (*[typical] * (calls - calls // 4), *[typical * tail] * (calls // 4))
    return Measurement(name, name, (window,) * PROTOCOL.rounds)


@st.composite
def loops(draw, name, deadline_ms):
    latencies = tuple(
        draw(st.lists(st.sampled_from([0.5, 1.5, 3.0]), min_size=draw(st.sampled_from([1, 1, 1, 0])), max_size=4))
    )
    return ControlLoop(name, 50.0, deadline_ms, latencies, error=draw(st.sampled_from(["", "", "", "", "it ended"])))


@st.composite
def benches(draw):
    """What a bench finds: builds, those that cannot run here, earlier records, measurements, control loops."""
    statuses = {
        name: draw(st.sampled_from(["built", "built", "built", "built", "built", "failed", "unavailable"]))
        for name in BUILDS
    }
    builds = {
        name: Build(name, status, "" if status == "built" else "no luck", folder=name)
        for name, status in statuses.items()
    }
    named = [name for name in NAMES if name.partition("@")[0] in builds]
    idle = {name: "no such library" for name in named if draw(st.integers(0, 5)) == 5}
    idle |= {name: builds[name.partition("@")[0]].reason for name in named if not _built(builds, name)}
    known = {}
    for name in named:
        if _built(builds, name) and draw(st.integers(0, 4)) != 4:
            known[name] = Record(name, "files", {}, draw(verifications | st.none()))
    measured = {name: draw(measurements(name)) for name in named if name not in idle}
    loop_deadline = draw(st.none() | st.sampled_from(DEADLINES_MS))
    run = [name for name, one in measured.items() if not one.error] if loop_deadline else []
    return builds, idle, known, measured, [draw(loops(name, loop_deadline)) for name in run], loop_deadline


def _built(builds, name):
    return builds[name.partition("@")[0]].status == "built"


limits = st.builds(
    Limits,
    st.none() | st.sampled_from(DEADLINES_MS),
    st.sampled_from([0.02, 0.1, 1.0, 0.01, 0.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.99, 0.6, 0.001]),
)


def test_the_report_and_the_records_of_one_bench_name_the_same_variant_or_none(shell):
    named = []

    @settings(max_examples=300, deadline=None, database=None)
    @given(benches(), limits)
    def check(bench, asked):
        builds, idle, known, measured, control_loops, loop_deadline = bench
        if loop_deadline is not None and asked.deadline_ms is None:
            asked = replace(asked, deadline_ms=loop_deadline)  # as `bench` does
        names = [name for name in NAMES if name.partition("@")[0] in builds]
        candidates = [Candidate(name, None, name, "eager-fp32") for name in measured]
        rows = RowBuilder(builds, known, names, idle, candidates, None, PROTOCOL)
        report = replace(shell, rows=rows.all(measured), loops=tuple(control_loops), limits=asked)
        # What the bench leaves in the bundle's records.
        by_name = {loop.name: loop_record(loop) for loop in control_loops}
        kept = dict(known)
        for name, figures in rows.figures(measured).items():
            before = kept.get(name, Record(name, "", {}))
            by_loop = by_name.get(name)
            kept[name] = records.with_figures(before, figures, by_loop) if figures else records.without_figures(before)
        recommended = decision.decide(of_records(builds, kept, idle), asked, "eager-fp32", REWARD).chosen
        named.append(recommended.variant if recommended else "")
        assert conclude(report).ship == named[-1]

    check()
    # The examples are not all of one kind.
    assert len(set(named)) >= 3, set(named)
    assert 0.03 < sum(map(bool, named)) / len(named) < 0.95


@pytest.fixture(scope="module")
def shell():
    """A report without rows."""
    return replace(sample_report(), measurements=(), reward=REWARD, sweep=())


def test_those_that_are_not_shown_to_take_longer_tie_with_the_chosen_one():
    spread = (1.0, 1.02, 0.98, 1.03, 0.97, 1.01, 0.99, 1.0)
    proven = Facts("", "verified", reward_delta=0.0, reward_interval=(0.0, 0.0), p50_ms=1.0)

    def taking(name, factor, starts=spread):
        return replace(proven, variant=name, p50_ms=factor, starts_ms=tuple(factor * start for start in starts))

    best, close, late = taking("best", 1.0), taking("close", 1.01, spread[::-1]), taking("late", 1.3, spread[3:] * 2)
    rejected = replace(taking("rejected", 1.001), status="rejected")
    decided = decision.decide([late, close, rejected, best], Limits(), "eager-fp32", REWARD)
    assert (decided.chosen.variant, decided.ties) == ("best", ("close",))
    # Two starts, as of a quick bench, tell nothing of either kind; nor do those of version 0.2.0, which had one.
    for starts in (spread[:2], ()):
        few = [replace(one, starts_ms=starts) for one in (best, close, late)]
        assert decision.decide(few, Limits(), "eager-fp32", REWARD).ties == ()
        assert decision.decide([best, few[1]], Limits(), "eager-fp32", REWARD).ties == ()


def test_equal_medians_are_told_apart_by_name_whatever_the_order():
    one = Facts("b", "verified", reward_delta=0.0, reward_interval=(0.0, 0.0), p50_ms=1.0)
    two = replace(one, variant="a")
    for facts in ([one, two], [two, one]):
        assert decision.decide(facts, Limits(), "eager-fp32", REWARD).chosen.variant == "a"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": "failed", "reason": "no memory"}, "failed: no memory"),
        ({"cannot_run": "not run here: no GPU"}, "no GPU"),
        ({"elsewhere": True}, "inherited, not believed"),
        ({"status": "built"}, "not verified on this machine"),
        ({"status": "rejected", "reason": "regret 0.2"}, "rejected: regret 0.2"),
        ({"status": "provisional"}, "--allow-provisional takes it"),
        ({"reward_interval": None}, "not compared with eager's"),
        ({"reward_interval": (-11.0, 1.0)}, "may lose 2.20% of the reward, 2.00% is allowed"),
        ({"p50_ms": None}, "not measured on this machine"),
        ({"p99_upper_ms": None}, "100 calls were in too few turns"),
        ({"p99_upper_ms": 9.0}, "p99 may be 9.00 ms, later than 8 ms"),
    ],
)
def test_each_condition_of_the_rule_says_why_it_fails(changes, why):
    holds = Facts(
        "onnx-int8",
        "verified",
        reward_delta=-1.0,
        reward_interval=(-10.0, 1.0),
        p50_ms=1.0,
        p99_upper_ms=8.0,
        samples=100,
    )
    asked = Limits(8.0)
    assert decision.judge(holds, asked, "eager-fp32", REWARD).why_not == ""
    assert why in decision.judge(replace(holds, **changes), asked, "eager-fp32", REWARD).why_not


@pytest.mark.parametrize(
    "wrong",
    [
        Limits(0.0),
        Limits(max_miss_rate=0.0),
        Limits(max_miss_rate=1.0),
        Limits(float("inf")),
        Limits(None, 1.5),
        Limits(None, -0.1),
    ],
)
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong.check()


def test_limits_are_given_back_as_options():
    assert Limits().options() == []
    words = ["--deadline-ms", "5", "--max-reward-drop", "0.1", "--allow-provisional"]
    assert Limits(5.0, 0.1, True).options() == words
    assert Limits(on_recordings=True).options() == ["--on-recordings"]
    assert Limits(5.0, 0.1, True, True).options() == [*words, "--on-recordings"]
    allowed = "provisional variants and agreement on recordings allowed"
    assert str(Limits(None, 0.02, True, True)) == f"no deadline, at most 2 % of the reward lost, {allowed}"


AGREES = Facts("onnx-int8", "provisional", "reward not run", p50_ms=1.0, agrees_on_recordings=True)


@pytest.mark.parametrize("reward", [REWARD, None])
@pytest.mark.parametrize(
    ("facts", "asked", "why"),
    [
        (AGREES, Limits(on_recordings=True), ""),
        (AGREES, Limits(), "provisional: reward not run (--on-recordings takes it)"),
        (AGREES, Limits(allow_provisional=True), "its reward was not compared with eager's"),
        (
            replace(AGREES, agrees_on_recordings=False),
            Limits(on_recordings=True),
            "provisional: reward not run (--allow-provisional takes it)",
        ),
        (replace(AGREES, status="rejected"), Limits(on_recordings=True), "rejected: reward not run"),
        (replace(AGREES, elsewhere=True), Limits(on_recordings=True), "known from another machine only"),
    ],
)
def test_agreement_on_recordings_is_enough_where_one_asks_for_no_more(facts, asked, why, reward):
    found = decision.judge(facts, asked, "eager-fp32", reward).why_not
    assert found.startswith(why)
    assert bool(found) == bool(why)


@pytest.mark.parametrize("reward", [REWARD, None])
def test_the_margin_of_trials_counts_as_two_percent_whatever_their_unit(reward):
    tried = Facts("onnx-int8", "verified", p50_ms=1.0, reward_delta=0.0, reward_interval=(-0.08, 0.08))
    tried = replace(tried, trials_margin=0.1)
    assert decision.judge(tried, Limits(), "eager-fp32", reward).why_not == ""
    late = decision.judge(tried, Limits(max_reward_drop=0.015), "eager-fp32", reward).why_not
    assert late == "may lose 1.60% of the reward, 1.50% is allowed"


FIGURES = Latency(4.0, 5.0, 5.0, 6.0, 7.0, 9.0, 2.0, (1.9, 2.1), 1024, True, False, 1.0, 10, 2, spin=False)
PACED = LoopRecord(50.0, 20.0, 3000, 0, threads=2, spin=False, slowest_ms=(9.0, *[5.0] * 99))
PROVEN = Verification("verified", "reward", reward_delta=0.0, reward_interval=(-1.0, 1.0))
DEADLINE, LAST = Limits(20.0), Conditions()
BUILT = {"onnx-int8": Build("onnx-int8", "built", folder="onnx-int8")}


def benched(*benches):
    """Return the record after benches, each a Latency and a LoopRecord or None, the newest last."""
    record = Record("onnx-int8", "", {}, PROVEN)
    for hour, (latency, loop) in enumerate(benches):
        when = f"2026-01-01T{hour:02}:00:00+00:00"
        record = records.with_figures(record, replace(latency, measured=when), loop and replace(loop, measured=when))
    return record


def judged(record, limits=DEADLINE, asked=LAST):
    (facts,) = of_records(BUILT, {"onnx-int8": record}, {}, asked=asked)
    return decision.judge(facts, limits, "eager-fp32", REWARD).why_not


def test_a_short_bench_takes_nothing_from_a_long_one():
    quick = replace(FIGURES, quick=True, p99_upper_ms=None, p50_ms=1.0)
    strict = replace(FIGURES, strict=True, p50_ms=3.0)
    for benches in ((strict, quick), (quick, strict), (strict, quick, FIGURES), (FIGURES, strict, quick)):
        record = benched(*((one, None) for one in benches))
        assert record.latency.p50_ms == 3.0
        assert len(record.latencies) == len(benches)
        assert judged(record) == ""
    again = benched((strict, None), (replace(strict, p50_ms=2.0), None))
    assert [one.p50_ms for one in again.latencies] == [2.0]


def test_a_missed_loop_decides_whatever_later_benches_say_of_back_to_back_calls():
    record = benched((FIGURES, replace(PACED, missed=30, slowest_ms=(25.0,) * 30 + (5.0,) * 70)), (FIGURES, None))
    assert judged(record) == "missed 30 of 3,000 deadlines of 20 ms in the control loop at 50 Hz"
    # The latencies that were kept tell about other deadlines too.
    assert judged(record, Limits(25.0)) == ""
    assert judged(record, Limits(24.0)).startswith("missed 30 of 3,000 deadlines of 24 ms")


def test_without_a_loop_the_back_to_back_calls_decide():
    assert judged(benched((FIGURES, None))) == ""
    assert judged(benched((replace(FIGURES, p99_upper_ms=21.0), None))).startswith("p99 may be 21.0 ms")


def test_few_ticks_without_a_miss_prove_nothing_and_say_how_many_would():
    few = replace(PACED, ticks=500, quick=True)
    why = judged(benched((FIGURES, few)))
    assert "not proven" in why
    assert "2,495 more ticks" in why
    assert judged(benched((FIGURES, few)), Limits(20.0, max_miss_rate=0.01)) == ""


def test_a_short_loop_that_proves_nothing_does_not_undo_a_long_one_and_one_that_missed_does():
    few = replace(PACED, ticks=500, quick=True)
    assert judged(benched((FIGURES, PACED), (FIGURES, few))) == ""
    late = replace(few, missed=100, slowest_ms=(25.0,) * 100)
    assert judged(benched((FIGURES, PACED), (FIGURES, late))).startswith("missed 100 of 500")


def test_a_loop_at_another_rate_or_with_other_threads_is_another_question():
    fast = replace(PACED, rate_hz=200.0, missed=300, slowest_ms=(25.0,) * 100)
    record = benched((FIGURES, fast), (FIGURES, PACED))
    assert judged(record) == ""
    assert judged(record, asked=Conditions(rate_hz=200.0)).startswith("missed 300")
    spinning = benched((FIGURES, replace(PACED, missed=300)), (replace(FIGURES, spin=True, p50_ms=1.0), None))
    assert judged(spinning) == ""
    assert judged(spinning, asked=Conditions(spin=False)).startswith("missed 300")


def test_variants_are_held_against_each_other_with_the_threads_of_the_last_bench():
    two, one = benched((FIGURES, None)), benched((FIGURES, None), (replace(FIGURES, threads=1), None))
    builds = {**BUILT, "onnx-fp32": Build("onnx-fp32", "built", folder="onnx-fp32")}
    known = {"onnx-int8": replace(two, variant="onnx-int8"), "onnx-fp32": replace(one, variant="onnx-fp32")}
    found = {facts.variant: facts for facts in of_records(builds, known, {})}
    assert found["onnx-fp32"].p50_ms is not None
    why = decision.judge(found["onnx-int8"], Limits(), "eager-fp32", REWARD).why_not
    assert why == "not measured on this machine with 1 thread that does not spin: run xfer bench"
    both = of_records(builds, known, {}, asked=Conditions(threads=2))
    assert all(facts.p50_ms is not None for facts in both)


def test_what_counts_of_a_record_of_version_020():
    old = Record("onnx-int8", "", {}, PROVEN, replace(FIGURES, spin=True), LoopRecord(50.0, 20.0, 3000, 30))
    assert judged(old).startswith("missed 30 of 3,000")
    assert judged(old, Limits(15.0)).startswith("missed at least 30 of 3,000")
    clean = replace(old, loop=LoopRecord(50.0, 20.0, 3000, 0))
    assert judged(clean, Limits(25.0)) == judged(clean) == ""
    assert judged(clean, Limits(15.0)) == ""  # it kept no latencies: p99 decides
    assert judged(replace(clean, latency=replace(FIGURES, spin=True, p99_upper_ms=16.0)), Limits(15.0)) != ""
    new = records.with_figures(old, replace(FIGURES, measured="2026"), None)
    assert [one.spin for one in new.latencies] == [True, False]


def test_a_record_keeps_the_slowest_ticks_and_counts_dropped_ones_as_missed():
    loop = ControlLoop("x", 50.0, 20.0, tuple(float(i) for i in range(10_000)), dropped=7, threads=2, spin=False)
    kept = loop_record(loop)
    assert (kept.ticks, kept.missed, kept.dropped) == (10_007, 7 + 9979, 7)
    assert kept.slowest_ms[:2] == (9999.0, 9998.0)
    assert kept.missed_at(9990.5) == (9 + 7, 9 + 7)
    assert kept.missed_at(5.0) == (7 + 9979, 10_007)
    assert kept.missed_at(25.0) == (201 + 7, 7 + 9979)


def test_what_missed_a_long_deadline_is_not_recommended_for_a_short_one_however_late_it_was():
    record = benched((FIGURES, replace(PACED, missed=300, slowest_ms=(25.0,) * 100)))
    assert judged(record, Limits(15.0)).startswith("missed at least 300 of 3,000 deadlines of 15 ms")
    # Where the record does not tell, back-to-back calls do not decide instead.
    assert "is not proven" in judged(record, Limits(15.0, max_miss_rate=0.2))
