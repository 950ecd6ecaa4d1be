import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.measure.batch_sweep import run, short, steps
from benchmarks.measure.protocol import Candidate, Protocol
from benchmarks.measure.worker import recorded
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter


@pytest.mark.timing
def test_each_variant_is_measured_at_each_batch_that_it_takes(small_bundle, tmp_path):
    path = tmp_path / "copy.bundle"
    shutil.copytree(small_bundle.path, path)
    BundleWriter(path).add(replace(small_bundle.builds["onnx-int8"], max_batch=2))
    candidates = [Candidate(name, path, name) for name in ("onnx-fp32", "onnx-int8")]
    protocol = replace(short(Protocol(1)), calls=10, seconds=0.1)
    seen = []
    points, missing = run(candidates, (1, 4), protocol, lambda name, stage: seen.append((name, stage)))
    assert missing == []
    assert [(point.name, point.batch) for point in points] == [("onnx-fp32", 1), ("onnx-int8", 1), ("onnx-fp32", 4)]
    one, four = (next(p for p in points if (p.name, p.batch) == ("onnx-fp32", batch)) for batch in (1, 4))
    # Four frames take longer than one.
    assert four.p50_ms > 1.5 * one.p50_ms
    for point in points:
        assert np.isclose(point.frames_per_second, 1000 * point.batch / point.p50_ms)
    assert len(seen) == 3 * steps(protocol)
    assert seen[-1] == ("onnx-fp32", "batch 4, round 5")


def test_a_variant_whose_process_fails_is_missing_with_its_reason(small_bundle, tmp_path):
    path = tmp_path / "copy.bundle"
    shutil.copytree(small_bundle.path, path)
    next(path.glob("variants/onnx-int8-*/policy.onnx")).write_bytes(b"")
    protocol = replace(short(Protocol(1)), calls=5, seconds=0.01)
    points, missing = run([Candidate("onnx-int8", path, "onnx-int8")], (2,), protocol)
    assert points == []
    assert len(missing) == 1
    assert "onnx-int8 at batch 2" in missing[0]
    assert "truncated or exchanged" in missing[0]


def test_a_batch_holds_consecutiverecorded_observations_and_where_episodes_begin(small_bundle):
    golden = Bundle(small_bundle.path).golden()
    (begins, _, first), (_, _, second) = itertools.islice(recorded(small_bundle, 4), 2)
    frames = golden.observations["frame"]
    np.testing.assert_array_equal(first["frame"], frames[:4])
    np.testing.assert_array_equal(second["frame"], frames[[4, 5, 0, 1]])
    assert begins.tolist() == golden.resets[:4].tolist()
