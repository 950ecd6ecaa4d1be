"""What `xfer verify` does: run the gates on every variant, and keep the verdicts as records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import tyro

from export.bundle.reader import Bundle
from export.bundle.records import printed
from export.bundle.verdicts import Verification
from export.commands.console import fault_summary, finding_lines, show, verdict_lines, wrapped
from export.verification.fault_injection.inject import inject_faults
from export.verification.trials import TrialReturns, read_trials
from export.verification.verify import DEFAULT_PAIRS, FULL_PAIRS, check_counts, verify
from xfer import tasks
from xfer.commands import Episodes, truncates
from xfer.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from export.verification.non_inferiority import Verdict


@dataclass(kw_only=True)
class Args(Episodes):
    """Prove that each variant acts as the policy does: numbers, actions, reward.

    A few pairs of episodes give `provisional` at best.

    With --full it goes on until every verdict is clear.

    Example commands:
      xfer verify runs/cartpole.bundle
      xfer verify runs/cartpole.bundle --full

    Numbers and actions only:
      xfer verify robot.bundle --variants onnx-int8 --pairs 0

    Trials on the real robot in the place of episodes in an environment:
      xfer verify robot.bundle --returns trials.csv --margin 0.1

    A bundle that cannot be written to, as in a read-only image:
      xfer verify /opt/robot.bundle --records ~/records

    Are faults caught that happen in practice?
      xfer verify runs/cartpole.bundle --inject-faults
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle."""
    variants: str = ""
    """Comma-separated variants, as onnx-int8 or onnx-fp32@cuda (default: all in the bundle)."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The run, for its held-out observations (default: the one that the bundle came from, if it is here); for a policy
    that was trained elsewhere, the folder NAME.run beside its first bundle."""
    pairs: int = DEFAULT_PAIRS
    """Pairs of episodes at most; 0 leaves the reward gate out."""
    full: bool = False
    """Run pairs until each verdict is clear, up to 1,000. If interrupted, the same command continues."""
    workers: int = 0
    """Processes that run pairs, one thread each (default: one for each core)."""
    task: Annotated[str | None, tyro.conf.arg(metavar="MODULE:FUNCTION")] = None
    """The bundle's task, where that is somebody's own module:function: it is imported only if you name it here."""
    returns: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """How trials went, as on the real robot: .csv or .json with variant, episode, and return or success (0 or 1)."""
    margin: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Largest mean loss in trials that is not worse, in the unit of the returns or as a share of successes (default: of
    a policy that has a reward scale, 2 % of it)."""
    return_range: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Smallest and largest return that a trial can have (default: those of the reward scale)."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that verdicts and pairs go to, where the bundle is read-only (default: in the bundle)."""
    inject_faults: Annotated[bool, tyro.conf.arg(aliases=["--self-test"])] = False
    """Damage copies of the bundle in ways that happen in practice, and show which gate catches each."""


@truncates
def main(args: Args) -> dict[str, Any]:
    """Verify, and return the object that ``--json`` prints.

    Raises:
        CheckFailed: If an injected fault was let through, or the untouched bundle rejected.
    """
    from rich.console import Console

    check_counts(args.pairs, args.workers)
    bundle = Bundle(args.bundle, args.records)
    trials = trials_of(args, bundle)
    if args.inject_faults:
        return verify_with_faults(args, bundle)
    with progress(Console(), FULL_PAIRS if args.full else args.pairs) as (on_variant, on_pairs):
        found = verify(
            bundle,
            args.variants,
            pairs=FULL_PAIRS if args.full else args.pairs,
            workers=args.workers,
            run=args.run,
            task=args.task,
            trials=trials,
            on_note=lambda text: show(wrapped(text)),
            on_variant=on_variant,
            on_pairs=on_pairs,
        )
    show(verdict_lines(found))
    return answer(found)


def trials_of(args: Args, bundle: Bundle) -> TrialReturns | None:
    """Return how trials went, if a file says so.

    Raises:
        UsageError: If the file cannot be read, or other options contradict it.
    """
    if args.returns is None:
        for name, value in (("--margin", args.margin), ("--return-range", args.return_range)):
            if value is not None:
                raise UsageError(f"{name} is for trials. Give their file too: --returns FILE.")
        return None
    for name, given in (("--variants", args.variants), ("--full", args.full), ("--inject-faults", args.inject_faults)):
        if given:
            raise UsageError(f"--returns judges the variants that its file names by their trials: leave {name} out.")
    return read_trials(args.returns, bundle, args.margin, args.return_range)


def verify_with_faults(args: Args, bundle: Bundle) -> dict[str, Any]:
    """Inject faults, and return the object that ``--json`` prints.

    Raises:
        UsageError: If variants are named.
        CheckFailed: If a fault was let through, or the untouched bundle rejected.
    """
    from rich.console import Console

    if args.variants:
        raise UsageError("--inject-faults chooses the variants that it damages: leave --variants out.")
    tasks.trust(args.task)
    start = time.perf_counter()
    with Console().status("") as status:
        result = inject_faults(
            bundle,
            pairs=args.pairs,
            workers=args.workers,
            run=args.run,
            on_step=lambda text: status.update(f"fault injection: {text}"),
            on_finding=lambda finding: show(finding_lines(finding)),
        )
    show(["", "The untouched bundle:", *verdict_lines(result.untouched), *wrapped(fault_summary(result))])
    found = {
        "self_test": msgspec.to_builtins(result.findings),
        "untouched": rows(result.untouched),
        "passed": result.passed,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if not result.passed:
        raise CheckFailed("Fault injection failed: " + ", ".join([*result.let_through, *result.rejected]) + ".", found)
    return found


def answer(found: dict[str, Verification]) -> dict[str, Any]:
    """Return what ``--json`` prints of verdicts."""
    return {"variants": rows(found)}


def rows(found: dict[str, Verification]) -> list[dict[str, Any]]:
    """Return verdicts as ``--json`` prints them."""
    return [printed({"variant": name, **msgspec.to_builtins(v)}) for name, v in found.items()]


OnVariant = Callable[[str], None]
OnPairs = Callable[[int, "dict[str, Verdict]"], None]


@contextmanager
def progress(console: Console, pairs: int) -> Iterator[tuple[OnVariant, OnPairs]]:
    """Show a bar of pairs of episodes, or a line at each look where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as progress:
        bar = progress.add_task("verifying", total=pairs, note="")

        def on_variant(name: str) -> None:
            progress.update(bar, description=f"numbers and actions: {name}")

        def on_pairs(done: int, verdicts: dict[str, Verdict]) -> None:
            clear = sum(verdict.status == "verified" for verdict in verdicts.values())
            note = f"{clear} of {len(verdicts)} verified"
            progress.update(bar, description="pairs of episodes", completed=done, note=note)
            if not console.is_terminal:
                console.print(f"{done} pairs of episodes: {note}")

        yield on_variant, on_pairs
