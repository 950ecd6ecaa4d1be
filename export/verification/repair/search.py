"""Repairs an int8 variant that verification rejects: leaves as few of its layers in float as it can.

Three kinds of observations are kept apart:

- The order comes from those that int8 was calibrated on. Each layer alone is put into int8, and the drift of the
  scores from eager's says how much it hurts. Alone in int8, rather than alone in float: the rounding of a tensor
  between two layers hurts through either, so putting one of them into float would change nothing.
- The choice comes from those that the policy meets in episodes of its own seeds. With the layers in the order of their
  drift, the function of ``xfer verify`` finds the fewest first ones that pass in float, and then whether each of them
  can go back to int8.
- The verdict comes from those of ``xfer verify``: golden and the held-out observations. If they refuse a choice, it and
  whatever leaves fewer layers in float is out, and the search goes on; at most ``MAX_CHOICES`` times.

So those that judge are not those that chose. Without an environment there are no other episodes, and the held-out
ones do both. The reward gate (``xfer verify --full``) decides in the end: the repaired files are a new group, so
neither this search nor an earlier verdict has seen its episodes. A variant that it rejected is repaired until it has
less than half the regret that it had.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from export import targets
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.bundle.spreads import measure_spreads
from export.quantize import Quantizer
from export.targets import ExportRequest, FromGraph, Place, Variant
from export.verification.parity import run_gates
from export.verification.tolerances import compare_scores
from xfer.runner import Runner, Session
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import unrolled

MAX_CHOICES = 8
"""How many choices of layers the held-out observations judge."""

TURNS = 7
"""How often two sessions take turns when they are timed."""


@dataclass(frozen=True)
class Repair:
    """What was found for one variant.

    Attributes:
        layers: How many layers can be in int8.
        drift: Of each that stays in float, in the graph's order: how far scores drift when only that layer is in int8,
            as a share of their spread. None if it is not enough to have all layers in float.
        before: The verdict with all layers in int8, of the observations that guide the choice.
        before_ms: Median time of a call then, in milliseconds, on one thread.
        after_ms: The same with these layers in float.
    """

    layers: int
    drift: dict[str, float] | None
    before: Verification
    before_ms: float = 0.0
    after_ms: float = 0.0


class Trials:
    """A policy's int8 graph for one target, opened with any of its layers in float. Value ranges are measured once.

    Args:
        request: What the target makes files from.
        module: The target.

    Attributes:
        layers: What can be in int8, in the graph's order.
    """

    def __init__(self, request: ExportRequest, module: FromGraph) -> None:
        from export.onnx_graph import export_onnx

        self.spec, self._module = request.spec, module
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "fp32.onnx"
            export_onnx(request.policy.deploy("fp32"), graph)
            self._quantizer = Quantizer(graph, request.spec, request.calibration, symmetric=False)
        self.layers = tuple(self._quantizer.layers)

    @contextmanager
    def session(self, float_layers: tuple[str, ...]) -> Iterator[Session]:
        """Open the graph with these layers in float, one thread."""
        with tempfile.TemporaryDirectory() as work:
            graph, folder = Path(work) / "int8.onnx", Path(work) / "variant"
            folder.mkdir()
            self._quantizer.write(graph, float_layers)
            self._module.write_graph(graph, folder)
            with self._module.load(folder, self.spec, Place()) as session:
                yield session

    def drift(self, layer: str, eager: Trajectories) -> float:
        """Return the root mean square of how far scores are from eager's with only ``layer`` in int8.

        Args:
            layer: One of ``layers``.
            eager: Observations with eager's actions and scores.

        Returns:
            A share of their elements' spread.
        """
        with self.session(tuple(other for other in self.layers if other != layer)) as session:
            found = unrolled(eager.replay(Runner(session, self.spec)), self.spec).scores
        wanted = unrolled(eager, self.spec).scores
        assert wanted is not None
        assert found is not None
        spreads = measure_spreads([eager], self.spec)
        unit = np.maximum(spreads.scores, np.finfo(np.float32).tiny)
        difference = compare_scores(wanted, found, self.spec, spreads, "int8").difference
        return float(np.sqrt(np.mean((difference / unit) ** 2)))


def fewest(worst_first: Sequence[str], passes: Callable[[frozenset[str]], bool]) -> frozenset[str] | None:
    """Return layers that are enough, none of which can be left out.

    Args:
        worst_first: All layers, the one with the largest drift first.
        passes: Whether it is enough to leave these layers in float. It is called once for each set.

    Returns:
        The set, or None if not even all of them are enough.

    Example:
        >>> sorted(fewest("abcdef", lambda kept: kept >= {"a", "d"}))
        ['a', 'd']
    """
    known: dict[frozenset[str], bool] = {}

    def ask(kept: frozenset[str]) -> bool:
        if kept not in known:
            known[kept] = passes(kept)
        return known[kept]

    if ask(frozenset()):
        return frozenset()
    kept = frozenset(worst_first)
    if not ask(kept):
        return None
    too_few, enough = 0, len(worst_first)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if ask(frozenset(worst_first[:middle])) else (middle, enough)
    kept = frozenset(worst_first[:enough])
    before: frozenset[str] = frozenset()
    while before != kept:  # a layer that could not go back into int8 from a larger set might from a smaller one
        before = kept
        for layer in reversed(worst_first):
            if layer in kept and ask(kept - {layer}):
                kept -= {layer}
    return kept


def repair(
    bundle: Bundle,
    request: ExportRequest,
    variant: Variant,
    chosen_by: Trajectories,
    held_out: Trajectories,
    regret_below: float,
    on_step: Callable[[str, int, int], None],
) -> Repair:
    """Find out which layers of a variant must stay in float.

    Args:
        bundle: Where the variant is; nothing is written to it.
        request: What the variant was made from.
        variant: A variant whose target is a ``FromGraph``.
        chosen_by: Observations to choose by, with eager's actions and scores.
        held_out: Observations to judge on, likewise; perhaps the same.
        regret_below: What the mean regret must stay below, besides what the gates allow.
        on_step: Called with the current step, how many layers have been tried alone, and how many there are.
    """
    from xfer.models.torch_session import TorchSession

    golden, spec = bundle.golden(), request.spec
    on_step("measuring value ranges", 0, 1)
    trials = Trials(request, cast(FromGraph, targets.load(variant.target)))
    calibration = request.calibration.replay(Runner(TorchSession(request.policy.deploy(), spec), spec))
    drift = {}
    for done, layer in enumerate(trials.layers):
        on_step(f"{layer} alone in int8", done, len(trials.layers))
        drift[layer] = trials.drift(layer, calibration)
    verdicts: dict[frozenset[str], Verification] = {}
    refused = [frozenset[str]()]

    def in_order(kept: frozenset[str]) -> tuple[str, ...]:
        return tuple(layer for layer in trials.layers if layer in kept)

    def judge(kept: frozenset[str], observations: Trajectories) -> Verification:
        on_step(f"judging it with {len(kept)} of {len(trials.layers)} layers in float", len(drift), len(drift))
        with trials.session(in_order(kept)) as session:
            return run_gates(bundle, session, variant, golden, observations, observations)

    def good(verdict: Verification) -> bool:
        return verdict.status == "provisional" and (verdict.regret or 0.0) < regret_below

    def passes(kept: frozenset[str]) -> bool:
        if kept not in verdicts:
            verdicts[kept] = judge(kept, chosen_by)
        return good(verdicts[kept]) and not any(kept <= one for one in refused)

    kept = None
    while len(refused) <= MAX_CHOICES:
        kept = fewest(sorted(drift, key=drift.__getitem__, reverse=True), passes)
        if kept is None or good(verdicts[kept] if chosen_by is held_out else judge(kept, held_out)):
            break
        refused.append(kept)
        kept = None
    before = verdicts[frozenset()]
    if kept is None:
        return Repair(len(drift), None, before)
    on_step("timing it", len(drift), len(drift))
    with trials.session(()) as rejected, trials.session(in_order(kept)) as repaired:
        before_ms, after_ms = alternating_p50_ms((rejected, repaired), spec, golden)
    return Repair(len(drift), {layer: drift[layer] for layer in in_order(kept)}, before, before_ms, after_ms)


def alternating_p50_ms(sessions: Sequence[Session], spec: PolicySpec, golden: Trajectories) -> list[float]:
    """Return each session's median time of a call, raw observation to action, in milliseconds.

    They take turns on the golden trajectories, so that other load on the machine affects all alike. It is an estimate:
    ``xfer bench`` measures.
    """
    runners = [Runner(session, spec) for session in sessions]
    times: list[list[float]] = [[] for _ in runners]
    for turn in range(TURNS + 1):
        for runner, taken in zip(runners, times, strict=True):
            for begins, observations in golden.steps():
                if begins:
                    runner.reset()
                start = time.perf_counter()
                runner.infer(observations)
                if turn:  # the first one warms up
                    taken.append(time.perf_counter() - start)
    return [float(np.median(taken)) * 1e3 for taken in times]
