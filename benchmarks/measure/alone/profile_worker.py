"""The process in which one variant is profiled: ``python -m benchmarks.measure.alone.profile_worker ASSIGNMENT``.

It answers one turn: its lead-in unprofiled, then its calls with the library's own profiler on.
"""

from __future__ import annotations

from typing import BinaryIO, cast

from benchmarks.measure import worker
from benchmarks.measure.messages import Assignment, Reply, Request
from export import targets
from export.bundle.reader import Bundle
from export.targets import Place, Profiled, Variant
from xfer.files import from_json
from xfer.runner import Runner


def serve(assignment: Assignment, requests: BinaryIO, replies: BinaryIO) -> None:
    """Load the variant, say that it is ready, and answer the next request for a turn."""
    worker.bind(assignment.cores)
    bundle, variant = Bundle(assignment.bundle), Variant.parse(assignment.variant)
    target = cast(Profiled, targets.load(variant.target))
    place = Place(variant.place, assignment.threads, assignment.spin, variant.precision, 1, profile=True)
    with target.load(bundle.check(bundle.build(assignment.variant)), bundle.spec, place) as session:
        runner, steps = Runner(session, bundle.spec), worker.recorded(bundle, 1)
        worker.send(replies, Reply(cores=worker.bound_cores(), libraries=target.libraries()))
        turn = from_json(requests.readline(), Request).turn
        assert turn is not None
        for _ in range(turn.lead_in):
            worker.step(runner, steps)
        taken: list[int] = []
        layers = target.layers(session, lambda: taken.append(worker.step(runner, steps)), turn.calls)
        seconds = tuple(nanoseconds / 1e9 for nanoseconds in taken[: turn.calls])
        worker.send(replies, Reply("", seconds, cores=worker.bound_cores(), layers=tuple(layers)))


if __name__ == "__main__":
    worker.leave(worker.main(serve))
