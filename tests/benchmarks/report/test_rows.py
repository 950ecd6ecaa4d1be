"""The row of a variant whose process failed says why, with a status of its own."""

from pathlib import Path

import pytest

from benchmarks.measure.protocol import Candidate, Measurement, quick
from benchmarks.report.rows import RowBuilder
from export.bundle.manifest import Build, Provenance
from export.bundle.record import Record, Verification

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
