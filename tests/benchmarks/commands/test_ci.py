"""What continuous integration reads."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks.commands import ci, compare
from benchmarks.report import write
from benchmarks.report.conclusion import conclude
from benchmarks.report.decision import Limits
from tests.benchmarks.report.sample_report import sample_report
from xfer.cli import main
from xfer.errors import CheckFailed, UsageError


@pytest.fixture(scope="module")
def sample():
    return sample_report(limits=Limits(1000.0), loops=())


def cases(path):
    root = ElementTree.parse(path).getroot()
    (suite,) = root
    found = {case.get("name"): case for case in suite}
    outcomes = {
        name: next((part.tag for part in case if part.tag != "system-out"), "passed") for name, case in found.items()
    }
    for kind, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert root.get(key) == suite.get(key) == str(list(outcomes.values()).count(kind))
    assert suite.get("tests") == str(len(found))
    return found, outcomes


def test_a_bench_is_one_test_case_a_variant_that_fails_if_it_is_rejected(sample, tmp_path):
    rows = list(sample.rows)
    rows[4] = replace(rows[4], status="rejected", reason="reward: lost <5> & more\x1b[0m")
    rows[3] = replace(rows[3], status="failed", reason="not measured: its process ended", p50_ms=None)
    ci.write(replace(sample, rows=tuple(rows)), "", tmp_path / "junit.xml", None)
    found, outcomes = cases(tmp_path / "junit.xml")
    assert outcomes == {
        "eager-fp32": "passed",
        "eager-fp32@channels_last": "passed",
        "torchscript-fp32": "passed",
        "onnx-fp32": "error",
        "onnx-int8": "failure",
        "tensorrt-fp16": "skipped",
    }
    assert found["onnx-int8"].find("failure").get("message") == "rejected: reward: lost <5> & more[0m"
    assert float(found["eager-fp32"].get("time")) == pytest.approx(rows[0].p50_ms / 1000, abs=1e-6)


def test_a_missed_deadline_fails_and_that_of_the_reference_only_if_it_was_asked_for(sample, tmp_path):
    late = replace(sample, limits=Limits(2.0))
    ci.write(late, "", tmp_path / "junit.xml", None)
    found, outcomes = cases(tmp_path / "junit.xml")
    assert (outcomes["eager-fp32"], outcomes["torchscript-fp32"], outcomes["onnx-int8"]) == (
        "passed",
        "failure",
        "passed",
    )
    assert found["torchscript-fp32"].find("failure").get("message") == "missed the deadline of 2 ms"
    ci.write(late, "eager-fp32", tmp_path / "junit.xml", None)
    assert cases(tmp_path / "junit.xml")[1]["eager-fp32"] == "failure"


def test_the_figures_are_what_github_action_benchmark_reads(sample, tmp_path):
    ci.write(sample, "", None, tmp_path / "benchmark.json")
    entries = json.loads((tmp_path / "benchmark.json").read_bytes())
    named = {entry["name"]: entry for entry in entries}
    assert len(named) == len(entries) == 2 * 5  # p50 and p99; tensorrt-fp16 was not measured
    for entry in entries:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert entry["unit"] == "ms"
        assert entry["value"] > 0
    assert named["onnx-fp32 p50"]["range"].startswith("± ")
    assert named["onnx-fp32 p50"]["value"] < named["eager-fp32 p50"]["value"]


def test_a_comparison_is_one_test_case_a_variant_that_fails_if_it_became_worse(sample, tmp_path, capsys):
    old = replace(sample, protocol=replace(sample.protocol, quick=False))
    new = replace(old, rows=(*old.rows[:4], replace(old.rows[4], status="rejected"), *old.rows[5:]))
    for name, report in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(write.to_json(report, conclude(report)))
    args = compare.Args(
        old=tmp_path / "old.json",
        new=tmp_path / "new.json",
        junit=tmp_path / "junit.xml",
        benchmark_json=tmp_path / "benchmark.json",
    )
    with pytest.raises(CheckFailed, match="onnx-int8"):
        compare.main(args)
    found, outcomes = cases(tmp_path / "junit.xml")
    assert (outcomes["onnx-int8"], outcomes["onnx-fp32"], outcomes["tensorrt-fp16"]) == ("failure", "passed", "skipped")
    assert "status verified then rejected" in found["onnx-int8"].find("failure").get("message")
    assert len(json.loads((tmp_path / "benchmark.json").read_bytes())) == 10


@pytest.mark.parametrize("option", ["--junit", "--benchmark-json"])
def test_a_file_that_cannot_be_written_is_refused_in_one_line(sample, tmp_path, option):
    paths = {"--junit": None, "--benchmark-json": None, option: tmp_path / "none" / "file"}
    with pytest.raises(UsageError, match=f"cannot be written to: .*Choose another file for {option}"):
        ci.write(sample, "", *paths.values())


@pytest.mark.parametrize("option", ["--junit", "--benchmark-json"])
@pytest.mark.parametrize(("file", "why"), [("none/file", "which is no folder"), (".", "is a folder")])
def test_nothing_is_measured_for_a_file_that_could_not_be_written(capsys, tmp_path, option, file, why):
    assert main(["bench", str(tmp_path / "no.bundle"), option, str(tmp_path / file)]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert why in said
