"""How a report was measured: on which machine, which graphs, and by which protocol."""

from __future__ import annotations

from benchmarks.measure.interference import LIMIT
from benchmarks.report.alone import limits
from benchmarks.report.data import Report
from benchmarks.report.table import share
from benchmarks.stats.percentiles import MIN_SAMPLES, TOLERANCE, WINDOWS, fewest_turns
from benchmarks.stats.slowed import FALSE_ALARMS
from export.bundle.manifest import Provenance


def machine_line(report: Report) -> str:
    """Say on what, and with what of it, was measured."""
    machine, threads = report.machine, report.protocol.threads
    cores = next((m.cores for m in report.measurements if m.cores), ())
    gpu = f", {machine.gpu}" if machine.gpu else ", no GPU"
    bound = f" on cores {', '.join(map(str, cores))}" if cores else ""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.instruction_set}{gpu},"
        f" {machine.memory_bytes / 2**30:.0f} GiB, {machine.system}, Python {machine.python};"
        f" {threads} {'thread' if threads == 1 else 'threads'}{bound}"
    )


def graph_lines(report: Report) -> list[str]:
    """Say which graphs were timed."""
    return [graph_line(provenance) for provenance in report.provenances]


def limit_lines(report: Report) -> list[str]:
    """Say how fast each graph can be at all on this machine."""
    return list(filter(None, (limits(report.peaks, provenance.macs) for provenance in report.provenances)))


def graph_line(provenance: Provenance) -> str:
    """Say which graph was timed.

    Example:
        >>> graph_line(Provenance("", "", "resnet18", "layer2", "flatten", 683072, 250_000_000, ""))
        'resnet18 up to layer2, head flatten: 683,072 executed parameters, 250.0 million MACs a step'
    """
    graph = f"{provenance.backbone} up to {provenance.tap}, head {provenance.head}"
    return (
        f"{graph if provenance.backbone else 'a policy that was trained elsewhere'}:"
        f" {provenance.parameters:,} executed parameters, {provenance.macs / 1e6:.1f} million MACs a step"
    )


def explanation(report: Report) -> str:
    """Say how it was measured, in a paragraph."""
    protocol, reference = report.protocol, report.reference
    what = f"The reference is {reference}"
    if reference.startswith("eager"):
        what = "The baseline is eager PyTorch: contiguous, inference_mode, the same threads"
    spin = "spin" if any(one.spin for one in report.measurements if one.rounds) else "do not spin"
    stretches = min(WINDOWS, protocol.rounds)
    return (
        "Timed: raw frame to action (host observation in, host action out, batch 1), rotating through recorded"
        f" frames, in {protocol.rounds} rounds of {protocol.passes} passes over all variants, each pass in an order of"
        f" its own (seed {protocol.seed}). Each variant has a process of its own that is stopped outside its turn, and"
        f" was started afresh {protocol.starts} times; a turn begins with at least {protocol.lead_in_calls} untimed"
        f" calls and {1000 * protocol.lead_in_seconds:g} ms of them. At least {protocol.calls:,} calls and"
        f" {protocol.seconds:g} s a variant, after a warm-up in each start of at least {protocol.warmup_calls} calls"
        f" and {protocol.warmup_seconds:g} s. Idle threads {spin} between calls. {what}."
        " A speed-up is the median over rounds of the ratio of medians within one round, with the smallest and"
        f" largest. A percentile below its sample floor is n/a (p99: {MIN_SAMPLES[0.99]:,} calls, p99.9:"
        f" {MIN_SAMPLES[0.999]:,}), and so is a bound above it with too few turns, which are the independent units"
        f" (p99: {fewest_turns(0.99):,}, p99.9: {fewest_turns(0.999):,}). Unstable: the speed-ups of the run's"
        f" {stretches} stretches of consecutive rounds (the medians, where there is no baseline, and of the"
        " baseline itself) differ by more than"
        f" {share(TOLERANCE)}; drifting: the baseline's medians do. Disturbed: in some round the variant's process"
        f" waited for a core for more than {share(LIMIT)} of its turns' time, or its container's quota was used up for"
        f" so long, or other processes took more than that share of the cores beyond what the system's ticks of 10 ms"
        f" resolve, or the hypervisor did; or the reference kernel was slowed by more than {share(TOLERANCE)} in that"
        f" round and by more than chance explains (which happens in at most {share(FALSE_ALARMS)} of quiet benches)."
        " Nothing is clipped, no round dropped."
    )
