import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from benchmarks import plots, report, table, terminal
from benchmarks.latency import Measurement, Protocol
from benchmarks.summary import summarise
from export.bundle import Provenance
from export.records import Machine, Verification
from xfer.spec import RewardScale

PROTOCOL = Protocol(threads=2, quick=True)


def _measured(name, milliseconds, seed):
    random = np.random.default_rng(seed)
    rounds = [tuple((milliseconds / 1000 * random.lognormal(0, 0.1, 200)).tolist()) for _ in range(5)]
    return Measurement(name, name, tuple(rounds), 2, (0, 1), {"torch": "2"}, 50, True, 1.5, 300_000_000)


def _row(variant, verification, latency, whole=False):
    figures = msgspec.to_builtins(latency) if latency else dict.fromkeys(report_keys())
    return {
        "variant": variant,
        **msgspec.to_builtins(verification),
        "size_bytes": 44_700_000,
        **figures,
        "whole_backbone": whole,
    }


def report_keys():
    from export.records import Latency

    return Latency.__dataclass_fields__


@pytest.fixture
def sample():
    eager, onnx = _measured("eager-fp32", 15, 1), _measured("onnx-int8", 3, 2)
    verified = Verification("verified", "reward", "160 pairs", 0.12, None, 0.98, 0.002)
    verified = replace(verified, reward_delta=-1.5, reward_interval=(-4.0, 1.0))
    rows = (
        _row("eager-fp32", Verification("verified"), summarise(eager, eager, PROTOCOL)),
        _row("onnx-int8", verified, summarise(onnx, eager, PROTOCOL)),
        _row("tensorrt-fp16", Verification("built", reason="<script>alert(1)</script> & no GPU"), None),
    )
    provenance = Provenance("runs/<b>x</b>", "a" * 64, "resnet18", "layer2", "flatten", 683_072, 250_000_000, "1")
    return report.Report(
        machine=Machine("Some <CPU>", 2, "avx2", 2**34, "Linux 6", "3.11"),
        measured="2026-01-02T03:04:05+00:00",
        command="xfer bench x.bundle --quick",
        task="cartpole",
        control_hz=50.0,
        reward=RewardScale(22, 500),
        provenances=(provenance,),
        protocol=PROTOCOL,
        notes=("A note.",),
        rows=rows,
        measurements=(eager, onnx),
    )


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_asks_the_network_for_nothing(sample):
    text = report.to_html(sample)
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "image"} & set(page.tags)
    loading = [(k, v) for k, v in page.attributes if k in ("src", "href", "xlink:href", "srcset", "data")]
    assert [v for _, v in loading if not v.startswith(("#", "data:"))] == []
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http:" not in without_namespaces
    assert "https:" not in without_namespaces
    assert re.findall(r"@import|url\((?!#)", text) == []


def test_the_page_shows_every_variant_status_and_plot_and_escapes_what_it_was_given(sample):
    text = report.to_html(sample)
    page = Page(text)
    assert page.tags.count("svg") == 2
    for row in sample.rows:
        assert row["variant"] in page.text
        assert f'<span class="pill {row["status"]}">{row["status"]}</span>' in text
    assert "<script>alert(1)</script> & no GPU" in page.text
    assert "Some <CPU>" in page.text
    assert "683,072 executed parameters" in page.text
    assert sample.command in page.text


def test_status_colours_and_plot_colours_are_the_page_s_own(sample):
    text = report.to_html(sample)
    svg = text[text.index("<svg") :]
    assert "var(--ink)" in svg
    assert [colour for colour in plots.VARIABLES if colour in svg] == []
    defined = set(re.findall(r"(--[\w-]+):", text))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= defined


def test_equal_measurements_give_equal_bytes(sample):
    assert report.to_html(sample) == report.to_html(sample)


def test_plots_keep_their_text_as_text(sample):
    svg = plots.latency(sample.measurements)
    assert ">onnx-int8</text>" in svg
    assert ">onnx-int8</text>" in plots.reward(sample.rows, 9.56)


def test_nothing_to_draw_gives_no_plot(sample):
    assert plots.latency([]) == ""
    assert plots.reward(sample.rows[:1], 9.56) == ""


def test_an_interval_below_the_margin_is_drawn_in_the_colour_of_failure(sample):
    row = sample.rows[1]
    assert "var(--bad)" not in plots.reward([row], None)
    assert plots.reward([row], 3.0).count("var(--bad)") > plots.reward([row], 5.0).count("var(--bad)")


def test_json_keeps_every_raw_sample(sample):
    plain = msgspec.json.decode(report.to_json(sample))
    assert plain["schema"] == [1, 0]
    kept = plain["measurements"][1]["rounds"]
    assert kept == [list(window) for window in sample.measurements[1].rounds]


def test_markdown_has_one_row_a_variant_and_no_raw_html(sample):
    text = report.to_markdown(sample)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(sample.rows)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<script>" not in text
    assert "quick" in text


def test_the_terminal_shows_all_cells_in_a_narrow_window(sample):
    out = io.StringIO()
    terminal.show(sample, {"html": "out/report.html"}, Console(file=out, width=80))
    for text in ("onnx-int8", "verified", "tensorrt-fp16", "out/report.html", "layer2", "quick"):
        assert text in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_verdict_names_the_fastest_proven_variant(sample):
    text = report.verdict(sample.rows)
    assert re.match(r"onnx-int8 is the fastest variant that is verified: (4\.9|5\.0) times as fast", text)


def test_the_verdict_is_careful_where_nothing_is_proven(sample):
    rows = [{**row, "status": "built"} for row in sample.rows]
    assert "nothing is verified on this machine yet" in report.verdict(rows)
    assert report.verdict(sample.rows[2:]) == "No variant could be measured on this machine."
    assert "Nothing that is verified here beats eager" in report.verdict(sample.rows[:1])


def test_a_whole_backbone_is_never_the_verdict(sample):
    whole = {**sample.rows[1], "variant": "onnx-int8 (whole resnet18)", "p50_ms": 0.1, "whole_backbone": True}
    assert report.verdict([*sample.rows, whole]).startswith("onnx-int8 is")


def test_an_unstable_run_is_published_with_its_mark(sample):
    row = {**sample.rows[1], "stable": False}
    assert table.marks(row) == ["unstable"]
    assert 'class="pill unstable"' in report.to_html(replace(sample, rows=(row,)))
    assert "unstable" in report.to_markdown(replace(sample, rows=(row,)))


def test_three_whole_files_are_written(sample, tmp_path):
    paths = report.write(sample, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert {Path(path).name for path in paths.values()} == {path.name for path in tmp_path.iterdir()}
