"""The report and ``xfer recommend`` never name different variants."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.protocol import Candidate, Measurement, Protocol
from benchmarks.report import decision
from benchmarks.report.conclusion import conclude
from benchmarks.report.decision import Limits, loop_record
from benchmarks.report.rows import RowBuilder
from export.bundle.manifest import Build
from export.bundle.records import Record, Verification
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
            kept[name] = replace(kept.get(name, Record(name, "", {})), latency=figures, loop=by_name.get(name))
        recommended = decision.decide(decision.of_records(builds, kept, idle), asked, "eager-fp32", REWARD).chosen
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


def test_equal_medians_are_told_apart_by_name_whatever_the_order():
    one = decision.Facts("b", "verified", reward_delta=0.0, reward_interval=(0.0, 0.0), p50_ms=1.0)
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
    holds = decision.Facts(
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


@pytest.mark.parametrize("wrong", [Limits(0.0), Limits(float("inf")), Limits(None, 1.5), Limits(None, -0.1)])
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


AGREES = decision.Facts("onnx-int8", "provisional", "reward not run", p50_ms=1.0, agrees_on_recordings=True)


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
    tried = decision.Facts("onnx-int8", "verified", p50_ms=1.0, reward_delta=0.0, reward_interval=(-0.08, 0.08))
    tried = replace(tried, trials_margin=0.1)
    assert decision.judge(tried, Limits(), "eager-fp32", reward).why_not == ""
    late = decision.judge(tried, Limits(max_reward_drop=0.015), "eager-fp32", reward).why_not
    assert late == "may lose 1.60% of the reward, 1.50% is allowed"
