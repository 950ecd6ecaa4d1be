import time

import numpy as np
import pytest

from benchmarks.claims import Options, overhead
from xfer.errors import UnavailableError, UsageError
from xfer.runner import Runner


def test_it_needs_a_bundle_threads_that_fit_and_enough_turns(small_bundle):
    with pytest.raises(UsageError, match="xfer reproduce overhead runs"):
        overhead.reproduce(Options(name="overhead"))
    with pytest.raises(UsageError, match="--threads 1000"):
        overhead.reproduce(Options(name="overhead", bundle=small_bundle.path, threads=1000))
    with pytest.raises(UsageError, match="--runs 4 is too few"):
        overhead.reproduce(Options(name="overhead", bundle=small_bundle.path, runs=4))


@pytest.mark.parametrize("variant", ["eager-fp32", "torchscript-fp32", "onnx-int8"])
def test_the_runtime_s_own_call_does_what_the_runner_does_states_included(small_bundle, variant):
    golden = small_bundle.golden()
    target = variant.partition("-")[0]
    with small_bundle.runner(variant) as runner:
        call = overhead.BARE[target](runner.session)
        scores = []

        def recorded(*inputs):
            outputs = call(*inputs)
            scores.append(outputs[1][0].tolist())
            return outputs

        bare = overhead.Bare(recorded, small_bundle.spec)
        for begins, observations in golden.steps():
            if begins:
                bare.reset()
            bare.act(observations)
        np.testing.assert_array_equal(scores, golden.replay(runner).scores)


def test_both_are_measured_in_a_process_for_each_variant(monkeypatch, small_bundle):
    """Whether the claim holds is for a quiet machine to say; here both must be of the same order."""
    monkeypatch.setattr(overhead, "BARE", {"onnx": overhead.onnx})
    found = overhead.reproduce(Options(name="overhead", bundle=small_bundle.path, threads=1, runs=6))
    assert [row["variant"] for row in found.rows] == ["onnx-fp32", "onnx-int8"]
    assert all(0.2 < row["runner_ms"] / row["bare_ms"] < 5 for row in found.rows)
    assert "eager-fp32 was left out: no bare call is known for eager" in found.notes


def test_a_slow_runner_does_not_pass(monkeypatch, small_bundle):
    monkeypatch.setattr(overhead, "TURN_S", 0.01)
    act = Runner.act

    def slow(self, observations):
        time.sleep(0.0005)
        return act(self, observations)

    monkeypatch.setattr(Runner, "act", slow)
    row = overhead.judge("onnx-int8", *overhead.measure(small_bundle.path, "onnx-int8", 1, 12))
    assert not row["holds"]
    assert row["extra_ms"] > 0.4


def test_the_bound_allows_a_share_of_the_time_or_a_tenth_of_a_millisecond():
    rng = np.random.default_rng(0)

    def holds(bare_ms, extra_ms):
        bare = bare_ms * (1 + 0.01 * rng.standard_normal(60)) / 1000
        return overhead.judge("x", bare, bare + extra_ms * (1 + 0.1 * rng.standard_normal(60)) / 1000)["holds"]

    assert holds(1.0, 0.09)
    assert not holds(1.0, 0.11)
    assert holds(20.0, 0.9)
    assert not holds(20.0, 1.1)
    assert not overhead.judge("x", [1.0] * 3, [1.0] * 3)["holds"]  # too few turns to tell anything


def test_a_bundle_that_nothing_is_known_of_is_an_error(monkeypatch, small_bundle):
    monkeypatch.setattr(overhead, "BARE", {})
    with pytest.raises(UnavailableError, match=r"Nothing to measure\. eager-fp32 was left out: no bare call"):
        overhead.reproduce(Options(name="overhead", bundle=small_bundle.path))
