"""Verify two variants, measure them, and choose the one to ship: python 05_verify_and_choose.py BUNDLE."""

import sys

from benchmarks.bench import bench
from benchmarks.measure.protocol import quick
from benchmarks.report.decision import Limits, decide
from benchmarks.report.facts import of_rows
from export import verify


def main(bundle: str) -> None:
    # A few pairs of episodes, so that it takes seconds: nothing can be more than provisional. FULL_PAIRS gives a proof.
    for name, verdict in verify(bundle, "eager-fp32,onnx-int8", pairs=2, workers=1).items():
        print(f"{name}: {verdict.status} {verdict.reason}")

    limits = Limits(allow_provisional=True)  # and, with a full bench: deadline_ms=20
    report = bench(bundle, ["onnx-int8"], quick(threads=1), limits=limits, whole_backbone=False)
    decision = decide(of_rows(report.rows, report.loops), limits, report.reference, report.reward)
    for judgment in decision.judgments:
        print(f"{judgment.facts.variant}: p50 {judgment.p50_ms:.2f} ms; {judgment.why_not or 'acceptable'}")
    print(f"Ship {decision.chosen.variant if decision.chosen else 'nothing yet'}")


if __name__ == "__main__":  # pairs run in processes of their own, which import this file
    main(sys.argv[1])
