import io
import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks.measure.conditions import Condition
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.report import data, markdown, method, table, terminal, write
from benchmarks.report.conclusion import conclude
from benchmarks.report.rows import Row
from export.bundle.verdicts import Divergence
from tests.benchmarks.report.sample_report import PROTOCOL, sample_report


@pytest.fixture(scope="module")
def sample():
    return sample_report()


def to_json(report):
    return write.to_json(report, conclude(report))


def to_markdown(report):
    return markdown.to_markdown(report, conclude(report))


def shown(sample, width):
    out = io.StringIO()
    terminal.show(sample, conclude(sample), {"html": "out/report.html"}, Console(file=out, width=width))
    return out.getvalue()


def test_json_keeps_every_raw_sample(sample):
    plain = msgspec.json.decode(to_json(sample))
    assert plain["schema"] == [1, 2]
    assert plain["measurements"][1]["rounds"] == [list(window) for window in sample.measurements[1].rounds]
    assert plain["loops"][4]["latencies_ms"] == list(sample.loops[4].latencies_ms)
    assert len(plain["sweep"]) == len(sample.sweep)


def test_json_holds_what_the_page_shows(sample):
    plain = msgspec.json.decode(to_json(sample))
    findings = plain["findings"]
    assert findings["loops"][4]["missed"] == 3
    assert findings["disturbances"][3]["disturbed"] == 4
    assert findings["pareto_front"] == ["onnx-int8", "onnx-fp32"]
    assert list(findings["reward_summaries"]) == [row.variant for row in sample.rows[:5]]
    assert plain["verdict"] == f"{findings['headline']} {' '.join(findings['misses'])}"
    assert plain["rows"][4]["divergence"]["picture"]


def test_a_report_can_be_read_back(sample):
    again = msgspec.json.decode(to_json(sample), type=data.Report)
    assert conclude(again) == conclude(sample)


def test_the_explanation_tells_the_figures_of_the_protocol(sample):
    told = method.explanation(replace(sample, protocol=replace(PROTOCOL, rounds=23, calls=6_700, seconds=600.0)))
    for text in (f"23 rounds of {PROTOCOL.passes} passes", "6,700 calls and 600 s", "p99: 662 calls", "more than 5 %"):
        assert text in told


def test_markdown_has_tables_of_equal_rows_and_no_raw_html(sample):
    text = to_markdown(sample)
    tables = re.split(r"\n\n", text)
    widths = [
        {len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()} for part in tables if part.startswith("| ")
    ]
    assert len(widths) == 6
    assert all(len(width) == 1 for width in widths)
    assert "<script>" not in text
    for words in ("quick", "disturbed", "3 of 3,000", "step 117", "xfer verify x.bundle --full", sample.command):
        assert words in text


def test_markdown_leaves_out_what_was_not_measured(sample):
    rows = tuple(replace(row, returns=(), divergence=None) for row in sample.rows)
    text = to_markdown(replace(sample, loops=(), sweep=(), rows=rows))
    for words in ("Control loop", "Returns", "Batch sweep", "first chose"):
        assert words in to_markdown(sample)
        assert words not in text


def test_the_report_keeps_what_was_found_of_the_machine(sample, tmp_path):
    mend = "echo performance | sudo tee /sys/*/scaling_governor"
    kept = replace(sample, conditions=(Condition("governor", "mend", "powersave", mend),))
    paths = write.write(kept, conclude(kept), tmp_path)
    assert json.loads(Path(paths["json"]).read_text())["conditions"][0]["mend"] == mend
    assert "| governor | mend | powersave | echo performance \\| sudo tee" in Path(paths["md"]).read_text()
    assert mend in Path(paths["html"]).read_text()
    for text in (to_markdown(sample), Path(write.write(sample, conclude(sample), tmp_path)["html"]).read_text()):
        assert "before the first round" not in text


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_all_of_it_in_its_width(sample, width):
    out = shown(sample, width)
    for text in ("onnx-int8", "provisional", "tensorrt-fp16", "out/report.html", "layer2", "quick", "disturbed"):
        assert text in out
    assert "3 of 3,000" in out
    assert "onnx-int8 missed 3 of 3,000 deadlines of 5 ms and is not proven" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= width


def test_the_terminal_says_that_a_report_is_partial_and_that_a_loop_did_not_run(sample):
    broken = ControlLoop("onnx-int8", 50.0, 5.0, error="its process ended")
    out = shown(replace(sample, partial="the connection was lost", loops=(broken,)), 100)
    assert "This report is not whole: the connection was lost." in out
    assert "not run" in out
    assert "onnx-int8 did not finish its control loop: its process ended." in out


def test_a_row_carries_its_marks(sample):
    assert table.marks(Row("x", "built", stable=False, disturbed_rounds=2)) == ["unstable", "disturbed"]
    assert table.marks(Row("x", "built", stable=True, disturbed_rounds=0)) == []
    assert table.marks(Row("x", "built")) == []
    assert "provisional, disturbed" in to_markdown(sample)


def test_a_divergence_is_told_with_both_actions(sample):
    where = Divergence(7, 12, (0.5, -1.0), (0.25, -1.0), 0.031)
    text = table.divergence(Row("onnx-int8", "verified", divergence=where), "eager-fp32")
    for words in ("step 12", "seed 7", "eager (0.5, -1)", "onnx-int8 (0.25, -1)", "0.031"):
        assert words in text


def test_three_whole_files_are_written(sample, tmp_path):
    paths = write.write(sample, conclude(sample), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert {Path(path).name for path in paths.values()} == {path.name for path in tmp_path.iterdir()}
