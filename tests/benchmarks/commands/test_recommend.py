import json
import shutil
from dataclasses import replace

import pytest

from benchmarks.commands import recommend
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle
from export.bundle.records import Latency, LoopRecord, MachineRecords, Verification
from xfer.errors import UsageError, XferError
from xfer.files import from_json, to_json

VERIFIED = Verification("verified", "reward", reward_delta=-1.0, reward_interval=(-4.78, 1.0))
LATENCY = Latency(4.0, 5.0, 5.0, 6.0, 7.0, 9.0, 2.0, (1.9, 2.1), 1024, True, False, 1.0, 10, 2)


@pytest.fixture
def bundle(small_bundle, tmp_path):
    shutil.copytree(small_bundle.path, tmp_path / "copy.bundle", ignore=shutil.ignore_patterns("records"))
    return Bundle(tmp_path / "copy.bundle")


def _args(bundle, deadline_ms=20.0, **others):
    return recommend.Args(bundle=bundle.path, deadline_ms=deadline_ms, **others)


def _save(bundle, variant, verification=VERIFIED, **latency):
    records.save(bundle, variant, verification=verification, latency=replace(LATENCY, **latency))


def test_the_fastest_variant_that_holds_is_named(bundle):
    _save(bundle, "onnx-fp32", p50_ms=3.0)
    _save(bundle, "onnx-int8", p50_ms=1.0, speedup=5.0)
    _save(bundle, "torchscript-fp32", p50_ms=5.0)
    found = recommend.main(_args(bundle))
    assert (found["variant"], found["p50_ms"], found["speedup"], found["reward_delta"]) == ("onnx-int8", 1, 5, -1)
    assert "fastest of 3 variants that keep the limits" in found["why"]


def test_a_fast_median_does_not_excuse_a_late_tail(bundle):
    _save(bundle, "onnx-int8", p50_ms=1.0, p99_ms=19.0, p99_upper_ms=20.5)
    _save(bundle, "onnx-fp32", p50_ms=3.0)
    assert recommend.main(_args(bundle, 20.0))["variant"] == "onnx-fp32"
    assert recommend.main(_args(bundle, 20.5))["variant"] == "onnx-int8"


def test_without_a_deadline_a_quick_bench_is_enough(bundle):
    _save(bundle, "onnx-int8", p99_ms=None, p99_upper_ms=None, samples=256)
    assert recommend.main(recommend.Args(bundle=bundle.path))["variant"] == "onnx-int8"
    with pytest.raises(XferError, match="256 calls were in too few turns"):
        recommend.main(_args(bundle))


def test_the_drop_is_judged_by_its_bound_and_not_by_its_mean(bundle):
    _save(bundle, "onnx-int8", replace(VERIFIED, reward_delta=0.0, reward_interval=(-9.6, 9.0)), p50_ms=1.0)
    _save(bundle, "onnx-fp32", p50_ms=3.0)
    # The span of CartPole's reward is 478: 2 % of it are 9.56.
    assert recommend.main(_args(bundle))["variant"] == "onnx-fp32"
    assert recommend.main(_args(bundle, max_reward_drop=0.021))["variant"] == "onnx-int8"
    with pytest.raises(XferError, match=r"onnx-int8: may lose 2\.01%"):
        recommend.main(_args(bundle, max_reward_drop=0.009))


def test_a_provisional_variant_is_taken_only_when_that_is_allowed(bundle):
    _save(bundle, "onnx-int8", replace(VERIFIED, status="provisional", reason="130 pairs more"))
    with pytest.raises(XferError, match=r"No variant keeps the limits\. onnx-int8: provisional: 130 pairs more"):
        recommend.main(_args(bundle))
    assert recommend.main(_args(bundle, allow_provisional=True))["variant"] == "onnx-int8"


@pytest.mark.parametrize(
    ("verification", "latency", "reason"),
    [
        (replace(VERIFIED, status="rejected", reason="actions: regret 0.2"), {}, "rejected: actions: regret 0.2"),
        (replace(VERIFIED, reward_interval=None), {}, "reward was not compared"),
        (VERIFIED, {"p99_upper_ms": None, "samples": 300}, "300 calls were in too few turns"),
    ],
)
def test_what_is_not_proven_does_not_hold(bundle, verification, latency, reason):
    _save(bundle, "onnx-int8", verification, **latency)
    with pytest.raises(XferError, match=reason):
        recommend.main(_args(bundle))


def test_eager_needs_no_comparison_with_itself(bundle):
    _save(bundle, "eager-fp32", Verification("verified", "reward"))
    assert recommend.main(_args(bundle))["variant"] == "eager-fp32"


def test_verified_but_never_measured_here_does_not_hold(bundle):
    records.save(bundle, "onnx-int8", verification=VERIFIED)
    with pytest.raises(XferError, match="not measured on this machine: run xfer bench"):
        recommend.main(_args(bundle))


def test_records_of_another_machine_are_not_believed(bundle, capsys):
    _save(bundle, "onnx-int8")
    path = bundle.path / "records" / f"{this_machine().id}.json"
    other = from_json(path.read_bytes(), MachineRecords)
    machine = replace(other.machine, processor="Another CPU")
    (path.parent / f"{machine.id}.json").write_bytes(to_json(replace(other, machine=machine)))
    path.unlink()
    with pytest.raises(XferError, match="inherited, not believed"):
        recommend.main(_args(bundle))
    assert "another machine only" in " ".join(capsys.readouterr().out.split())


def _moved(bundle, **changes):
    """Make this machine's records those of another; return the two."""
    here = this_machine()
    path = bundle.path / "records" / f"{here.id}.json"
    known = from_json(path.read_bytes(), MachineRecords)
    there = replace(here, **changes)
    assert there.id != here.id
    (path.parent / f"{there.id}.json").write_bytes(to_json(replace(known, machine=there)))
    path.unlink()
    return here, there


@pytest.mark.parametrize(
    "another", [{"host": "another"}, {"board": "another"}, {"power_mode": "nvpmodel 2"}, {"memory_bytes": 2**40}]
)
def test_another_machine_of_this_kind_is_believed_how_a_variant_acts_and_not_how_fast(bundle, another):
    _save(bundle, "onnx-int8")
    _moved(bundle, **another)
    found = records.load(bundle)["onnx-int8"]
    assert (found.verification, found.latency) == (VERIFIED, None)
    assert [one.machine.kind for one in records.inherited(bundle)] == [this_machine().kind]
    with pytest.raises(XferError, match="not measured on this machine: run xfer bench"):
        recommend.main(_args(bundle))
    _save(bundle, "onnx-int8", None, p50_ms=2.5)
    assert recommend.main(_args(bundle))["p50_ms"] == 2.5
    assert records.load(bundle)["onnx-int8"].verification == VERIFIED


def test_how_many_cores_a_process_may_use_hides_no_record(bundle, monkeypatch):
    _save(bundle, "onnx-int8")
    monkeypatch.setattr(records, "this_machine", lambda: replace(this_machine(), cores=1))
    assert recommend.main(_args(bundle))["variant"] == "onnx-int8"


def test_of_records_of_version_020_verdicts_count_and_latencies_do_not(bundle):
    _save(bundle, "onnx-int8")
    _, older = _moved(bundle, board="", power_mode="", host=None)
    path = bundle.path / "records" / f"{older.id}.json"
    plain = json.loads(path.read_bytes())
    for name in ("board", "power_mode", "host"):  # which that version did not write
        plain["machine"].pop(name, None)
    path.write_text(json.dumps(plain))
    found = records.load(bundle)["onnx-int8"]
    assert (found.verification, found.latency) == (VERIFIED, None)


def test_the_stronger_of_two_verdicts_on_a_kind_counts(bundle):
    rejected = replace(VERIFIED, status="rejected", pairs=200)
    _save(bundle, "onnx-int8", rejected)
    _moved(bundle, host="another")
    fewer = replace(VERIFIED, status="provisional", pairs=20)
    assert records.save(bundle, "onnx-int8", verification=fewer) == rejected
    more = replace(VERIFIED, pairs=400)
    assert records.save(bundle, "onnx-int8", verification=more) == more
    assert records.load(bundle)["onnx-int8"].verification == more


def test_a_verdict_of_this_kind_on_other_files_counts_for_nothing(bundle):
    _save(bundle, "onnx-int8")
    _, there = _moved(bundle, host="another")
    path = bundle.path / "records" / f"{there.id}.json"
    path.write_bytes(path.read_bytes().replace(records.load(bundle)["onnx-int8"].files.encode(), b"0" * 64))
    assert records.load(bundle) == {}


def test_a_bundle_without_records_says_what_to_run(bundle):
    with pytest.raises(XferError, match="run `xfer verify` and `xfer bench`"):
        recommend.main(_args(bundle))


@pytest.mark.parametrize("wrong", [{"deadline_ms": 0.0}, {"deadline_ms": float("nan")}, {"max_reward_drop": 2.0}])
def test_numbers_that_mean_nothing_are_refused(bundle, wrong):
    with pytest.raises(UsageError):
        recommend.main(_args(bundle, **wrong))


def test_where_every_variant_failed_that_is_said(bundle):
    for name in bundle.builds:
        records.save(bundle, name, verification=Verification("failed", "numbers", "numbers: out of memory"))
    with pytest.raises(XferError, match=r"No variant keeps the limits\. .*: failed: numbers: out of memory"):
        recommend.main(_args(bundle))


PACED = LoopRecord(50.0, 20.0, 3000, 0, threads=2, spin=False, slowest_ms=(9.0, *[5.0] * 99), segments=6)


def _bench(bundle, variant, loop=None, **latency):
    records.save(bundle, variant, verification=VERIFIED, latency=replace(LATENCY, spin=False, **latency), loop=loop)


def test_a_variant_that_just_missed_its_deadline_in_the_loop_is_not_recommended(bundle):
    late = replace(PACED, missed=300, slowest_ms=(25.0,) * 100)
    _bench(bundle, "onnx-int8", late, p50_ms=1.0)
    _bench(bundle, "onnx-fp32", PACED, p50_ms=3.0)
    _bench(bundle, "onnx-int8", p50_ms=1.0)  # a later bench without a loop
    assert recommend.main(_args(bundle, 20.0))["variant"] == "onnx-fp32"
    assert recommend.main(_args(bundle, 15.0))["variant"] == "onnx-fp32"
    assert recommend.main(recommend.Args(bundle=bundle.path))["variant"] == "onnx-int8"


def test_a_later_quick_bench_overwrites_no_strict_one(bundle):
    _bench(bundle, "onnx-int8", strict=True, p50_ms=2.0, measured="2026-01-01T00:00:00+00:00")
    quick = {"quick": True, "p99_upper_ms": None, "p50_ms": 1.0, "measured": "2026-01-02T00:00:00+00:00"}
    _bench(bundle, "onnx-int8", **quick)
    found = recommend.main(_args(bundle, 20.0))
    assert (found["p50_ms"], found["conditions"]["protocol"]) == (2.0, "strict")


def test_the_answer_names_the_conditions(bundle):
    when = "2026-01-02T03:04:05+00:00"
    _bench(bundle, "onnx-int8", measured=when, stable=False, rounds=40, disturbed_rounds=3)
    found = recommend.main(_args(bundle))
    assert "Measured back to back, 2 threads that do not spin, a default bench of 2026-01-02 03:04 UTC" in found["why"]
    assert "UTC, disturbed in 3 of 40 rounds, unstable." in found["why"]
    assert found["conditions"] == {
        "scenario": "back to back",
        "rate_hz": None,
        "threads": 2,
        "spin": False,
        "protocol": "default",
        "measured": when,
        "disturbed": True,
        "stable": False,
    }
    _bench(bundle, "onnx-int8", replace(PACED, idle_cores=0.5, measured=when), measured=when)
    found = recommend.main(_args(bundle))
    assert "kept all 3,000 deadlines of 20 ms at 50 Hz (at most 0.1 % missed)" in found["why"]
    assert "Measured paced at 50 Hz, 2 threads that do not spin, a default bench of" in found["why"]
    assert "0.5 cores busy between ticks, undisturbed." in found["why"]
    assert found["conditions"]["scenario"] == "paced"


def test_threads_spinning_and_rate_can_be_asked_for(bundle):
    _bench(bundle, "onnx-int8", p50_ms=1.0, measured="2026-01-01")
    records.save(bundle, "onnx-int8", latency=replace(LATENCY, spin=True, p50_ms=0.5, measured="2026-01-02"))
    assert recommend.main(_args(bundle))["p50_ms"] == 0.5
    assert recommend.main(_args(bundle, spin=False))["p50_ms"] == 1.0
    with pytest.raises(XferError, match="not measured on this machine"):
        recommend.main(_args(bundle, threads=7))
