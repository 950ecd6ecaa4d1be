"""Pairs of episodes in parallel processes.

Processes take pairs as they become free, some ahead of the one that is waited for, but outcomes are given in the order
of their seeds. So figures depend on the seeds alone: not on how many processes there are, on which is faster,
or on whether one died and its pairs were run again.

That holds as far as the environment is a function of seed and actions. ``paired_episode`` finds out if it is not. Then
pairs that were run in lockstep prove nothing, and the gate begins anew with episodes that are independent.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypeVar

import numpy as np

from export.bundle.manifest import Spreads
from export.bundle.reader import Bundle
from export.bundle.record import Divergence
from export.libraries import causes
from export.verification.tolerances import action_difference, regret
from xfer import tasks, user_code
from xfer.errors import ExecutionError, ObservationError, XferError
from xfer.evaluate import Fork, Pair, independent_episodes, paired_episode
from xfer.runner import Action, Arrays, Runner
from xfer.spec import PolicySpec

T = TypeVar("T")

AHEAD = 2
"""How many pairs for each process are handed out at once, so that none waits for a slower one."""

SAME_ACTION = 1e-6
"""Largest difference of an element of a continuous action that is no other action, as a share of its scale."""

MAX_DEATHS = 3
"""How often dead processes are replaced before pairs are run one by one, to find out whose fault that is."""

CONTEXT: BaseContext = multiprocessing.get_context("spawn")
"""How processes are started. Not forked from this one: neither torch nor a CUDA context survives that."""


@dataclass(frozen=True)
class Outcome:
    """What is kept of one pair of episodes.

    Attributes:
        seed: Its seed.
        reference: The reference's return.
        variant: The variant's return.
        divergence: Where the actions first differed, or None.
        error: Why the variant did not finish its episode, or empty.
        differs: How the environment, replayed from the same seed with the same actions, gave another episode; or empty.
            If it did, the two episodes are independent.
        status: Which status the error gives the variant: see ``causes.failure``. Older records have none, since only
            ``rejected`` was known.
    """

    seed: int
    reference: float
    variant: float
    divergence: Divergence | None
    error: str = ""
    differs: str = ""
    status: str = ""


class PairProcesses:
    """Processes that run pairs of episodes, one thread each; if one dies, new ones run its pairs again.

    Args:
        bundle: Whose variants they run.
        count: How many processes.
        differs: How the environment was found to give other episodes for equal seeds, or empty. If it was, no two share
            an episode.
    """

    def __init__(self, bundle: Bundle, count: int, differs: str = "") -> None:
        self.path, self.count, self.spreads, self.differs = bundle.path, count, bundle.spreads(), differs

    def __enter__(self) -> PairProcesses:
        self._others = multiprocessing.active_children()
        self._pool = self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(self, seeds: range, variants: Callable[[], tuple[str, ...]]) -> Iterator[dict[str, Outcome]]:
        """Yield the outcomes of each seed by variant, in the order of seeds, as soon as they are known.

        Args:
            seeds: One for each pair.
            variants: Returns the variants that still need pairs, when a pair is handed out.

        Raises:
            XferError: If the reference or the environment fails, or processes keep dying that no variant ends.
        """
        pending: dict[int, Future[dict[str, Outcome]]] = {}
        deaths, careful = 0, 0
        for i, seed in enumerate(seeds):
            while True:
                if careful:
                    known = pending.pop(seed, None)
                    outcomes = known.result() if known else self._one_by_one(seed, variants(), deaths)
                    careful -= 1
                    if any(outcome.error for outcome in outcomes.values()):
                        deaths = careful = 0
                    elif not careful:
                        raise self._dying(deaths)
                    break
                try:
                    for ahead in seeds[i : i + AHEAD * self.count]:
                        if ahead not in pending:
                            work = (self.path, variants(), self.spreads, ahead, self.differs)
                            pending[ahead] = self.submit(_run_pair, *work)
                    outcomes = pending.pop(seed).result()
                    break
                except BrokenProcessPool:
                    deaths += 1
                    self._begin_anew()
                    pending = {s: future for s, future in pending.items() if _succeeded(future)}
                    # Whichever pair it was, it is among those that were handed out.
                    careful = AHEAD * self.count if deaths > MAX_DEATHS else 0
            yield outcomes

    def _one_by_one(self, seed: int, variants: tuple[str, ...], deaths: int) -> dict[str, Outcome]:
        """Run a pair with each variant alone: one whose process dies has failed, and the others go on.

        Raises:
            XferError: If a process dies without any of them, or the pair fails.
        """

        def run(*names: str) -> dict[str, Outcome]:
            return self.submit(_run_pair, self.path, names, self.spreads, seed, self.differs).result()

        try:
            run()
        except BrokenProcessPool as error:
            raise self._dying(deaths + 1) from error
        outcomes: dict[str, Outcome] = {}
        for name in variants:
            try:
                outcomes |= run(name)
            except BrokenProcessPool:
                self._begin_anew()
                outcomes[name] = _not_run(seed, ExecutionError("its process died, perhaps because memory ran out"))
        return outcomes

    def _dying(self, deaths: int) -> XferError:
        return XferError(
            f"Processes that run pairs of episodes died {deaths} times, perhaps because memory ran out."
            f" Use fewer --workers than {self.count}, or fewer --variants at once."
        )

    def _begin_anew(self) -> None:
        self._end()
        self._pool = self._start()

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Let a process call a function; the first call starts the processes."""
        with user_code.starting_processes():
            return self._pool.submit(function, *arguments)

    def _start(self) -> ProcessPoolExecutor:
        with user_code.starting_processes():  # one that keeps track of what they share
            return ProcessPoolExecutor(self.count, CONTEXT, initializer=_begin_process)

    def _end(self) -> None:
        """End the processes at once: the pairs that they are running are not needed.

        By SIGKILL, because SDL, which draws for environments, turns SIGTERM into an event that is not read here.
        """
        for process in multiprocessing.active_children():
            if process not in self._others:
                process.kill()
        self._pool.shutdown(cancel_futures=True)


def _succeeded(future: Future[dict[str, Outcome]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _begin_process() -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent; end when the parent is killed."""
    user_code.started()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if importlib.util.find_spec("tqdm"):
        # PyTorch's compiler draws bars with it. Its own lock is shared between processes, by a semaphore that the kill
        # which ends this one would leave behind, and Python complains of that.
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


_open_variants = ExitStack()
"""Closed when the process ends."""


class _Reference(Runner):
    """The reference's runner: what its runtime raises is not the environment's fault, and says so."""

    name = ""

    def act(self, observations: Arrays) -> Action:
        """Act.

        Raises:
            ObservationError: If the environment gives what no policy could act on.
            ExecutionError: If it cannot act.
        """
        try:
            return super().act(observations)
        except ObservationError:
            raise
        except Exception as error:
            why = causes.failure(error).reason
            raise ExecutionError(
                f"{self.name}, which the others are compared with, failed in an episode: {why}"
            ) from None


@cache
def _reference_runner(path: Path) -> _Reference:
    name = Bundle(path).reference
    plain = _runner(path, name)
    reference = _Reference(plain.session, plain.spec)
    reference.name = name
    return reference


def _not_run(seed: int, error: Exception) -> Outcome:
    """Return the outcome of a variant that had no episode; the reference's return is not known, and does not count."""
    status, reason = causes.failure(error)
    return Outcome(seed, 0.0, 0.0, None, reason, status=status)


def _failure(pair: Pair) -> tuple[str, str]:
    """Return the status and the reason of a variant that did not finish its episode, or two empty strings."""
    if pair.cause is None:
        return "", pair.error
    status, reason = causes.failure(pair.cause)
    return status, f"{pair.error.partition(':')[0]}: {reason}"


@cache
def _runner(path: Path, variant: str) -> Runner:
    """Open a variant once in each process."""
    return _open_variants.enter_context(Bundle(path).runner(variant))


def _run_pair(
    path: Path, variants: tuple[str, ...], spreads: Spreads, seed: int, differs: str = ""
) -> dict[str, Outcome]:
    """Run in a worker process: the reference and the variants from one seed.

    Raises:
        XferError: If the reference or the environment fails. What a variant raises is its own outcome.
    """
    try:
        reference = _reference_runner(path)
        task = tasks.load_recorded(reference.spec.task)
        runners: dict[str, Runner] = {}
        outcomes: dict[str, Outcome] = {}
        for name in variants:
            try:
                runners[name] = _runner(path, name)
            except Exception as error:  # whatever a runtime raises when it loads its files
                outcomes[name] = _not_run(seed, error)
        if differs:
            pairs = independent_episodes(task, reference, runners, seed, differs)
        else:
            pairs = paired_episode(task, reference, runners, seed, fork_tolerance(reference.spec, spreads))
        for name, pair in pairs.items():
            divergence = None if pair.fork is None else _divergence(seed, pair.fork, spreads, reference.spec)
            failed = _failure(pair)
            outcomes[name] = Outcome(seed, pair.reference, pair.variant, divergence, failed[1], pair.differs, failed[0])
        return {name: outcomes[name] for name in variants}
    except XferError:
        raise
    except Exception as error:  # of whatever class an environment or a runtime raises, perhaps one that cannot be sent
        raise XferError(
            f"The pair of episodes with seed {seed} failed: {type(error).__name__}: {error}. If that is the"
            f" environment's fault, mend it; --pairs 0 leaves the reward gate out."
        ) from error


def fork_tolerance(spec: PolicySpec, spreads: Spreads) -> np.ndarray:
    """Return up to which difference of its elements an action is the same, in its own units: float [A], or [1] zero.

    Runtimes differ in the last bit of a continuous action. That is no other choice, and must not end the lockstep.

    Args:
        spec: The contract. The scale of an element is the range that it has, or its spread where it has none.
        spreads: Of what the live policy gave.
    """
    action = spec.action
    if action.kind == "discrete":
        return np.zeros(1)
    scale = np.subtract(action.high, action.low) if action.low else np.array(spreads.actions)
    return SAME_ACTION * scale


def why_independent(outcomes: Iterable[Outcome]) -> str:
    """Return how the environment was found to give other episodes for equal seeds, or an empty string."""
    return next((outcome.differs for outcome in outcomes if outcome.differs), "")


def _divergence(seed: int, fork: Fork, spreads: Spreads, spec: PolicySpec) -> Divergence:
    return Divergence(
        seed,
        fork.step,
        tuple(np.atleast_1d(fork.reference_action).astype(float).tolist()),
        tuple(np.atleast_1d(fork.variant_action).astype(float).tolist()),
        margin(fork, spreads, spec),
        picture(fork.observations, spec),
    )


def margin(fork: Fork, spreads: Spreads, spec: PolicySpec) -> float:
    """Return the regret of the variant's action by the reference's scores, as the actions gate counts it.

    Args:
        fork: Where their actions first differed.
        spreads: Of what the live policy gave.
        spec: Says how to count.
    """
    if spec.action.kind == "continuous":
        return float(action_difference(fork.reference_action, fork.variant_action, spec.action, spreads).max())
    return float(regret(fork.scores[None], np.atleast_1d(fork.variant_action), spec, spreads)[0])


def picture(observations: Arrays, spec: PolicySpec) -> str:
    """Return the first image among some observations as PNG in base64, or an empty string if there is none."""
    for tensor in spec.observations:
        if tensor.color_order and tensor.dtype == "uint8":
            from PIL import Image

            pixels = observations[tensor.name]
            pixels = pixels[..., ::-1] if tensor.color_order == "BGR" else pixels.squeeze()
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
            return base64.b64encode(file.getvalue()).decode()
    return ""
