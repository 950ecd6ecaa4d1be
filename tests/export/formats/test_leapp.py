"""The LEAPP bundle, judged by leapp itself."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from export import Bundle
from export.commands import pack
from export.commands.pack import Args
from export.formats.leapp import describe
from xfer.errors import BundleError, UsageError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec


@pytest.fixture(scope="module")
def manager():
    """Opens a LEAPP bundle with leapp's own InferenceManager."""
    leapp = pytest.importorskip("leapp", reason="needs leapp: pip install pyyaml; pip install --no-deps leapp")

    def open_bundle(folder):
        return leapp.InferenceManager(f"{folder}/policy.yaml")

    return open_bundle


def replay(manager, golden):
    """What leapp does when it is shown the golden trajectories, with a reset where an episode begins."""
    actions, scores = [], []
    for begins, observations in golden.steps():
        if begins:
            manager.reset()
        # Copies in and out: reset() writes zeros into all the tensors that it met last.
        answer = manager.run_policy(
            {f"policy/{name}": torch.tensor(array[None]) for name, array in observations.items()}
        )
        actions.append(answer["policy/action"].numpy()[0].copy())
        scores.append(answer["policy/scores"].numpy()[0].copy())
    return np.array(actions), np.array(scores)


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8"])
def test_leapps_inference_manager_acts_as_our_runner_does_over_episodes_and_resets(manager, bundle_path, variant):
    answer = pack.main(Args(bundle=bundle_path, variant=variant, format="leapp"))
    assert answer["bundle"] == str(bundle_path.with_name(f"small-{variant}.leapp"))
    bundle = Bundle(bundle_path)
    with bundle.runner(variant) as runner:
        ours = bundle.golden().replay(runner)
    assert ours.resets.sum() == 3
    actions, scores = replay(manager(answer["bundle"]), ours)
    np.testing.assert_array_equal(actions, ours.actions)
    # Both call ONNX Runtime, with other settings: a number between two steps of int8 may fall on either side.
    allowed = 1e-4 if variant == "onnx-fp32" else 0.02 * float(ours.scores.std())
    np.testing.assert_allclose(scores, ours.scores, rtol=0, atol=allowed)
    # The history came back: with nothing but the last frame the scores would be others.
    opened = manager(answer["bundle"])
    alone = opened.run_policy({"policy/frame": torch.tensor(ours.observations["frame"][7][None])})
    assert np.abs(alone["policy/scores"].numpy()[0] - ours.scores[7]).max() > 1e-3


def test_leapp_finds_what_the_description_promises(manager, bundle_path, tmp_path):
    folder = tmp_path / "robot.leapp"
    pack.main(Args(bundle=bundle_path, variant="onnx-fp32", format="leapp", output=folder))
    opened = manager(folder)
    assert (opened.inputs, opened.outputs) == (["policy/frame"], ["policy/action", "policy/scores"])
    assert opened.feedback_inputs == ["policy/history"]
    (folder / "policy.onnx").write_bytes((folder / "policy.onnx").read_bytes()[:-1])
    with pytest.raises(ValueError, match="SHA256 checksum mismatch"):
        manager(folder)


def test_packing_again_changes_nothing(bundle_path):
    folder = bundle_path.with_name("small-onnx-fp32.leapp")
    contents = []
    for _ in range(2):
        pack.main(Args(bundle=bundle_path, variant="onnx-fp32", format="leapp"))
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["policy.onnx", "policy.yaml", "policy_initial_values.safetensors"]
    graph = (Bundle(bundle_path).path / Bundle(bundle_path).build("onnx-fp32").folder / "policy.onnx").read_bytes()
    assert contents[0]["policy.onnx"] == graph
    description = json.loads(contents[0]["policy.yaml"])
    assert description["models"]["policy"]["parameters"]["sha256sum"] == hashlib.sha256(graph).hexdigest()
    initial = load_file(folder / "policy_initial_values.safetensors")
    state = Bundle(bundle_path).spec.states[0]
    assert {name: (array.shape, array.any()) for name, array in initial.items()} == {
        "policy/history": ((1, *state.shape), False)
    }


def test_a_vector_names_its_elements_and_a_policy_without_memory_has_no_initial_values():
    joints = TensorSpec("joints", "float32", (2,), ("shoulder", "elbow"), "rad")
    spec = PolicySpec("arm", 100.0, (joints,), (), ActionSpec("continuous", ("left", "right"), "N m"), "mean")
    description = describe(b"graph", spec)
    assert description["models"]["policy"]["inputs"] == [
        {
            "name": "joints",
            "dtype": "float32",
            "shape": [1, 2],
            "type": "tensor",
            "element_names": [[], ["shoulder", "elbow"]],
        }
    ]
    assert [tensor["shape"] for tensor in description["models"]["policy"]["outputs"]] == [[1, 2], [1, 2]]
    assert "initial_values" not in description["pipeline"]
    assert description["pipeline"]["configs"] == {"frequency": 100.0}


def test_what_leapp_cannot_take_is_refused(bundle_path, tmp_path):
    with pytest.raises(UsageError, match="torchscript-fp32 is none: use onnx-fp32"):
        pack.main(Args(bundle=bundle_path, variant="torchscript-fp32", format="leapp"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="is not a LEAPP bundle"):
        pack.main(Args(bundle=bundle_path, variant="onnx-fp32", format="leapp", output=tmp_path))
