"""Our figures against independent tools: the same model file, the same recorded frames, the same threads.

Two processes stand side by side, each idle while the other has its turn, in short turns with alternating first. What is
compared is the ratio of two neighboring turns' figures: what slows both down does not count. After a few turns both
are started afresh, since the memory layout of a process shifts all of its times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bench import check_libraries
from benchmarks.claims import Options, Outcome
from benchmarks.measure.interference import Interference, Meter
from benchmarks.measure.messages import Assignment, Turn
from benchmarks.measure.worker_process import WorkerError, WorkerProcess
from export import targets
from export.bundle.reader import Bundle
from export.libraries import linux
from export.libraries.cores import by_preference, default_threads, usable_cores
from export.targets import Variant
from xfer.errors import UnavailableError, UsageError

STARTS, TURNS, TURN_S, MAX_DIFFERENCE = 4, 8, 0.4, 0.05
CLAIM = (
    f"xfer's figures agree within {MAX_DIFFERENCE:.0%} at the median with a loop on bare ONNX Runtime (median of a"
    " turn) and with OpenVINO's benchmark_app (-hint latency -nireq 1 -api sync; its time for an iteration, frame to"
    " result) on the same model file and input."
)
BARE_LOOP = Path(__file__).with_name("_bare_onnxruntime.py")
BENCHMARK_APP = "from openvino.tools.benchmark.main import main; main()"


@dataclass(frozen=True)
class Setup:
    """What both sides are given.

    Attributes:
        bundle: The bundle.
        folder: Where the recorded frames lie as NumPy files.
        cores: Logical cores that both are bound to; one thread each.
    """

    bundle: Bundle
    folder: Path
    cores: tuple[int, ...]


def reproduce(options: Options) -> Outcome:
    """Measure in interleaved rounds.

    Raises:
        UsageError: If no bundle is named, or the options do not fit.
        UnavailableError: If none of the variants can run here, or a process fails.
    """
    linux.require("xfer reproduce crosscheck")
    check_libraries()
    if options.bundle is None:
        raise UsageError("crosscheck measures a bundle: xfer reproduce crosscheck runs/cartpole.bundle")
    threads = options.threads or default_threads()
    if not 1 <= threads <= len(usable_cores()):
        raise UsageError(f"--threads {threads} does not fit {len(usable_cores())} usable cores.")
    bundle, starts = Bundle(options.bundle), options.runs or STARTS
    notes, rows = [f"Threads: {threads}; starts of each process: {starts}; turns after each: {TURNS}."], []
    with tempfile.TemporaryDirectory(prefix="xfer-crosscheck-") as temporary, _bound(by_preference()[:threads]):
        setup = Setup(bundle, Path(temporary), usable_cores())
        save_frames(bundle, setup.folder)
        for variant, tool in TOOLS.items():
            if (reason := why_not(bundle, variant)) is not None:
                notes.append(f"{variant} was left out: {reason}")
            else:
                rows.append(_compare(setup, variant, tool, starts))
    if not rows:
        raise UnavailableError(f"Nothing to compare. {' '.join(notes[1:])}")
    if any(row["disturbed"] for row in rows):
        notes.append("Something else ran at the same time: repeat this on a quiet machine before relying on it.")
    return Outcome(tuple(rows), tuple(notes))


def why_not(bundle: Bundle, variant: str) -> str | None:
    """Return why a variant cannot be compared here, or None if it can."""
    name = Variant.parse(variant).target
    if variant not in bundle.builds:
        return f"the bundle has no {variant}: xfer export RUN --targets {name}"
    return bundle.builds[variant].reason or targets.load(name).runnable("")


def save_frames(bundle: Bundle, folder: Path) -> None:
    """Write the golden observations as NumPy files: all frames of an input in one, and each in a file of its own."""
    observations = bundle.golden().observations
    (folder / "each").mkdir()
    for name, array in observations.items():
        np.save(folder / f"{name}.npy", array[:])
        for index in range(len(array)):
            np.save(folder / "each" / f"{name}.{index}.npy", array[index : index + 1])
    for state in bundle.spec.states:
        np.save(folder / "each" / f"{state.name}.0.npy", state.zeros(1))


TakeTurn = Callable[[], float]
"""Takes one turn and returns the time of a call, in seconds: the turn's median or mean, whichever the tool gives."""

Statistic = Callable[[Sequence[float]], Any]


@contextmanager
def ours(setup: Setup, variant: str, statistic: Statistic, disturbances: list[Interference]) -> Iterator[TakeTurn]:
    """Start xfer's own worker; what else goes on during its turns is added to ``disturbances``."""
    try:
        # With spinning, as by the tools' own defaults.
        assignment = Assignment(str(setup.bundle.path.resolve()), variant, len(setup.cores), spin=True)
        with WorkerProcess(assignment) as worker:
            meter = Meter(worker.pid, setup.cores, setup.cores)

            def turn() -> float:
                meter.begin()
                seconds = worker.turn(Turn(1, TURN_S)).seconds
                meter.end()
                disturbances.append(meter.disturbance())
                return float(statistic(seconds))

            yield turn
    except WorkerError as error:
        raise UnavailableError(f"{variant}: {error}") from error


@contextmanager
def bare_loop(setup: Setup, variant: str) -> Iterator[TakeTurn]:
    """Start a loop on bare ONNX Runtime."""
    model = setup.bundle.check(setup.bundle.build(variant)) / "policy.onnx"
    words = [sys.executable, "-P", str(BARE_LOOP), str(model), str(setup.folder), str(len(setup.cores))]
    try:
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            requests, replies = process.stdin, process.stdout

            def turn() -> float:
                requests.write(f"{TURN_S}\n")
                requests.flush()
                return float(np.median(json.loads(replies.readline())))

            yield turn
    except (BrokenPipeError, json.JSONDecodeError) as error:  # it has printed its own traceback
        raise UnavailableError(f"{BARE_LOOP.name} failed on {model}.") from error


@contextmanager
def benchmark_app(setup: Setup, variant: str) -> Iterator[TakeTurn]:
    """Run OpenVINO's own tool, anew for each turn.

    What it calls latency begins and ends inside the library's C++; ours includes what the call from Python costs. So
    its figure here is the time of its loop, divided by the iterations, which includes that too. Inputs change between
    calls only with ``-inference_only False``, and it takes the number of threads together with a performance hint only
    from a file.
    """
    folder, inputs = setup.folder, setup.bundle.spec.inputs
    model = setup.bundle.check(setup.bundle.build(variant)) / "policy.xml"
    shapes = ",".join(f"{i.name}[{','.join(map(str, (1, *i.shape)))}]" for i in inputs)
    files = {i.name: sorted((folder / "each").glob(f"{i.name}.*.npy")) for i in inputs}
    config = folder / "config.json"
    config.write_text(json.dumps({"CPU": {"INFERENCE_NUM_THREADS": str(len(setup.cores))}}), encoding="utf-8")
    words = ["-m", str(model), "-d", "CPU", "-hint", "latency", "-nireq", "1", "-api", "sync"]
    words += ["-t", "1", "-shape", shapes, "-inference_only", "False"]
    words += ["-i", *(f"{name}:{','.join(map(str, paths))}" for name, paths in files.items())]
    words += ["-infer_precision", "f32", "-load_config", str(config)]
    words += ["-report_type", "no_counters", "-report_folder", str(folder), "-json_stats"]

    def turn() -> float:
        _run(["-c", BENCHMARK_APP, *words])
        found = json.loads((folder / "benchmark_report.json").read_text(encoding="utf-8"))
        results = found["execution_results"]
        return float(results["total execution time (ms)"]) / int(results["total number of iterations"]) / 1000

    yield turn


class Tool(NamedTuple):
    """A tool to compare with: how it is started, and what its figure is of the calls of a turn."""

    start: Callable[[Setup, str], AbstractContextManager[TakeTurn]]
    statistic: Statistic


TOOLS = {
    "onnx-fp32": Tool(bare_loop, np.median),
    "onnx-int8": Tool(bare_loop, np.median),
    "openvino-fp32": Tool(benchmark_app, np.mean),
}
"""Which tool each variant is compared with."""


def _compare(setup: Setup, variant: str, tool: Tool, starts: int) -> dict[str, Any]:
    own: list[float] = []
    theirs: list[float] = []
    disturbances: list[Interference] = []
    for _ in range(starts):
        with ours(setup, variant, tool.statistic, disturbances) as our_turn, tool.start(setup, variant) as their_turn:
            our_turn(), their_turn()  # warm-up
            disturbances.pop()
            for index in range(TURNS):
                if index % 2:
                    theirs.append(their_turn())
                own.append(our_turn())
                if not index % 2:
                    theirs.append(their_turn())
    differences = np.array(own) / np.array(theirs) - 1
    difference = float(np.median(differences))
    return {
        "variant": variant,
        "tool": tool.start.__name__,
        "statistic": tool.statistic.__name__,
        "xfer_ms": 1000 * float(np.median(own)),
        "tool_ms": 1000 * float(np.median(theirs)),
        "difference": difference,
        "quartiles": tuple(np.quantile(differences, (0.25, 0.75)).round(3).tolist()),
        "disturbed": sum(disturbance.disturbed for disturbance in disturbances),
        "holds": abs(difference) <= MAX_DIFFERENCE,
    }


def _run(words: list[str]) -> str:
    """Run Python with these arguments, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", *words], capture_output=True, text=True, encoding="utf-8", check=False, timeout=600
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise UnavailableError(f"{Path(words[0]).name} failed: {lines[-1]}")
    return done.stdout


@contextmanager
def _bound(cores: tuple[int, ...]) -> Iterator[None]:
    """Bind this process, and so all that it starts, to some cores."""
    before = usable_cores()
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
