"""The report: ``report.json`` with every raw sample, ``report.md`` for a pull request, and ``report.html``.

The page is one file: styles and plots are inside it, and it asks the network for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import plots, table
from benchmarks.latency import Measurement, Protocol
from benchmarks.table import Row
from export.bundle import Provenance
from export.records import Machine
from export.verdict import MARGIN
from xfer.errors import UsageError
from xfer.files import write_atomically
from xfer.spec import RewardScale

SCHEMA = (1, 0)
QUICK = "quick run: few samples"

EXPLANATION = (
    "Timed: raw frame to action (host observation in, host action out, batch 1), rotating through recorded"
    " frames, in {rounds} interleaved rounds; each variant has a process of its own that is idle outside"
    " its turn, and begins a turn with {lead_in} untimed calls. At least {calls} calls and {seconds:g} s a"
    " variant, after a warm-up of at least {warmup_calls} calls and {warmup_seconds:g} s. The baseline is"
    " eager PyTorch: contiguous, inference_mode, the same threads. A speed-up is the median over rounds of"
    " the ratio of medians within one round, with the smallest and largest. Nothing is clipped."
)


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        machine: Where it was measured.
        measured: When, as ISO 8601 in UTC.
        command: The command that repeats it.
        task: Name of the policy's task.
        control_hz: The task's control rate, in Hz.
        reward: The scale of returns, or None.
        provenances: The graph that was timed, and the whole backbone's if that was timed too.
        protocol: How much was measured.
        notes: What else a reader should know.
        rows: What ``--json`` prints, one mapping a variant.
        measurements: The raw samples.
    """

    machine: Machine
    measured: str
    command: str
    task: str
    control_hz: float
    reward: RewardScale | None
    provenances: tuple[Provenance, ...]
    protocol: Protocol
    notes: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    measurements: tuple[Measurement, ...]

    @property
    def explanation(self) -> str:
        """How it was measured, in a paragraph."""
        protocol = self.protocol
        return EXPLANATION.format(
            rounds=protocol.rounds,
            lead_in=protocol.lead_in_calls,
            calls=f"{protocol.calls:,}",
            seconds=protocol.seconds,
            warmup_calls=protocol.warmup_calls,
            warmup_seconds=protocol.warmup_seconds,
        )

    @property
    def machine_line(self) -> str:
        """Processor, memory, system, threads."""
        cores = next((m.cores for m in self.measurements if m.cores), ())
        return table.machine_line(self.machine, self.protocol.threads, cores)

    @property
    def graph_lines(self) -> list[str]:
        """The graphs that were timed."""
        return [table.graph_line(provenance) for provenance in self.provenances]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Each variant's reason for its status, where there is one."""
        return [(row["variant"], row["reason"]) for row in self.rows if row["reason"]]


def verdict(rows: Sequence[Row]) -> str:
    """Return the one sentence that a reader in a hurry needs."""
    timed = [row for row in rows if row["p50_ms"] is not None and not row["whole_backbone"]]
    timed.sort(key=lambda row: row["p50_ms"])
    if not timed:
        return "No variant could be measured on this machine."
    proven = [row for row in timed if row["status"] in ("verified", "provisional")]
    if not proven:
        fastest = timed[0]
        return (
            f"{fastest['variant']} is the fastest ({table.milliseconds(fastest['p50_ms'])} at p50), but"
            " nothing is verified on this machine yet: run xfer verify."
        )
    best = proven[0]
    eager = next((row for row in timed if row["variant"] == "eager-fp32"), None)
    if best["variant"].startswith("eager"):
        return f"Nothing that is verified here beats eager ({table.milliseconds(best['p50_ms'])} at p50)."
    times = f" {best['speedup']:.1f} times as fast as eager," if best["speedup"] else ""
    instead = f" instead of {table.milliseconds(eager['p50_ms'])}" if eager else ""
    word = "verified" if best["status"] == "verified" else "provisionally verified"
    return (
        f"{best['variant']} is the fastest variant that is {word}:{times}"
        f" {table.milliseconds(best['p50_ms'])}{instead} at p50."
    )


def write(report: Report, folder: Path) -> dict[str, str]:
    """Write the three files, each whole or not at all.

    Returns:
        Their paths by kind: ``json``, ``md``, ``html``.

    Raises:
        UsageError: If the folder cannot be written to.
    """
    contents = {"json": to_json(report), "md": to_markdown(report), "html": to_html(report)}
    try:
        for kind, text in contents.items():
            write_atomically(folder / f"report.{kind}", text.encode())
    except OSError as error:
        raise UsageError(f"{folder} {error.strerror}. Choose another --output.") from error
    return {kind: str(folder / f"report.{kind}") for kind in contents}


def to_json(report: Report) -> str:
    """Return the whole report as JSON; sample times are in seconds."""
    plain = {"schema": SCHEMA, "verdict": verdict(report.rows), **msgspec.to_builtins(report)}
    return msgspec.json.encode(plain).decode() + "\n"


def to_markdown(report: Report) -> str:
    """Return the table and what it was measured on, for a pull request."""
    lines = [f"**{_plain(verdict(report.rows))}**" + (f" ({QUICK})" if report.protocol.quick else ""), ""]
    lines += ["| " + " | ".join(_plain(column) for column in table.COLUMNS) + " |"]
    lines += ["| :-- | :-- |" + " --: |" * (len(table.COLUMNS) - 2)]
    for row in report.rows:
        cells = table.cells(row)
        cells[1] = ", ".join([cells[1], *table.marks(row)])
        lines.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    lines += ["", *(f"- {_plain(variant)}: {_plain(reason)}" for variant, reason in report.reasons)]
    lines += ["", *(f"- Graph: {_plain(line)}" for line in report.graph_lines)]
    lines += [f"- Machine: {_plain(report.machine_line)}", *(f"- {_plain(note)}" for note in report.notes)]
    lines += [f"- Measured {report.measured}", "", report.explanation, "", "```", report.command, "```", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Keep text from being read as Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_|[]" else letter for letter in text)


def to_html(report: Report) -> str:
    """Return the page; everything that comes from a bundle is escaped."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    span = report.reward.span if report.reward else None
    latency = plots.latency([m for m in report.measurements if not m.error])
    reward = plots.reward(report.rows, None if span is None else MARGIN * span)
    page: str = environment.get_template("report.html.j2").render(
        report=report,
        verdict=verdict(report.rows),
        columns=table.COLUMNS,
        rows=[(row, table.cells(row), table.marks(row)) for row in report.rows],
        margin=MARGIN,
        # matplotlib has escaped the text inside its own drawings.
        latency_plot=latency and Markup(latency),
        reward_plot=reward and Markup(reward),
        milliseconds=table.milliseconds,
        size=table.size,
    )
    return page
