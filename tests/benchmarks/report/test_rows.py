from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import kernel
from benchmarks.measure.interference import Interference
from benchmarks.measure.protocol import Candidate, Measurement, quick
from benchmarks.report.rows import RowBuilder
from export.bundle.manifest import Build, Provenance
from export.bundle.records import Record
from export.bundle.verdicts import Verification

NAME = "onnx-fp32"
VERIFIED = Record(NAME, "", {}, Verification("verified", "reward"))


@pytest.mark.parametrize(
    ("known", "error", "status"),
    [
        ({}, "out of memory: RuntimeError: CUDA error: out of memory", "failed"),
        ({}, "its process was killed by SIGSEGV", "failed"),
        ({}, "not run here: there is no NVIDIA GPU that it can use", "built"),
        ({NAME: VERIFIED}, "its process was killed by SIGSEGV", "verified"),
    ],
)
def test_a_failed_measurement_is_told_apart_from_one_that_is_not_possible_here(known, error, status):
    candidates = [Candidate(NAME, Path("x.bundle"), NAME, NAME)]
    provenance = Provenance("", "", "", "", "", 0, 0, "")
    rows = RowBuilder({NAME: Build(NAME, "built")}, known, [NAME], {}, candidates, provenance, quick(1))
    (row,) = rows.all({NAME: Measurement(NAME, NAME, error=error)})
    assert (row.status, row.reason) == (status, f"not measured: {error}")


def test_a_round_in_which_the_reference_kernel_was_slowed_is_a_disturbed_one_of_the_row():
    times = np.ones((5, 2, 10))
    times[3, 1] = 1.5
    rounds = tuple(tuple(one.tolist()) for start in times for one in start)
    quiet = (Interference(0.0, 0.0, waited=0.0),) * 10
    own, common = (
        Measurement(name, name, rounds, turns=((1,) * 10,) * 10, starts=(2,) * 5, disturbances=quiet)
        for name in (NAME, kernel.NAME)
    )
    candidates = [Candidate(NAME, Path("x.bundle"), NAME)]
    rows = RowBuilder({NAME: Build(NAME, "built")}, {}, [NAME], {}, candidates, None, quick(1))
    assert rows.figures({NAME: own, kernel.NAME: common})[NAME].disturbed_rounds == 1
    assert rows.figures({NAME: own})[NAME].disturbed_rounds == 0
