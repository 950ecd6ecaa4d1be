"""A contract that means nothing is refused where it is made, and where it is read."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from xfer.errors import UsageError
from xfer.files import from_json, to_json
from xfer.spec import ActionSpec, PolicySpec, RewardScale, TensorSpec

JOINTS = TensorSpec("joints", "float32", (2,))
TORQUES = ActionSpec("continuous", ("shoulder", "elbow"), "N m", (-1.0, -2.0), (1.0, 2.0))
CHUNKS = replace(TORQUES, horizon=4, execute=2)
SPEC = PolicySpec("", 50.0, (JOINTS,), (), TORQUES, "mean", RewardScale(20.0, 500.0))
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((-1.0, 2.0), (1.0, 2.0), "'elbow' has low 2 and high 2"),
        ((1.0, -2.0), (-1.0, 2.0), "'shoulder' has low 1 and high -1"),
        ((-INF, -2.0), (INF, 2.0), "'shoulder' has low -inf and high inf: both must be finite"),
        ((-1.0, NAN), (1.0, 2.0), "'elbow' has low nan"),
        ((-1.0,), (1.0,), "low has 1 bounds and high 1, for 2 elements"),
        ((-1.0, -2.0), (), "low has 2 bounds and high 0"),
    ],
)
def test_bounds_that_do_not_bound_are_refused_with_the_element(low, high, message):
    with pytest.raises(UsageError, match=message):
        ActionSpec("continuous", ("shoulder", "elbow"), "N m", low, high)


def test_an_action_may_have_no_bounds():
    assert ActionSpec("continuous", ("shoulder", "elbow")).low == ()


@pytest.mark.parametrize("scale", [(500.0, 20.0), (20.0, 20.0), (NAN, 500.0), (20.0, INF)])
def test_a_reward_scale_that_is_none_is_refused(scale):
    with pytest.raises(UsageError, match=r"reference_return .* must be greater than random_return .* swapped\?"):
        RewardScale(*scale)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActionSpec("discrete", ()), "elements is empty"),
        (
            lambda: ActionSpec("discrete", ("a", "b"), low=(0.0, 0.0), high=(1.0, 1.0)),
            "low and high are for a continuous",
        ),
        (lambda: TensorSpec("", "float32", (2,)), "name is empty"),
        (lambda: TensorSpec("x", "float64", (2,)), "dtype 'float64' is none of uint8, int64, float32"),
        (lambda: TensorSpec("x", "float32", (0,)), r"shape \[0\] has a size below 1"),
        (lambda: TensorSpec("x", "float32", (2,), ("a",)), r"elements has 1 names for shape \[2\]"),
        (lambda: TensorSpec("x", "uint8", (2, 2, 3), color_order="rgb"), "color_order 'rgb' is none of RGB, BGR, gray"),
        (lambda: TensorSpec("x", "uint8", (2,), value_range=(255, 0)), "value_range"),
        (lambda: replace(SPEC, control_hz=0.0), "control_hz 0 must be a positive rate"),
        (lambda: replace(SPEC, control_hz=NAN), "control_hz nan"),
        (lambda: replace(SPEC, observations=()), "observations is empty"),
        (lambda: replace(SPEC, observations=(JOINTS, JOINTS)), "two tensors 'joints'"),
        (lambda: replace(SPEC, states=(TensorSpec("scores", "float32", (1,)),)), "two tensors 'scores'"),
        (lambda: replace(SPEC, states=(TensorSpec("memory", "uint8", (1,)),)), "state 'memory' must be float32"),
        (
            lambda: TensorSpec("x", "float32", (2,), frames=0),
            "TensorSpec 'x': frames 0 must be a whole number, 1 or more",
        ),
        (lambda: replace(TORQUES, horizon=0), "horizon 0 must be a whole number, 1 or more"),
        (lambda: replace(TORQUES, horizon=2.5), "horizon 2.5 must be a whole number"),
        (lambda: replace(TORQUES, horizon=4, execute=0), "execute 0 must be a whole number"),
        (lambda: replace(TORQUES, horizon=4, execute=5), "execute 5 is more than horizon 4"),
        (lambda: replace(TORQUES, horizon=4, ensemble=NAN), r"ensemble nan gives weights exp\(-m i\)"),
        (lambda: replace(TORQUES, horizon=100, ensemble=-1.0), "ensemble -1.0 gives weights"),
        (lambda: replace(TORQUES, horizon=4, execute=2, ensemble=0.01), "ensemble needs execute 1, not 2"),
        (lambda: replace(TORQUES, ensemble=0.01), "ensemble needs a horizon above 1"),
        (lambda: ActionSpec("discrete", ("a", "b"), horizon=4, ensemble=0.01), "ensemble is for a continuous action"),
        (
            lambda: replace(SPEC, action=CHUNKS, states=(TensorSpec("memory", "float32", (3,)),)),
            r"execute 2 does not go with states \('memory'\).* Use execute 1, or an observation with frames",
        ),
        (
            lambda: replace(SPEC, states=(TensorSpec("memory", "float32", (3,), frames=2),)),
            "state 'memory' has frames; they are of an observation",
        ),
        (lambda: replace(SPEC, score_kind="logits"), "score_kind 'logits' does not fit a continuous action: use mean"),
    ],
)
def test_what_means_nothing_is_refused_by_its_field(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_contract_that_was_edited_into_nonsense_is_an_error_of_its_file():
    text = to_json(SPEC)
    assert from_json(text, PolicySpec) == SPEC
    with pytest.raises(msgspec.DecodeError, match="Were they swapped"):
        from_json(text.replace(b"500.0", b"5.0"), PolicySpec)


@pytest.mark.parametrize(("low", "high"), [(1000.0, 1000.00001), (-1e39, 1e39)])
def test_bounds_that_are_none_as_float32_are_refused(low, high):
    with pytest.raises(UsageError, match="as float32"):
        ActionSpec("continuous", ("shoulder",), "N m", (low,), (high,))


def test_a_kind_that_does_not_exist_is_refused_by_its_field():
    with pytest.raises(UsageError, match="kind 'disc'"):
        ActionSpec("disc", ("a", "b"))
    with pytest.raises(UsageError, match="score_kind 'logit' does not fit a discrete action: use logits or values"):
        replace(SPEC, action=ActionSpec("discrete", ("a", "b")), score_kind="logit")


def test_bounds_may_be_arrays_and_are_kept_as_plain_values():
    action = ActionSpec("continuous", ("shoulder", "elbow"), "N m", np.float32([-1, -2]), [1.0, 2.0])
    assert action == TORQUES
    assert from_json(to_json(action), ActionSpec) == action


def test_a_policy_description_with_reversed_bounds_is_an_error_of_its_file(tmp_path):
    from tests.conftest import make_policy
    from xfer.errors import WeightsError
    from xfer.models.checkpoint import DESCRIPTION, load_description, save_policy

    save_policy(make_policy(), tmp_path)
    path = tmp_path / DESCRIPTION
    text = path.read_text()
    assert '"score_kind": "values"' in text or '"score_kind": "logits"' in text
    for kind in ("values", "logits"):
        text = text.replace(f'"score_kind": "{kind}"', '"score_kind": "mean"')
    path.write_text(text)
    with pytest.raises(WeightsError, match=rf"{DESCRIPTION} is missing or damaged: PolicySpec: score_kind 'mean'"):
        load_description(tmp_path)


def test_a_chunk_has_its_actions_along_a_first_axis():
    assert TORQUES.chunk == TORQUES.tensor
    assert replace(SPEC, action=CHUNKS).chunk_scores.shape == (4, 2)
    assert CHUNKS.tensor.shape == (2,)
    assert CHUNKS.chunk.shape == (4, 2)
    discrete = ActionSpec("discrete", ("a", "b"), horizon=3).chunk
    assert (discrete.shape, discrete.dtype) == ((3,), "int64")


def test_the_network_takes_frames_along_a_first_axis_and_an_observation_stays_one_frame():
    spec = replace(SPEC, observations=(replace(JOINTS, frames=3),), states=(TensorSpec("memory", "float32", (5,)),))
    assert [tensor.shape for tensor in spec.inputs] == [(3, 2), (5,)]
    assert spec.observations[0].shape == (2,)
    assert spec.bytes_per_step == 8
    assert SPEC.inputs == SPEC.observations


def test_a_contract_with_chunks_and_frames_is_read_as_it_was_written_and_an_old_one_too():
    spec = replace(SPEC, observations=(replace(JOINTS, frames=3),), action=replace(TORQUES, horizon=4, ensemble=0.01))
    assert from_json(to_json(spec), PolicySpec) == spec
    assert (spec.queued, SPEC.queued) == (True, False)
    old = to_json(SPEC)
    for field in (b'"horizon": 1', b'"execute": 1', b'"ensemble": null', b'"frames": 1'):
        assert field in old
    bare = msgspec.json.decode(old)
    del bare["action"]["horizon"], bare["action"]["execute"], bare["action"]["ensemble"]
    del bare["observations"][0]["frames"]
    assert from_json(msgspec.json.encode(bare), PolicySpec) == SPEC
