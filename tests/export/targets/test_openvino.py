"""What is OpenVINO's own; the contract that it shares with the other targets is in ``test_targets.py``."""

import shutil

import numpy as np
import pytest

from export import targets
from export.targets import Place, Variant
from xfer.errors import BundleError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec

openvino = targets.load("openvino")
if (reason := openvino.available()) is not None:
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def folder(exported):
    return exported(Variant("openvino", "fp32"))[0]


def test_the_files_are_the_graph_and_its_weights_in_full_precision(folder):
    assert sorted(file.name for file in folder.iterdir()) == ["policy.bin", "policy.xml"]
    graph = (folder / "policy.xml").read_text()
    assert 'element_type="f32"' in graph
    assert 'element_type="f16"' not in graph


def test_it_runs_with_the_threads_the_device_and_the_precision_that_were_asked_for(folder, policy):
    for threads in (1, 2):
        with openvino.load(folder, policy.spec, Place(threads=threads)) as session:
            compiled = session.request(1).get_compiled_model()
            assert compiled.get_property("EXECUTION_DEVICES") == ["CPU"]
            assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
            assert compiled.get_property("NUM_STREAMS") == 1
            assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_int8_runs_the_convolutions_of_the_trunk_in_int8(exported, policy):
    folder, _ = exported(Variant("openvino", "int8"))
    assert sorted(file.name for file in folder.iterdir()) == ["policy.bin", "policy.xml"]
    with openvino.load(folder, policy.spec, Place()) as session:
        running = session.request(1).get_compiled_model().get_runtime_model().get_ops()
    facts = [op.get_rt_info() for op in running]
    layers = [(str(f["layerType"].astype(str)), str(f["runtimePrecision"].astype(str))) for f in facts]
    convolutions = [precision for kind, precision in layers if kind == "Convolution"]
    assert sum(precision in ("u8", "i8") for precision in convolutions) >= 4, convolutions  # stem and a stage


def test_each_batch_size_is_compiled_once(folder, policy, met):
    with openvino.load(folder, policy.spec, Place()) as session:
        assert session.request(3) is session.request(3)
        frames = met.observations["frame"]
        batched = session.step({"frame": frames[:3]}, {s.name: s.zeros(3) for s in policy.spec.states})
        single = session.step({"frame": frames[1:2]}, {s.name: s.zeros(1) for s in policy.spec.states})
        np.testing.assert_allclose(batched.scores[1:2], single.scores, atol=1e-4)


def test_observations_that_are_read_only_or_not_contiguous_are_understood(folder, policy, met):
    states = {state.name: state.zeros(1) for state in policy.spec.states}
    frame = met.observations["frame"][:1].copy()
    mirrored = np.ascontiguousarray(frame[:, :, ::-1])
    locked = mirrored.copy()
    locked.flags.writeable = False
    with openvino.load(folder, policy.spec, Place()) as session:
        wanted = session.step({"frame": mirrored}, states).scores
        assert not np.array_equal(wanted, session.step({"frame": frame}, states).scores)
        for form in (frame[:, :, ::-1], locked):
            np.testing.assert_array_equal(session.step({"frame": form}, states).scores, wanted)


def test_memory_that_was_made_for_one_input_is_not_given_to_the_next():
    from openvino import Core, Model
    from openvino import opset13 as ops

    names = [f"joint {i}" for i in range(6)]
    inputs = [ops.parameter([-1, 2], np.float32, name) for name in names]
    scores = ops.concat(inputs, 1)
    action = ops.squeeze(ops.topk(scores, ops.constant(1), 1, "max", "value", "i64").output(1), [1])
    ports = [*(port.output(0) for port in inputs), action.output(0), scores.output(0)]
    for name, port in zip([*names, "action", "scores"], ports, strict=True):
        port.set_names({name})
    spec = PolicySpec(
        "",
        50.0,
        tuple(TensorSpec(name, "float32", (2,)) for name in names),
        (),
        ActionSpec("discrete", tuple(f"action {i}" for i in range(12))),
        "logits",
    )
    session = openvino.OpenVinoSession(Core(), Model([action, scores], inputs, "joints"), spec, {})
    given = {name: np.float32([[2 * i + 1, 2 * i]])[:, ::-1] for i, name in enumerate(names)}
    np.testing.assert_array_equal(session.step(given, {}).scores, [np.arange(12)])


@pytest.mark.parametrize("name", ["policy.xml", "policy.bin"])
def test_a_damaged_file_is_refused_with_its_name(folder, policy, tmp_path, name):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / name).write_bytes((damaged / name).read_bytes()[:100])
    with (
        pytest.raises(BundleError, match=r"policy\.xml: OpenVINO cannot load it"),
        openvino.load(damaged, policy.spec, Place()),
    ):
        pass
