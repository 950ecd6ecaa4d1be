"""What `xfer verify` does: take every variant up the three gates and keep the verdicts as records."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import tyro

from export import targets
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.commands.console import describe_verdict
from export.importers import weights_of
from export.targets import Variant
from export.verification.pair_cache import PairCache
from export.verification.parity import first_gates
from xfer import tasks
from xfer.commands import Common
from xfer.errors import CheckFailed, RunError, UnavailableError, UsageError, check_choice

if TYPE_CHECKING:
    from rich.console import Console

    from export.verification.non_inferiority import Verdict
    from xfer.trajectories import Trajectories

DEFAULT_PAIRS, FULL_PAIRS = 20, 1000


@dataclass(kw_only=True)
class Args(Common):
    """Prove that each variant acts as eager PyTorch does: numbers, actions, reward.

    A few pairs of episodes give `provisional` at best; --full goes on until every verdict is clear.

    Example commands:
      xfer verify runs/cartpole.bundle
      xfer verify runs/cartpole.bundle --full
      xfer verify robot.bundle --variants onnx-int8 --pairs 0      (numbers and actions only)
      xfer verify runs/cartpole.bundle --self-test                 (does it catch planted faults?)
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle."""
    variants: str = ""
    """Comma-separated variants, as onnx-int8 or onnx-fp32@cuda (default: all in the bundle)."""
    run: Path | None = None
    """The run, for its held-out observations (default: the one that the bundle came from, if it is here); for a policy
    that was trained elsewhere, the folder NAME.run beside its first bundle."""
    pairs: int = DEFAULT_PAIRS
    """Pairs of episodes at most; 0 leaves the reward gate out."""
    full: bool = False
    """Run pairs until each verdict is clear, up to 1,000. What was interrupted continues."""
    workers: int = 0
    """Processes that run pairs, one thread each (default: one for each core)."""
    task: str | None = None
    """The bundle's task, where that is somebody's own module:function: it is imported only if you name it here."""
    self_test: bool = False
    """Damage copies of the bundle in ways that happen in practice, and show which gate catches each."""


def main(args: Args) -> dict[str, Any]:
    """Verify, and return the object that ``--json`` prints."""
    from rich.console import Console

    if args.pairs < 0 or args.workers < 0:
        raise UsageError(f"--pairs {args.pairs} --workers {args.workers}: neither may be negative.")
    bundle = Bundle(args.bundle)
    tasks.trust(args.task)
    if args.self_test:
        return self_test(args, bundle, Console())
    names = [name.strip() for name in args.variants.split(",") if name.strip()] or list(bundle.builds)
    for name in names:
        Variant.parse(name)
        check_choice("variant", name.partition("@")[0], bundle.builds)
    console = Console()
    held_out, why = held_out_observations(bundle, args.run)
    if why:
        console.print(f"The actions gate looks at golden alone: {why}.")
    with console.status("verifying") as status:
        found = first_gates(
            bundle, names, held_out, lambda name: status.update(f"verifying {name}: numbers and actions")
        )
    cache = PairCache(bundle)
    found = with_reward(bundle, found, FULL_PAIRS if args.full else args.pairs, args.workers, console, cache)
    for name, verification in found.items():
        if verification.rung:
            records.save(bundle, name, verification=verification)
        console.print(describe_verdict(name, verification))
    cache.clear([name for name, verification in found.items() if verification.rung == "reward"])
    return {"variants": rows(found)}


def self_test(args: Args, bundle: Bundle, console: Console) -> dict[str, Any]:
    """Test the gates themselves with planted faults, and return the object that ``--json`` prints.

    Raises:
        UnavailableError: Without PyTorch, in which the faults are made.
        RunError: Without the run's held-out observations.
        CheckFailed: If a fault was let through, or the untouched bundle rejected.
    """
    if args.variants:
        raise UsageError("--self-test chooses the variants that it damages: leave --variants out.")
    if (reason := targets.load("eager").runnable("")) is not None:
        raise UnavailableError(f"The self-test makes its faults in PyTorch. {reason}")
    if not bundle.manifest.provenance.backbone:
        raise UsageError("The self-test plants its faults in xfer's own networks, and this bundle holds another.")
    held_out, why = held_out_observations(bundle, args.run)
    if held_out is None:
        raise RunError(f"The self-test needs the held-out observations of the run: {why}.")
    from export.verification import fault_injection as gates

    workers, start = args.workers or this_machine().cores, time.perf_counter()
    with console.status("") as status:
        result = gates.run(
            bundle,
            held_out,
            min(args.pairs, gates.PAIRS),
            workers,
            on_step=lambda text: status.update(f"self-test: {text}"),
            on_finding=lambda finding: console.print(f"  {finding.caught_by or 'nothing':<8} {finding.mistake}"),
        )
    console.print(gates.table(result))
    for name, verification in result.untouched.items():
        console.print(describe_verdict(name, verification))
    console.print(gates.summary(result))
    found = {
        "self_test": msgspec.to_builtins(result.findings),
        "untouched": rows(result.untouched),
        "passed": result.passed,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if not result.passed:
        raise CheckFailed("The self-test failed: " + ", ".join([*result.let_through, *result.rejected]) + ".", found)
    return found


def rows(found: dict[str, Verification]) -> list[dict[str, Any]]:
    """Return verdicts as ``--json`` prints them."""
    return [records.printed({"variant": name, **msgspec.to_builtins(v)}) for name, v in found.items()]


def with_reward(
    bundle: Bundle,
    found: dict[str, Verification],
    pairs: int,
    workers: int,
    console: Console,
    cache: PairCache,
) -> dict[str, Verification]:
    """Run the reward gate where it can be run, with a bar, or a line at each look where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from export.verification import reward

    if pairs == 0:
        return without_reward(found, "--pairs 0")
    if (reason := reward.unavailable(bundle)) is not None:
        console.print(f"The reward gate is not run: {reason}.")
        return without_reward(found, reason)
    with Progress(
        TextColumn("pairs of episodes"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=pairs, note="")

        def on_pairs(done: int, verdicts: dict[str, Verdict]) -> None:
            clear = sum(verdict.status == "verified" for verdict in verdicts.values())
            note = f"{clear} of {len(verdicts)} verified"
            progress.update(bar, completed=done, note=note)
            if not console.is_terminal:
                console.print(f"{done} pairs of episodes: {note}")

        return reward.run_gate(bundle, found, pairs, workers or this_machine().cores, on_pairs, cache)


def without_reward(found: dict[str, Verification], reason: str) -> dict[str, Verification]:
    """Say of each variant that passed so far why it went no further."""
    return {
        name: replace(v, reason=f"reward not run: {reason}") if v.status == "provisional" else v
        for name, v in found.items()
    }


def held_out_observations(bundle: Bundle, run: Path | None) -> tuple[Trajectories | None, str]:
    """Return the run's held-out observations, or None and why there are none.

    Raises:
        RunError: If a run was named, and it is not the one that the bundle was made from.
    """
    folder = run or Path(bundle.manifest.provenance.run)
    weights = weights_of(folder)
    if run is None and weights is None:
        return None, "the run that the bundle was made from is not here (--run says where)"
    if targets.load("eager").runnable("") is not None:
        return None, "PyTorch is not installed"
    from xfer.training.run_folder import RunFolder

    if weights != bundle.manifest.provenance.weights:
        if run is None:
            return None, f"the run at {folder} has other weights than the bundle"
        raise RunError(f"{folder} is not the run that {bundle.path} was made from. Name that one, or none.")
    return RunFolder(folder).observations("held-out"), ""
