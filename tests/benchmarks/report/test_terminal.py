"""What the terminal shows fits 80 columns, with one line a variant."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.commands import compare, recommend, reproduce
from benchmarks.report import conclusion, terminal, write
from benchmarks.report.conclusion import conclude
from benchmarks.report.decision import Limits
from tests.benchmarks.report.sample_report import sample_report
from xfer import cli

SNAPSHOT = Path(__file__).with_name("bench_at_80_columns.txt")


def whole_sample():
    """The sample with a whole backbone beside it, as a bench of a cut policy has."""
    report = sample_report()
    whole = [
        replace(
            report.rows[index],
            variant=f"{report.rows[index].variant} (whole resnet18)",
            status="built",
            reason="random weights, for timing only",
            reward_delta=None,
            disturbed_rounds=0,
            whole_backbone=True,
        )
        for index in (0, 2, 4)
    ]
    return replace(report, rows=(*report.rows, *whole))


@pytest.fixture(scope="module")
def sample():
    return whole_sample()


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def shown(report):
    out = io.StringIO()
    terminal.show(report, conclude(report), {"html": "report/report.html"}, Console(file=out, width=80))
    return out.getvalue()


def snapshot(report):
    return "".join(f"{line.rstrip()}\n" for line in shown(report).splitlines())


def fits(text):
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_a_bench_is_shown_as_it_was(sample):
    """``python -m tests.benchmarks.report.test_terminal`` writes the snapshot anew."""
    assert snapshot(sample) == SNAPSHOT.read_text()


def test_a_bench_fits_80_columns_with_one_line_a_variant_and_each_reason_once(sample):
    text = shown(sample)
    fits(text)
    for row in sample.rows:
        name = row.variant.partition(" (whole")[0]
        assert any(line.strip().startswith(f"{name} ") for line in text.splitlines())
    assert text.count("160 pairs") == 1
    assert "random weights" not in text


def test_a_long_name_is_broken_and_not_cut(sample):
    name = "aotinductor-fp32@a-place-with-a-very-long-name"
    text = shown(replace(sample, rows=(replace(sample.rows[0], variant=name), *sample.rows[1:])))
    fits(text)
    assert "very-long-name" in text.replace("\n", "") or "aotinductor-fp32@a-place" in text


@pytest.mark.parametrize("limits", [Limits(), Limits(5.0), Limits(0.1, 0.0), Limits(5.0, allow_provisional=True)])
def test_a_recommendation_fits(sample, narrow, capsys, limits):
    decided = conclusion.decide(replace(sample, limits=limits))
    recommend.show(decided)
    if decided.chosen:
        recommend.answer(decided)
    else:
        assert recommend.why_none(decided)
    text = capsys.readouterr().out
    fits(text)
    assert len(text.splitlines()) < 24
    for judgment in decided.judgments:
        assert text.count(f"{judgment.facts.variant} ") >= 1


def test_a_comparison_fits(sample, narrow, capsys, tmp_path):
    sample = replace(sample, protocol=replace(sample.protocol, quick=False))
    for name in ("old", "new"):
        (tmp_path / f"{name}.json").write_text(write.to_json(sample, conclude(sample)))
    args = compare.Args(old=tmp_path / "old.json", new=tmp_path / "new.json")
    assert compare.main(args)["regressions"] == []
    fits(capsys.readouterr().out)


def test_the_list_of_claims_and_a_claim_fit(narrow, capsys):
    assert cli.main(["reproduce"]) == 0
    fits(capsys.readouterr().out)
    assert cli.main(["reproduce", "verdict-simulation", "--runs", "10"]) in (0, 1)
    fits(capsys.readouterr().out)


def test_a_case_with_many_figures_fits(narrow, capsys):
    rows = [{f"a figure with number {n}": (1.5 * n, 2.5) for n in range(12)} for _ in range(3)]
    Console().print(reproduce.grid(rows))
    fits(capsys.readouterr().out)


def test_a_path_is_shown_from_here_where_that_is_shorter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert terminal.shortest(str(tmp_path / "report" / "report.html")) == "report/report.html"
    assert terminal.shortest("/report.html") == "/report.html"


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(whole_sample()))
