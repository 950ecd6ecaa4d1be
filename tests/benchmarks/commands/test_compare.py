import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from benchmarks.commands import compare
from benchmarks.commands.compare import Args
from benchmarks.measure.interference import Interference
from benchmarks.measure.protocol import Measurement
from benchmarks.report import write
from benchmarks.report.conclusion import conclude
from benchmarks.stats.permutation import simultaneous
from export.bundle.machine import Machine
from export.bundle.manifest import Provenance
from tests.benchmarks.report.sample_report import TYPICAL_MS, sample_report
from xfer import cli
from xfer.errors import UsageError

NAMES = [name for name in TYPICAL_MS if name != "eager-fp32"]


def bench(seed, slower=None, starts=8, noise=0.02, machine_drift=0.1, between=0.0, **changes):
    """A report of two rounds a start, with a drift that all variants share, and noise of their own.

    ``between`` is how far a start moves all of a process's times.
    """
    rounds = 2 * starts
    rng = np.random.default_rng(seed)
    base = sample_report()
    drift = rng.normal(0, machine_drift, rounds)
    measurements = []
    for one in base.measurements:
        typical = (slower or {}).get(one.name, 1.0) * TYPICAL_MS[one.name] / 1000
        places = np.repeat(rng.normal(0, between, starts), 2) if between else 0.0
        medians = typical * np.exp(drift + places + rng.normal(0, noise, rounds))
        windows = tuple((float(median),) * 3 for median in medians)
        quiet = (Interference(0.0, 0.0),) * rounds
        measurements.append(replace(one, rounds=windows, disturbances=quiet, turns=(), starts=(2,) * starts))
    whole = {"protocol": replace(base.protocol, quick=False, starts=starts, rounds=rounds), **changes}
    return replace(base, measurements=tuple(measurements), kernel=kernel(seed, rounds, starts), **whole)


def kernel(seed, rounds=16, starts=8, times=1.0, version="1"):
    """The reference kernel's measurement, which the machine's drift leaves alone here."""
    medians = times * 0.002 * np.exp(np.random.default_rng([seed, 1]).normal(0, 0.005, rounds))
    windows = tuple((float(median),) * 3 for median in medians)
    return Measurement("reference kernel", "", windows, libraries={"kernel": version}, starts=(2,) * starts)


def verdicts(old, new, alpha=0.05, tolerance=0.02):
    return {change.variant: change.verdict for change in compare.compare(old, new, alpha, tolerance)}


def test_another_way_of_waiting_between_calls_is_said():
    old = bench(1)
    spinning = replace(old, measurements=tuple(replace(one, spin=not one.spin) for one in old.measurements))
    assert [note for note in compare.notes(old, spinning) if "between calls" in note] != []
    assert [note for note in compare.notes(old, bench(2)) if "between calls" in note] == []


def test_a_slower_and_a_faster_variant_are_told_from_those_that_did_not_change():
    found = verdicts(bench(1), bench(2, slower={"onnx-int8": 1.1, "torchscript-fp32": 0.85}))
    assert found["onnx-int8"] == "slower"
    assert found["torchscript-fp32"] == "faster"
    assert found["onnx-fp32"] == found["eager-fp32@channels_last"] == "no difference"
    assert found["eager-fp32"] == "baseline"
    assert found["tensorrt-fp16"] == "not measured"


def test_a_machine_that_was_slower_as_a_whole_is_no_difference():
    found = verdicts(bench(1), bench(2, slower=dict.fromkeys(TYPICAL_MS, 1.5)))
    assert {found[name] for name in NAMES} == {"no difference"}


def test_a_change_within_the_tolerance_is_no_difference_however_sure_it_is():
    old, new = bench(1, noise=0.001), bench(2, noise=0.001, slower={"onnx-int8": 1.03})
    assert verdicts(old, new)["onnx-int8"] == "slower"
    assert verdicts(old, new, tolerance=0.05)["onnx-int8"] == "no difference"


def test_the_interval_holds_the_true_change():
    changes = compare.compare(bench(1), bench(2, slower={"onnx-int8": 1.1}), 0.05, 0.02)
    estimate = next(change.estimate for change in changes if change.variant == "onnx-int8")
    assert estimate.interval[0] < 0.1 < estimate.interval[1]
    assert estimate.interval[1] - estimate.interval[0] < 0.12
    assert estimate.p_value < 0.05


@pytest.mark.parametrize("starts", [5, 10], ids=["every dealing", "dealings drawn at random"])
def test_false_alarms_of_the_whole_comparison_stay_within_the_error_rate(starts):
    """Eight variables with heavy tails that share eager's noise, without any tolerance: the test alone."""
    rng = np.random.default_rng(0)
    alarms, runs = 0, 1000
    for _ in range(runs):
        old, new = (rng.standard_t(3, (8, starts)) + 2 * rng.standard_t(3, starts) for _ in range(2))
        difference, half_width, p_values = simultaneous(old, new, 0.05, resamples=399)
        alarm = bool((np.abs(difference) > half_width).any())
        assert alarm == bool((p_values <= 0.05).any())
        alarms += alarm
    # 5 % are promised; a test of exactly that error rate stays below 6.7 % in 99 of 100 cases.
    assert alarms / runs <= 0.067
    assert alarms / runs >= 0.02  # one that never raises an alarm proves nothing


def test_ten_per_cent_slower_is_found_and_only_that():
    found = [verdicts(bench(2 * seed), bench(2 * seed + 1, slower={"onnx-int8": 1.1})) for seed in range(20)]
    assert sum(one["onnx-int8"] == "slower" for one in found) == 20
    assert sum(one[name] != "no difference" for one in found for name in NAMES if name != "onnx-int8") == 0


def test_starts_that_move_all_times_of_an_unchanged_policy_are_no_difference():
    """Of rounds as the unit, 38 % of such comparisons found a change."""
    alarms = 0
    for seed in range(40):
        found = verdicts(bench(2 * seed, between=0.02), bench(2 * seed + 1, between=0.02), tolerance=0.0)
        alarms += {found[name] for name in NAMES} != {"no difference"}
    assert alarms <= 6  # 5 % are promised; more than six of forty come in 1 of 100 cases


def test_too_few_starts_are_an_error_and_not_a_check_that_cannot_fail():
    with pytest.raises(UsageError, match="3 and 8 starts of each process are too few"):
        compare.compare(bench(1, starts=3), bench(2), 0.001, 0.02)


@pytest.mark.parametrize("quick", ["old", "new"])
def test_a_quick_bench_is_refused_in_one_line(files, capsys, quick):
    short = files[0].with_name("quick.json")
    one = bench(3, protocol=replace(sample_report().protocol, quick=True))
    short.write_text(write.to_json(one, conclude(one)))
    pair = (short, files[0]) if quick == "old" else (files[0], short)
    assert cli.main(["compare", *map(str, pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"xfer: The {quick} report is of a quick bench: too few starts to tell. Bench without --quick."


def upgraded(report):
    """The same bench, whose eager another PyTorch ran."""
    return replace(
        report,
        measurements=tuple(
            replace(m, libraries={"torch": "3"}) if m.name == "eager-fp32" else m for m in report.measurements
        ),
    )


def test_where_eager_became_faster_with_its_libraries_the_kernel_is_the_measure():
    quiet = {"machine_drift": 0.0}
    new = upgraded(bench(2, slower={"eager-fp32": 0.8, "onnx-int8": 1.2}, **quiet))
    changes = {change.variant: change for change in compare.compare(bench(1, **quiet), new, 0.05, 0.02)}
    assert (changes["onnx-fp32"].verdict, changes["eager-fp32"].verdict) == ("no difference", "faster")
    assert changes["onnx-int8"].regression
    assert {changes[name].estimate.against for name in TYPICAL_MS} == {"kernel"}
    (said,) = (note for note in compare.notes(bench(1), new) if "kernel" in note)
    assert said == "eager-fp32 is run by other libraries: times are compared with the reference kernel's."


@pytest.mark.parametrize(
    ("beside", "why"),
    [(None, "a report lacks the reference kernel"), (kernel(2, version="2"), "the reference kernel differs too")],
)
def test_without_a_common_kernel_nothing_is_said_about_times(beside, why):
    new = replace(upgraded(bench(2, slower={"eager-fp32": 0.8})), kernel=beside)
    changes = compare.compare(bench(1), new, 0.05, 0.02)
    assert {c.verdict for c in changes if c.variant in TYPICAL_MS} == {"not comparable"}
    assert not any(change.regression for change in changes)
    assert any(why in note and "nothing is said about times" in note for note in compare.notes(bench(1), new))


def test_a_slower_machine_slows_the_kernel_too():
    new = upgraded(bench(2, slower=dict.fromkeys(TYPICAL_MS, 1.5), machine_drift=0.0))
    found = verdicts(bench(1, machine_drift=0.0), replace(new, kernel=kernel(2, times=1.5)))
    assert {found[name] for name in TYPICAL_MS} == {"no difference"}


def test_a_status_that_fell_a_variant_that_is_gone_and_a_new_one():
    old, new = bench(1), bench(2)
    rows = {row.variant: row for row in new.rows}
    rows["onnx-int8"] = replace(rows["onnx-int8"], status="rejected")
    rows["onnx-fp32"] = replace(rows["onnx-fp32"], status="verified")  # it was provisional
    del rows["torchscript-fp32"]
    rows["onnx-fp16"] = replace(rows["onnx-fp32"], variant="onnx-fp16")
    failed = [replace(m, error="its process died") if "@" in m.name else m for m in new.measurements]
    changes = compare.compare(old, replace(new, rows=tuple(rows.values()), measurements=tuple(failed)), 0.05, 0.02)
    found = {change.variant: (change.verdict, change.regression) for change in changes}
    assert found["onnx-int8"] == ("no difference", True)
    assert found["onnx-fp32"] == ("no difference", False)
    assert found["torchscript-fp32"] == ("gone", True)
    assert found["eager-fp32@channels_last"] == ("gone", True)
    assert found["onnx-fp16"] == ("new", False)


def test_without_eager_the_kernel_is_the_measure_and_that_is_said():
    new = bench(2, machine_drift=0.01, slower={"onnx-int8": 1.3})
    new = replace(new, measurements=tuple(m for m in new.measurements if m.name != "eager-fp32"))
    changes = {change.variant: change for change in compare.compare(bench(1, machine_drift=0.01), new, 0.05, 0.02)}
    assert changes["onnx-int8"].verdict == "slower"
    assert changes["onnx-int8"].estimate.against == "kernel"
    assert changes["eager-fp32"].verdict == "gone"
    assert any("lacks eager-fp32" in note for note in compare.notes(bench(1), new))


def test_a_round_that_an_interrupted_bench_began_is_left_out():
    old, new = bench(1), bench(2, slower={"onnx-int8": 1.2}, partial="the connection was lost")
    first, *others = new.measurements
    cut = (first, *(replace(m, rounds=m.rounds[:-1]) for m in others))
    found = verdicts(old, replace(new, measurements=cut))
    assert found["onnx-int8"] == "slower"


def test_notes_name_what_differs_and_what_disturbed():
    old = bench(1, machine_drift=0)
    first = old.measurements[0]
    new = replace(
        bench(2, partial="interrupted in round 9"),
        machine=Machine("Another CPU", 4, "avx2", 2**34, "Linux 6", "3.11"),
        protocol=replace(old.protocol, threads=4),
        provenances=(Provenance("run", "b" * 64, "resnet34", "layer2", "flatten", 1, 2, "1"),),
        measurements=(
            replace(first, libraries={"torch": "3"}, disturbances=(Interference(0.5, 0.0),) * 16),
            *bench(2).measurements[1:],
        ),
    )
    text = " ".join(compare.notes(old, new))
    for part in (
        "Some <CPU>",
        "Another CPU",
        "Different threads: 2 in the old report, 4",
        "resnet34",
        "bbbbbbbbbbbb",
        "Different libraries run eager-fp32: torch 2 in the old report, torch 3",
        "The new report: This report is not whole: interrupted in round 9.",
        "16 of ",
        "other processes took up to 50 %",
    ):
        assert part in text
    assert compare.notes(old, bench(2, machine_drift=0)) == []


@pytest.fixture
def files(tmp_path):
    paths = []
    for name, one in (("old", bench(1)), ("same", bench(2)), ("worse", bench(2, slower={"onnx-int8": 1.1}))):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(write.to_json(one, conclude(one)))
    return paths


def test_the_command_exits_non_zero_on_a_regression_and_prints_its_object_all_the_same(files, capsys):
    old, same, worse = (str(path) for path in files)
    assert cli.main(["compare", old, same, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["regressions"] == []
    assert cli.main(["compare", old, worse, "--json"]) == 1
    captured = capsys.readouterr()
    answer = json.loads(captured.out.splitlines()[-1])
    assert answer["regressions"] == ["onnx-int8"]
    assert {row["variant"]: row["verdict"] for row in answer["variants"]}["onnx-int8"] == "slower"
    assert captured.err.splitlines() == [f"xfer: {worse} is worse than {old}: onnx-int8."]
    assert "slower" in captured.out


def test_the_table_says_by_how_much(files, capsys):
    compare.main(Args(old=files[0], new=files[1]))
    out = capsys.readouterr().out
    for text in ("onnx-int8", "no difference", "tensorrt-fp16", "Error rate 0.05", "may be up to"):
        assert text in out


def test_a_report_of_the_first_schema_can_be_read_but_has_one_start_only(files):
    plain = json.loads(files[0].read_text())
    for name in ("loops", "sweep", "partial", "findings", "bundle"):
        del plain[name]
    for one in plain["measurements"]:
        del one["disturbances"], one["batch"], one["turns"], one["starts"], one["cold_starts_s"]
    for row in plain["rows"]:
        del row["disturbed_rounds"], row["returns"], row["divergence"]
    files[0].write_text(json.dumps({**plain, "schema": [1, 0]}))
    assert compare.read(files[0]).measurements[0].starts == ()
    with pytest.raises(UsageError, match="1 and 8 starts of each process are too few"):
        compare.main(Args(old=files[0], new=files[1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no report.json"),
        ("{}", "is no report.json of an xfer bench: Object missing required field `schema`"),
        ('{"schema": [1, 0]}', "is no report.json of an xfer bench"),
        ('{"schema": [2, 0]}', "has schema 2.0; this xfer reads 1.x"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(files, capsys, tmp_path, content, message):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    assert cli.main(["compare", str(files[0]), str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_reports_without_a_variant_in_common_are_refused():
    old, new = bench(1), bench(2)
    with pytest.raises(UsageError, match="No variant was measured in both"):
        compare.compare(old, replace(new, measurements=()), 0.05, 0.02)


@pytest.mark.parametrize("option", [{"alpha": 0.0}, {"alpha": 1.5}, {"tolerance": -0.1}])
def test_options_that_do_not_fit(files, option):
    with pytest.raises(UsageError, match=next(iter(option))):
        compare.main(Args(old=files[0], new=files[1], **option))


def test_changes_are_plain_values_for_programs():
    changes = compare.compare(bench(1), bench(2), 0.05, 0.02)
    assert msgspec.json.decode(msgspec.json.encode(changes))[0]["variant"] == "eager-fp32"
