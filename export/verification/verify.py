"""Verification: every gate, in order, on the variants of a bundle. The command and fault injection both call this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.bundle import records
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.libraries.cores import processes
from export.targets import Variant
from export.verification import agreement
from export.verification.availability import no_reference, no_reward_gate
from export.verification.held_out import held_out_observations
from export.verification.parity import first_gates
from export.verification.parity.play import MakeRunner
from export.verification.trials import TrialReturns
from export.verification.trials import run_gate as run_trials
from xfer import tasks
from xfer.errors import UsageError, check_choice
from xfer.runner import Runner
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from export.verification.non_inferiority import Verdict

DEFAULT_PAIRS, FULL_PAIRS = 20, 1000


def verify(
    bundle: Bundle | str | Path,
    variants: str | Sequence[str] = (),
    *,
    pairs: int = DEFAULT_PAIRS,
    workers: int = 0,
    run: Path | None = None,
    held_out: Trajectories | None = None,
    task: str | None = None,
    keep: bool = True,
    trials: TrialReturns | None = None,
    make: MakeRunner = Runner,
    on_note: Callable[[str], None] = lambda text: None,
    on_variant: Callable[[str], None] = lambda name: None,
    on_pairs: Callable[[int, dict[str, Verdict]], None] = lambda done, verdicts: None,
) -> dict[str, Verification]:
    """Verify variants of a bundle: numbers, actions and, where the policy's task can be run here, reward.

    Where it cannot, held-out episodes take the place of the third gate, if there are any.

    Args:
        bundle: The bundle, or its folder. Of one that is read-only: ``Bundle(path, records=folder)``.
        variants: Names, with or without @PLACE, as a sequence or with commas between them. Default: all in the bundle.
        pairs: Pairs of episodes at most; 0 leaves the reward gate out. With ``FULL_PAIRS`` verdicts become clear. Pairs
            that an earlier call ran are not run again, and count.
        workers: Processes that run pairs, one thread each. Default: one for each core.
        run: The run, for its held-out observations. Default: the one that the bundle was made from, if it is here.
        held_out: Held-out observations, where the caller has them already; then ``run`` is not looked for.
        task: The bundle's task, where that is somebody's own module:function: it is imported only if it is named here.
        keep: Whether verdicts become records of the bundle, and pairs are kept in its ledger, so that a later call
            continues. Without, the bundle is only read, and judged by itself.
        trials: How trials went, from ``read_trials``. Then its variants are judged by them instead of by pairs.
        make: What acts golden; a runner with a fault, where fault injection tries one out.
        on_note: Called with a sentence for each gate that is not run in full.
        on_variant: Called with each variant's name before its first gate.
        on_pairs: Called at each look of the reward gate, with the number of pairs so far and the verdicts.

    Returns:
        The verdict on each variant, in the order asked for. One of an earlier call on the same files that rests on more
        is kept, and returned.

    Raises:
        UsageError: If a variant does not exist, or a number is negative.
        UnavailableError: If a variant is named that only a newer xfer knows.
        RunError: If ``run`` is not the run that the bundle was made from.
        BundleError: If the bundle is damaged, or a record cannot be written.
        XferError: If a pair of episodes fails.

    Example::

        verdicts = verify("runs/cartpole.bundle", pairs=0)
        print(verdicts["onnx-int8"].status)
    """
    check_counts(pairs, workers)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    names = _names(bundle, trials.names(bundle) if trials else variants)
    if keep:
        records.check_writable(bundle)
    tasks.trust(task)
    if held_out is None:
        held_out, why = held_out_observations(bundle, run)
    else:
        why = "" if held_out.actions is not None else no_reference(bundle) or ""
    if why:
        held_out = None
        on_note(f"The actions gate looks at golden alone: {why}.")
    found = first_gates(bundle, names, held_out, on_variant, make)
    missing = None if trials else "--pairs 0" if pairs == 0 else no_reward_gate(bundle)
    if trials is not None:
        found = run_trials(bundle, found, trials)
    elif missing is not None:
        if pairs:
            on_note(f"The reward gate is not run: {missing}.")
        found = _without_reward(found, missing)
        if pairs and held_out is not None:
            found = agreement.run_gate(bundle, found, held_out)
    else:
        from export.verification import reward  # which needs gymnasium, as the first two gates do not
        from export.verification.ledger import Ledger

        found = reward.run_gate(bundle, found, pairs, workers or processes(), on_pairs, Ledger(bundle, keep=keep))
    return _kept(bundle, found, on_note) if keep else found


def _kept(bundle: Bundle, found: dict[str, Verification], on_note: Callable[[str], None]) -> dict[str, Verification]:
    """Make verdicts records, and return what those are now: of unchanged files the stronger verdict is kept."""
    kept = {
        name: (records.save(bundle, name, verification=verdict) or verdict) if verdict.rung else verdict
        for name, verdict in found.items()
    }
    if older := [name for name, verdict in kept.items() if verdict.reason != found[name].reason]:
        on_note(f"An earlier verdict, which rests on more, is kept of {', '.join(older)}.")
    return kept


def check_counts(pairs: int, workers: int) -> None:
    """Refuse negative numbers.

    Raises:
        UsageError: If there is one.
    """
    if pairs < 0 or workers < 0:
        raise UsageError(f"--pairs {pairs} --workers {workers}: neither may be negative.")


def _names(bundle: Bundle, variants: str | Sequence[str]) -> list[str]:
    listed = variants.split(",") if isinstance(variants, str) else variants
    listed = [name.strip() for name in listed if name.strip()]
    names = listed or list(bundle.builds)
    for name in names:
        if name in bundle.unknown and not listed:  # among all: it has a row that says so
            continue
        bundle.check_known(name)
        Variant.parse(name)
        check_choice("variant", name.partition("@")[0], bundle.builds)
    return names


def _without_reward(found: dict[str, Verification], reason: str) -> dict[str, Verification]:
    """Say of each variant that passed the first two gates why the third was not run."""
    return {
        name: replace(v, reason=f"reward not run: {reason}") if v.status == "provisional" else v
        for name, v in found.items()
    }
