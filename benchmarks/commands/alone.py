"""What ``xfer bench --profile`` and ``--soak`` add to a report: a closer look at one variant, after the rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure.protocol import Candidate
from export.bundle.reader import Bundle, why_not
from xfer.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from benchmarks.bench import OnReport, OnStep
    from benchmarks.commands.bench_options import Args
    from benchmarks.report.data import Report


@dataclass(frozen=True)
class Wish:
    """Of which variants more is asked for.

    Attributes:
        profile: Whose time is wanted layer by layer, or empty.
        soak: Which one is soaked, or empty.
        minutes: How long.
    """

    profile: str = ""
    soak: str = ""
    minutes: float = 0.0

    def variants(self, asked: str) -> str:
        """Return what to bench: what was asked for, else these alone."""
        return asked or ",".join(dict.fromkeys(filter(None, (self.profile, self.soak))))


def wish_of(args: Args, bundle: Bundle) -> Wish:
    """Return what was asked for.

    Raises:
        UsageError: On minutes that are no positive number, a variant that the bundle lacks, or none or several where it
            has to be one.
        UnavailableError: If the variant cannot run here.
    """
    if args.soak is None and args.profile is None:
        return Wish()
    profile = "" if args.profile is None else _one(bundle, args.profile, "--profile")
    if args.soak is None:
        return Wish(profile)
    if not 0 < args.soak < float("inf"):
        raise UsageError(f"--soak {args.soak:g} is not a positive number of minutes.")
    if profile and not args.variants:
        return Wish(profile, profile, args.soak)
    if not args.variants:
        raise UsageError("--soak takes one variant. Name it: --variants onnx-int8.")
    return Wish(profile, _one(bundle, args.variants, "--soak"), args.soak)


def _one(bundle: Bundle, text: str, option: str) -> str:
    """Return the one variant that a text names, which can run here."""
    from benchmarks.bench import choose

    named = choose(bundle, text) if text.strip() else []
    found = [name for name in named if name == text.strip() or name != bundle.reference]
    if len(found) != 1:
        raise UsageError(f"{option} takes one variant, and '{text}' is {', '.join(found) or 'none'}. Name one of them.")
    if (reason := why_not(bundle, found[0])) is not None:
        raise UnavailableError(f"{option}: {found[0]} cannot run here: {reason}")
    return found[0]


def add(report: Report, bundle: Path, wish: Wish, on_step: OnStep, on_report: OnReport) -> Report:
    """Profile and soak, and return the report with that.

    An interrupt ends the soak early; what it gave until then is kept.

    Args:
        report: The report of the bench.
        bundle: Folder of the bundle.
        wish: What was asked for.
        on_step: As of ``bench``.
        on_report: As of ``bench``.
    """
    from benchmarks.measure.alone import profile, soak

    if wish.profile:
        on_step(wish.profile, "profile", 0.0)
        candidate = Candidate(wish.profile, bundle, wish.profile)
        report = replace(report, profile=profile.profile(candidate, report.protocol))
    if wish.soak:
        found = soak.Soak(wish.soak, wish.minutes)

        def on_interval(seconds: float) -> None:
            done = f"soak, {seconds / 60:.1f} of {wish.minutes:g} min"
            on_step(wish.soak, done, min(1.0, seconds / (60 * wish.minutes)))

        try:
            for found in soak.run(Candidate(wish.soak, bundle, wish.soak), report.protocol, wish.minutes, on_interval):
                on_report(_during(report, found))
        except KeyboardInterrupt:
            found = replace(found, ended=f"it was interrupted after {found.seconds:,.0f} s")
        report = replace(report, soak=found)
    return report


def _during(report: Report, found: object) -> Callable[[], Report]:
    return lambda: replace(report, soak=found, partial="the soak was not over")  # type: ignore[arg-type]
