import re
from dataclasses import replace

import pytest

from benchmarks.report import plots
from benchmarks.report.conclusion import conclude
from benchmarks.report.figures import comparable, reward_summaries
from benchmarks.report.plots.svg import PIXELS, VARIABLES
from benchmarks.report.plots.timeline import timeline
from tests.benchmarks.report.sample_report import looped, sample_report

EAGER = "eager-fp32"


@pytest.fixture(scope="module")
def sample():
    return sample_report()


def draw(sample):
    return {
        "pareto": plots.pareto(comparable(sample.rows, EAGER), 9.56),
        "latency": plots.latency(sample.measurements),
        "timeline": timeline(sample.loops),
        "reward": plots.reward(sample.rows, 9.56),
        "returns": plots.returns(conclude(sample).reward_summaries),
        "sweep": plots.sweep(sample.sweep),
    }


@pytest.fixture(scope="module")
def drawn(sample):
    return draw(sample)


def test_every_plot_says_its_figures_to_those_who_do_not_see_it(drawn):
    for svg in drawn.values():
        label = re.match(r'<svg role="img" aria-label="([^"]*)"', svg)[1]
        assert "onnx-int8" in label
        assert re.search(r"\d\.\d", label)


def test_plots_take_their_colors_from_the_page(drawn):
    for svg in drawn.values():
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert [color for color in VARIABLES if color in svg] == []


def test_the_reference_is_gray_whichever_it_is(sample):
    measured = [one for one in sample.measurements if one.name in (EAGER, "onnx-int8")]
    loops = [looped("onnx-int8")]
    for reference in (EAGER, "onnx-int8"):
        assert plots.latency(measured, reference).count("var(--base)") > 0
        assert ("var(--base)" in timeline(loops, reference)) == (reference == "onnx-int8")


def test_plots_keep_their_text_as_text(drawn):
    for name in ("latency", "timeline", "reward", "returns"):
        assert ">onnx-int8</text>" in drawn[name]


def test_no_two_plots_share_an_identifier(drawn):
    found = [identifier for svg in drawn.values() for identifier in set(re.findall(r' id="([^"]+)"', svg))]
    assert found
    assert len(found) == len(set(found))


def test_equal_figures_give_equal_bytes(sample, drawn):
    assert draw(sample) == drawn


def test_nothing_to_draw_gives_no_plot(sample):
    assert plots.latency([]) == ""
    assert plots.reward(sample.rows[:1], 9.56) == ""
    assert plots.pareto(comparable(sample.rows[:1], EAGER), 9.56) == ""
    assert plots.returns({}) == ""
    assert plots.sweep([]) == ""
    assert timeline([]) == ""
    assert timeline([replace(looped("onnx-int8"), latencies_ms=(), error="no")]) == ""


def test_an_interval_below_the_margin_is_drawn_in_the_color_of_failure(sample):
    row = sample.rows[4]
    assert "var(--bad)" not in plots.reward([row], None)
    assert plots.reward([row], 3.0).count("var(--bad)") > plots.reward([row], 5.0).count("var(--bad)")


def test_the_pareto_plot_shows_status_by_color_and_numbers_every_point(sample):
    svg = plots.pareto(comparable(sample.rows, EAGER), None)
    assert "var(--good)" in svg
    assert "var(--warn)" in svg
    assert "var(--bad)" not in svg
    assert [n for n in "123456" if f">{n}</text>" in svg] == ["1", "2", "3", "4", "5"]
    rejected = [replace(row, status="rejected") for row in sample.rows]
    assert "var(--bad)" in plots.pareto(comparable(rejected, EAGER), None)


def test_a_point_without_bounds_is_drawn_all_the_same(sample):
    rows = [replace(row, p99_upper_ms=None, reward_interval=None) for row in sample.rows]
    assert plots.pareto(comparable(rows, EAGER), None).startswith("<svg")


@pytest.mark.parametrize("missed", [0, 1, 3])
def test_every_missed_tick_is_drawn_however_many_ticks_there_are(missed):
    svg = timeline([looped("onnx-int8", missed, 20 * PIXELS)])
    assert len(re.findall(r"<use [^>]*fill: var\(--bad\)", svg)) == missed


def test_a_loop_that_misses_every_tick_gives_no_larger_plot():
    late = timeline([replace(looped("onnx-int8", 0, 60_000), deadline_ms=0.1)])
    assert "missed 60,000 of 60,000" in late
    assert len(late) < 4 * len(timeline([looped("onnx-int8", 0, 60_000)]))


def test_equal_returns_are_drawn_at_their_value(sample):
    rows = [replace(row, returns=((1, 500.0, 500.0), (2, 500.0, 500.0))) for row in sample.rows]
    svg = plots.returns(reward_summaries(rows, EAGER))
    assert re.search(r">500(\.0+)?</text>", svg)
    assert "+5e2" not in svg


def test_a_long_loop_gives_no_larger_plot():
    assert len(timeline([looped("onnx-int8", 3, 60_000)])) < 1.2 * len(timeline([looped("onnx-int8", 3, 6_000)]))


def test_a_long_tail_gives_no_larger_plot(sample):
    one = sample.measurements[4]
    long = replace(one, rounds=one.rounds * 500)
    assert len(plots.latency([long])) < 3 * len(plots.latency([one]))
