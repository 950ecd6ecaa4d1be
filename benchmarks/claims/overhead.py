"""What our runner costs: the same loaded model, called by ``Runner.act`` and as its runtime's documentation shows.

Each variant has a process of its own, in which the two take short turns with alternating first; what counts is the
difference of the medians of neighboring turns. Both get the recorded frames and keep the states between them. That a
variant was loaded with the right settings is for ``crosscheck`` to show.
"""

from __future__ import annotations

import inspect
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.bench import check_libraries
from benchmarks.claims import Options, Outcome
from export.bundle.reader import Bundle, why_not
from export.libraries import linux
from export.libraries.cores import by_preference, default_threads, usable_cores
from export.targets import Variant
from xfer import user_code
from xfer.errors import UnavailableError, UsageError, XferError
from xfer.runner import Arrays
from xfer.spec import PolicySpec

PAIRS, TURN_S, LEAD_IN, MIN_CALLS = 60, 0.1, 3, 5
"""Pairs of turns; how long a turn is, its untimed calls, and the fewest timed ones."""

MIN_PAIRS = 5
"""With fewer, not even the largest difference is a 95 % bound of the median."""

MAX_SHARE, MAX_MS, CONFIDENCE = 0.05, 0.1, 0.95
CLAIM = (
    f"Runner.act takes at most {MAX_SHARE:.0%} or {MAX_MS:g} ms longer, whichever is more, than the runtime's own call"
    " on the same loaded model and input."
)

Call = Callable[..., Sequence[Any]]
"""Takes observations [1, ...] and states in the spec's order, and returns action, scores, and the next states."""


def onnx(session: Any) -> Call:
    """``InferenceSession.run`` (https://onnxruntime.ai/docs/api/python/api_summary.html)."""
    names = [tensor.name for tensor in session.session.get_inputs()]

    def call(*inputs: Any) -> Sequence[Any]:
        outputs: Sequence[Any] = session.session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return call


def openvino(session: Any) -> Call:
    """One infer request that is used again, without copies of inputs and outputs.

    https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-request/python-api-advanced-inference.html
    """
    request = session.request(1)

    def call(*inputs: Any) -> Sequence[Any]:
        action, scores, *states = request.infer(inputs, share_inputs=True, share_outputs=True).to_tuple()
        return action, scores, *(state.copy() for state in states)  # else the next call would write over its own input

    return call


def torch_module(session: Any) -> Call:
    """``module(*tensors)`` in inference mode (https://docs.pytorch.org/docs/stable/notes/autograd.html)."""
    import torch

    module = inspect.unwrap(session.module)

    @torch.inference_mode()
    def call(*inputs: Any) -> Sequence[Any]:
        outputs: Sequence[Any] = module(*map(torch.as_tensor, inputs))
        return outputs

    return call


def executorch(session: Any) -> Call:
    """``Method.execute`` (https://docs.pytorch.org/executorch/stable/runtime-python-api-reference.html)."""
    import torch

    execute = inspect.unwrap(session.module)

    def call(*inputs: Any) -> Sequence[Any]:
        outputs: Sequence[Any] = execute(list(map(torch.as_tensor, inputs)))
        return outputs

    return call


BARE: dict[str, Callable[[Any], Call]] = {
    "eager": torch_module,
    "torchscript": torch_module,
    "compile": torch_module,
    "aotinductor": torch_module,
    "onnx": onnx,
    "openvino": openvino,
    "executorch": executorch,
}
"""How each target's runtime is called without xfer, given our session that holds what was loaded."""


class Actor(Protocol):
    """What takes turns: our runner, or a program without it."""

    def reset(self) -> None:
        """Begin an episode."""

    def act(self, observations: Arrays) -> object:
        """Choose an action."""


class Bare:
    """A program without xfer: it calls the runtime, and hands the states on."""

    def __init__(self, call: Call, spec: PolicySpec) -> None:
        self._call, self._spec = call, spec
        self._names = [observation.name for observation in spec.observations]
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._states: list[Any] = [state.zeros(1) for state in self._spec.states]

    def act(self, observations: Arrays) -> object:
        """Call the runtime."""
        action, _, *self._states = self._call(*(observations[name][None] for name in self._names), *self._states)
        return action


def reproduce(options: Options) -> Outcome:
    """Measure each variant of the bundle that runs here, and whose runtime's own call is known.

    Raises:
        UsageError: If no bundle is named, or the threads or runs do not fit.
        UnavailableError: If none of the variants can run here.
    """
    linux.require("xfer reproduce overhead")
    check_libraries()
    if options.bundle is None:
        raise UsageError("overhead measures a bundle: xfer reproduce overhead runs/cartpole.bundle")
    threads = options.threads or default_threads()
    if not 1 <= threads <= len(usable_cores()):
        raise UsageError(f"--threads {threads} does not fit {len(usable_cores())} usable cores.")
    bundle, pairs = Bundle(options.bundle), options.runs or PAIRS
    if pairs < MIN_PAIRS:
        raise UsageError(f"--runs {pairs} is too few for a bound. Use {MIN_PAIRS} or more.")
    notes, rows = [f"Threads: {threads}; pairs of turns: {pairs}."], []
    for variant in bundle.builds:
        name = Variant.parse(variant).target
        reason = why_not(bundle, variant) or (None if name in BARE else f"no bare call is known for {name}")
        if reason is None:
            try:
                rows.append(judge(variant, *_in_a_process(bundle.path, variant, threads, pairs)))
            except (XferError, BrokenProcessPool) as error:
                reason = str(error)
        if reason is not None:
            notes.append(f"{variant} was left out: {reason}")
    if not rows:
        raise UnavailableError(f"Nothing to measure. {' '.join(notes[1:])}")
    return Outcome(tuple(rows), tuple(notes))


def judge(variant: str, bare: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """Return a variant's row: the extra time's median, and the bound that it stays under.

    The bound is an order statistic of the differences (sign test), so it holds whatever their distribution.

    Args:
        variant: Its name.
        bare: Median of each bare turn, in seconds.
        ours: Median of the neighboring turn of ours.
    """
    from scipy.stats import quantile_test

    extra = 1000 * (np.array(ours) - np.array(bare))
    test: Any = quantile_test(extra, alternative="less")  # the stubs take its interval for a number
    bound = float(test.confidence_interval(CONFIDENCE).high)
    bare_ms = 1000 * float(np.median(bare))
    allowed = max(MAX_SHARE * bare_ms, MAX_MS)
    return {
        "variant": variant,
        "bare_ms": bare_ms,
        "runner_ms": 1000 * float(np.median(ours)),
        "extra_ms": float(np.median(extra)),
        "at_most_ms": bound,
        "allowed_ms": allowed,
        "holds": bound <= allowed,
    }


def measure(path: Path, variant: str, threads: int, pairs: int) -> tuple[list[float], list[float]]:
    """Take turns in this process.

    Returns:
        Median of each bare turn and of the neighboring turn of ours, in seconds.
    """
    bundle = Bundle(path)
    recorded = list(bundle.golden().steps())
    times: tuple[list[float], list[float]] = [], []
    with bundle.runner(variant, threads=threads, spin=True) as runner:
        bare = Bare(BARE[Variant.parse(variant).target](runner.session), bundle.spec)
        both: list[tuple[Actor, list[float]]] = [(bare, times[0]), (runner, times[1])]
        for actor, _ in both:
            _turn(actor, itertools.cycle(recorded))
        for index in range(pairs):
            for actor, medians in both if index % 2 else reversed(both):
                medians.append(_turn(actor, itertools.cycle(recorded)))
    return times


def _turn(actor: Actor, steps: Iterator[tuple[bool, Mapping[str, np.ndarray]]]) -> float:
    """Act for a while, and return the median time of an action in seconds."""
    samples: list[float] = []
    end = time.perf_counter() + TURN_S
    while len(samples) < LEAD_IN + MIN_CALLS or time.perf_counter() < end:
        begins, observations = next(steps)
        if begins:
            actor.reset()
        start = time.perf_counter()
        actor.act(observations)
        samples.append(time.perf_counter() - start)
    return float(np.median(samples[LEAD_IN:]))


@user_code.starting_processes()
def _in_a_process(path: Path, variant: str, threads: int, pairs: int) -> tuple[list[float], list[float]]:
    cores = by_preference()[:threads]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_bind, initargs=(cores,)) as executor:
        return executor.submit(measure, path, variant, threads, pairs).result()


def _bind(cores: tuple[int, ...]) -> None:
    os.sched_setaffinity(0, cores)
