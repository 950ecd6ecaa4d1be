"""The most multiply-accumulates (MACs) in a second that a machine does: products of matrices that fit into its caches.

    measure(threads, cores)      both rates, in a process of its own
    python -m benchmarks.measure.alone.peak THREADS CORES

A convolution is such a product too, unless Winograd's trick saves multiplications. So a graph of so many MACs cannot
act much faster than that: its arithmetic limit. ONNX Runtime's kernels multiply, since they have int8 too; where it is
missing PyTorch's, else NumPy's in fp32.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from xfer.files import from_json

SIDES = (256, 512)
"""Sizes of the square matrices: 3 MB at most. A larger product waits for memory."""

SECONDS = 0.1
"""How long each product is repeated; the fastest counts."""

TIMEOUT_S = 120.0

PRODUCT = (
    b'\x08\x08:%b\n%b\n\x01a\n\x01b\x12\x01c"%b\x12\x01gZ\x15\n\x01a\x12\x10\n\x0e\x08%b\x12\n\n\x03\x12\x01n\n\x03\x12'
    b"\x01mZ\x15\n\x01b\x12\x10\n\x0e\x08%b\x12\n\n\x03\x12\x01m\n\x03\x12\x01kb\x15\n\x01c\x12\x10\n\x0e\x08%b\x12\n\n\x03"
    b"\x12\x01n\n\x03\x12\x01kB\x04\n\x00\x10\r"
)
"""A graph without the onnx library: c [n, k] = a [n, m] times b [m, k], of opset 13 and IR version 8. Its gaps are two
lengths, the operator, and the types of a, b and c."""

FLOATS = PRODUCT % (b"[", b"\x11", b"\x06MatMul", b"\x01", b"\x01", b"\x01")
INTEGERS = PRODUCT % (b"b", b"\x18", b"\rMatMulInteger", b"\x02", b"\x03", b"\x06")


@dataclass(frozen=True)
class Peak:
    """The most that a machine does in one precision.

    Attributes:
        precision: ``fp32`` or ``int8``.
        macs_per_second: Multiply-accumulates in a second.
        library: What multiplied, with its version.
        threads: With how many threads.
    """

    precision: str
    macs_per_second: float
    library: str
    threads: int


@functools.cache
def measure(threads: int, cores: tuple[int, ...]) -> tuple[Peak, ...]:
    """Return what this machine reaches with so many threads on these cores; nothing where that fails.

    Measured once in a process: it is a property of the machine.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109 - a string is needed
    words = [sys.executable, "-P", "-m", __name__, str(threads), ",".join(map(str, cores))]
    # NumPy's libraries read their number of threads when they are loaded.
    few = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    try:
        done = subprocess.run(
            words, capture_output=True, env={**os.environ, **few, "PYTHONPATH": path}, timeout=TIMEOUT_S
        )
        return from_json(done.stdout.splitlines()[-1], tuple[Peak, ...])
    except (subprocess.TimeoutExpired, IndexError, msgspec.DecodeError):
        return ()


Product = tuple[str, str, Callable[[np.ndarray, np.ndarray], object], np.dtype, np.dtype]
"""Precision, library, what multiplies, and the types of both matrices."""


def products(threads: int) -> Iterator[Product]:
    """Yield what multiplies here."""
    real, whole, positive = np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8)
    if importlib.util.find_spec("onnxruntime"):
        from export.libraries.onnxruntime import onnxruntime

        library = onnxruntime()
        options = library.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        for precision, graph, first in (("fp32", FLOATS, real), ("int8", INTEGERS, positive)):
            session = library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

            def run(a: np.ndarray, b: np.ndarray, session: object = session) -> object:
                return session.run(None, {"a": a, "b": b})  # type: ignore[attr-defined]

            yield precision, f"ONNX Runtime {library.__version__}", run, first, real if first == real else whole
    elif importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        name = f"PyTorch {torch.__version__}"
        yield "fp32", name, lambda a, b: torch.mm(torch.from_numpy(a), torch.from_numpy(b)), real, real
        yield "int8", name, lambda a, b: torch._int_mm(torch.from_numpy(a), torch.from_numpy(b)), whole, whole
    else:
        yield "fp32", f"NumPy {np.__version__}", np.matmul, real, real


def rate(multiply: Callable[[np.ndarray, np.ndarray], object], first: np.dtype, second: np.dtype) -> float:
    """Return the highest rate of a product, in multiply-accumulates a second."""
    best = 0.0
    for side in SIDES:
        a, b = np.ones((side, side), first), np.ones((side, side), second)
        end = time.perf_counter() + SECONDS
        while (start := time.perf_counter()) < end:
            multiply(a, b)
            best = max(best, side**3 / (time.perf_counter() - start))
    return best


def main() -> None:
    """Measure with the threads and on the cores that the arguments name, and print the peaks as JSON."""
    threads, cores = int(sys.argv[1]), [int(core) for core in sys.argv[2].split(",") if core]
    if cores:
        os.sched_setaffinity(0, cores)
    found = [Peak(precision, rate(run, a, b), library, threads) for precision, library, run, a, b in products(threads)]
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
