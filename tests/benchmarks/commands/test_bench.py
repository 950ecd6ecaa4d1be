import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import pytest
import tyro

from benchmarks.bench import choose
from benchmarks.commands import bench, bench_options
from benchmarks.measure import protocol
from benchmarks.measure.beside import whole_backbone
from benchmarks.report.decision import Limits
from export.bundle import records
from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter
from tests import processes
from tests.benchmarks.report.sample_report import looped, sample_report
from xfer import cli
from xfer.errors import CheckFailed, UsageError

BENCH_KEYS = [
    "variant",
    "status",
    "rung",
    "reason",
    "pairs",
    "max_abs_diff",
    "agreement",
    "regret",
    "reward_mean",
    "reward_delta",
    "reward_interval",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "max_ms",
    "speedup",
    "speedup_spread",
    "size_bytes",
    "peak_memory_bytes",
    "cold_start_s",
    "stable",
    "p99_upper_ms",
    "p999_ms",
    "p999_upper_ms",
    "rounds",
    "disturbed_rounds",
]


@pytest.fixture
def bundle(small_bundle, tmp_path):
    shutil.copytree(small_bundle.path, tmp_path / "copy.bundle", ignore=shutil.ignore_patterns("records"))
    return Bundle(tmp_path / "copy.bundle")


def test_bench_measures_saves_and_reports_and_a_damaged_build_is_a_row_with_its_reason(
    bundle, monkeypatch, capsys, short_bench
):
    monkeypatch.setattr(whole_backbone, "VARIANTS", ("eager-fp32", "onnx-fp32"))
    BundleWriter(bundle.path).add(Build("tensorrt-fp16", "unavailable", "tensorrt is not installed"))
    next(bundle.path.glob("variants/torchscript-fp32-*/policy.pt")).write_bytes(b"")
    monkeypatch.setattr(bench_options, "QUICK_GAPS", ((0.01, 2),))
    args = bench_options.Args(
        bundle=bundle.path,
        variants="onnx-fp32,torchscript,tensorrt",
        quick=True,
        rate_hz=50,
        seconds=0.5,
        batches="2",
        stream=True,
    )
    result = bench.main(args)
    rows = {row["variant"]: row for row in result["variants"]}
    own = ["eager-fp32", "onnx-fp32"]
    whole = [f"{variant} (whole resnet18)" for variant in own]
    assert sorted(rows) == sorted([*own, "tensorrt-fp16", "torchscript-fp32", *whole])
    assert {key for row in rows.values() for key in BENCH_KEYS if key not in row} == set()
    for name in own + whole:
        row = rows[name]
        assert row["reason"] in ("", "random weights, for timing only"), row["reason"]
        assert row["max_ms"] >= row["p90_ms"] >= row["p50_ms"] > 0
        assert row["p99_ms"] is None  # 70 samples
        assert row["cold_start_s"] > 0
        assert row["speedup_spread"][0] <= row["speedup"] <= row["speedup_spread"][1]
    # Each is held against the eager of its own graph.
    assert rows[whole[0]]["speedup_spread"] == rows["eager-fp32"]["speedup_spread"] == (1.0, 1.0)
    assert rows[whole[0]]["p50_ms"] > rows["eager-fp32"]["p50_ms"]
    assert (rows["tensorrt-fp16"]["status"], rows["tensorrt-fp16"]["p50_ms"]) == ("unavailable", None)
    assert "truncated or exchanged" in rows["torchscript-fp32"]["reason"]
    assert rows["torchscript-fp32"]["p50_ms"] is None

    saved = records.load(bundle)
    assert sorted(saved) == own
    assert saved["onnx-fp32"].latency.p50_ms == rows["onnx-fp32"]["p50_ms"]
    assert saved["onnx-fp32"].latency.quick

    # The broken build is left out of what comes after the rounds.
    assert [(loop["variant"], loop["ticks"], loop["deadline_ms"]) for loop in result["loops"]] == [
        (name, 25, 20.0) for name in own
    ]
    assert [(point["name"], point["batch"]) for point in result["sweep"]] == [(name, 2) for name in own]
    json.dumps(result)
    report = msgspec.json.decode((bundle.path.parent / "report" / "report.json").read_bytes())
    assert [p["tap"] for p in report["provenances"]] == ["stem", "layer4"]
    assert len(report["measurements"]) == len(own + whole) + 1
    assert report["partial"] == ""
    assert [len(loop["latencies_ms"]) for loop in report["loops"]] == [25, 25]
    assert len(report["sweep"]) == 2
    out = capsys.readouterr().out
    assert "truncated or exchanged" in " ".join(out.split())
    streamed = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert streamed[0]["partial"] == "after round 1 of 5"
    assert [len(m["rounds"]) for m in streamed[0]["measurements"]] == [1, 1, 0, 0, 0]  # the whole backbone comes last


def test_by_default_every_build_takes_part_and_eager_channels_last_beside_the_baseline(bundle):
    expected = ["eager-fp32", "eager-fp32@channels_last", "onnx-fp32", "onnx-int8", "torchscript-fp32"]
    assert choose(bundle, "") == expected


def test_the_baseline_is_measured_whatever_was_asked_for(bundle):
    assert choose(bundle, "onnx-int8") == ["eager-fp32", "onnx-int8"]
    assert choose(bundle, "onnx,eager-fp32") == ["eager-fp32", "onnx-fp32", "onnx-int8"]


@pytest.mark.parametrize(("text", "hint"), [("onyx", "'onnx'"), ("onnx-int4", "int8")])
def test_a_variant_that_does_not_exist_is_refused_with_the_closest(bundle, text, hint):
    with pytest.raises(UsageError, match=hint):
        choose(bundle, text)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"rounds": 4}, "--rounds 4 is too few"),
        ({"threads": 4096}, "--threads 4096 does not fit"),
        ({"threads": -1}, "--threads -1 does not fit"),
        ({"quick": True, "strict": True}, "--quick and --strict contradict"),
        ({"cores": "4095"}, "core 4095 cannot be used here. Choose from"),
        ({"cores": "one"}, "'one' is not a number from 0 on"),
        ({"cores": str(protocol.usable_cores()[0]), "threads": 2}, "does not fit 1 chosen cores"),
        ({"batches": "1,0"}, "'0' is not a number from 1 on"),
        ({"rate_hz": 0.0}, "--rate-hz 0 is not a positive number"),
        ({"rate_hz": 50.0, "deadline_ms": float("nan")}, "--deadline-ms nan is not a positive number"),
        ({"seconds": 5.0}, "Give its --rate-hz too"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_runs(bundle, wrong, line):
    with pytest.raises(UsageError, match=line):
        bench.main(bench_options.Args(bundle=bundle.path, **wrong))
    assert not (bundle.path.parent / "report").exists()


def test_an_output_that_is_a_file_is_refused(bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Choose another --output"):
        bench.main(bench_options.Args(bundle=bundle.path, output=tmp_path / "file"))


def test_options_say_how_much_is_measured(bundle):
    core = protocol.usable_cores()[0]
    args = bench_options.Args(bundle=bundle.path, strict=True, cores=str(core), rate_hz=20, batches="1, 4,1")
    chosen = bench_options.protocol_of(args)
    assert (chosen.strict, chosen.cores, chosen.threads) == (True, (core,), 1)
    assert bench_options.pace_of(args).seconds == 60
    assert bench_options.pace_of(replace(args, strict=False, quick=True)).seconds == 10
    assert bench_options.limits_of(replace(args, deadline_ms=8.0)) == Limits(8.0, 0.02, False)
    assert bench_options.batches_of(args) == (1, 4)
    assert bench_options.pace_of(bench_options.Args(bundle=bundle.path)) is None


def test_the_command_in_the_report_gives_the_same_arguments():
    words = ["x.bundle", "--variants", "onnx", "--threads", "1", "--cores", "0,1", "--quick", "--rounds", "7"]
    words += ["--rate-hz", "50.0", "--seconds", "5.0", "--deadline-ms", "20.0", "--batches", "1,4"]
    words += ["--output", "a/b", "--no-whole-backbone", "--host", "user@robot", "--remote-xfer", "./bin/xfer"]
    args = tyro.cli(bench_options.Args, args=words)
    assert bench_options.command_line(args) == "xfer bench " + " ".join(words)
    assert tyro.cli(bench_options.Args, args=bench_options.command_line(args).split()[2:]) == args


def test_what_is_only_printed_is_no_part_of_the_command_in_the_report():
    args = tyro.cli(bench_options.Args, args=["x.bundle", "--strict", "--stream", "--json", "--debug"])
    assert bench_options.command_line(args) == "xfer bench x.bundle --strict"


def test_a_bench_that_is_killed_leaves_what_it_measured(bundle):
    words = ["bench", str(bundle.path), "--variants", "onnx-int8", "--quick", "--stream", "--no-whole-backbone"]
    process = processes.start(*words)
    while "\n" not in process.stdout:
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    first = json.loads(process.stdout.splitlines()[0])
    process.kill()
    assert first["partial"] == f"after round 1 of {protocol.quick(1).rounds}"
    left = json.loads((bundle.path.parent / "report" / "report.json").read_bytes())
    assert left["partial"].startswith("after round")
    assert {m["name"]: len(m["rounds"]) >= 1 for m in left["measurements"]} == {"eager-fp32": True, "onnx-int8": True}
    assert all(row["p50_ms"] > 0 for row in left["rows"])


def test_importing_the_commands_imports_no_heavy_library():
    code = (
        "import sys, benchmarks, benchmarks.commands.bench, benchmarks.commands.recommend;"
        "print(sorted({'torch', 'onnxruntime', 'matplotlib', 'scipy', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_bundle_leaves_no_folder_behind(tmp_path, capsys):
    assert cli.main(["bench", str(tmp_path / "nope.bundle"), "--quick"]) == 1
    assert "is not a bundle" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_exit_status_says_that_a_variant_missed_its_deadline_and_eager_counts_only_if_it_was_named():
    rows = sample_report().rows[::4]  # eager-fp32 and onnx-int8
    both = (looped("eager-fp32", 300), looped("onnx-int8", 300))
    report = replace(sample_report(), rows=rows, loops=both, limits=Limits(5.0))
    with pytest.raises(CheckFailed, match=r"^onnx-int8 missed the deadline of 5 ms\.$") as failed:
        bench.judged(report, bench.answer(report, {}), "")
    loop = failed.value.result["loops"][1]
    assert (loop["verdict"], loop["missed"], loop["ticks"]) == ("missed", 300, 3000)
    eager_alone = replace(report, loops=(both[0], looped("onnx-int8")))
    assert bench.judged(eager_alone, {"it": "all"}, "onnx-int8") == {"it": "all"}
    for named in ("eager-fp32", "eager,onnx-int8"):
        with pytest.raises(CheckFailed, match=r"^eager-fp32 missed"):
            bench.judged(eager_alone, {}, named)
    # Three misses of 3,000 are no evidence, in either direction.
    unproven = replace(report, loops=(looped("eager-fp32"), looped("onnx-int8", 3)))
    assert bench.answer(unproven, {})["loops"][1]["verdict"] == "not proven"
    assert bench.judged(unproven, {}, "") == {}


def test_threads_do_not_spin_unless_asked_and_the_record_says_which(bundle, short_bench):
    assert protocol.full(2).spin is protocol.strict(2).spin is protocol.Protocol(2).spin is False
    args = bench_options.Args(bundle=bundle.path, variants="onnx-int8", quick=True, whole_backbone=False)
    bench.main(args)
    bench.main(replace(args, spin=True))
    kept = records.load(bundle)["onnx-int8"]
    assert [one.spin for one in kept.latencies] == [False, True]
    assert kept.latency == kept.latencies[-1]
