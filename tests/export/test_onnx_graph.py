"""The graph that all ONNX targets share: names of the contract's own, and nothing in it that a checker refuses."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import Deployable, targets
from export.onnx_graph import export_onnx, rename
from export.quantize import quantize_int8
from export.targets import ExportOptions, Place
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

NAMES = ("linear", "relu_scale", "front camera/left", "module.second.weight")
"""What the exporter and the quantizer call values of their own, and what is no identifier."""
PICTURE = "conv2d"
SPEC = PolicySpec(
    "",
    50.0,
    (TensorSpec(PICTURE, "float32", (3, 8, 8)), *(TensorSpec(name, "float32", (2,)) for name in NAMES)),
    (TensorSpec("relu", "float32", (4,)),),
    ActionSpec("discrete", ("left", "stay", "right")),
    "logits",
)


class Named(nn.Module):
    """A convolution, a ReLU and two linear layers, as the values inside its graph are called."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, picture, a, b, c, d, memory):
        seen = torch.relu(self.picture(picture)).mean((2, 3))
        scores = self.second(torch.relu(self.first(torch.cat([seen, a, b, c, d, memory], 1))))
        return scores.argmax(1), scores, 0.9 * memory + seen


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The module, and its graph in float and in int8."""
    torch.manual_seed(0)
    folder, module = tmp_path_factory.mktemp("named"), Deployable(Named(), SPEC).deploy()
    export_onnx(module, folder / "fp32.onnx")
    rng = np.random.default_rng(0)
    met = {o.name: rng.random((8, *o.shape), np.float32) for o in SPEC.observations}
    (folder / "int8").mkdir()
    quantize_int8(
        folder / "fp32.onnx",
        folder / "int8" / "policy.onnx",
        SPEC,
        Trajectories(met, np.arange(8) % 4 == 0),
        symmetric=False,
    )
    (folder / "fp32").mkdir()
    (folder / "fp32.onnx").rename(folder / "fp32" / "policy.onnx")
    return module, folder


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 0.05)])
def test_observations_may_have_the_names_that_exporters_use_inside(named, precision, tolerance):
    module, folder = named
    graph = onnx.load(folder / precision / "policy.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.input] == [tensor.name for tensor in SPEC.inputs]
    assert [value.name for value in graph.graph.output] == list(SPEC.output_names)
    rng = np.random.default_rng(1)
    given = {tensor.name: rng.random((2, *tensor.shape), np.float32) for tensor in SPEC.inputs}
    with torch.inference_mode():
        wanted = module(*map(torch.from_numpy, given.values()))
    states = {"relu": given.pop("relu")}
    for name in ("onnx", "openvino"):
        target = targets.load(name)
        if (reason := target.runnable("")) is not None:
            pytest.skip(reason)
        target.write_graph(folder / precision / "policy.onnx", folder)
        with target.load(folder, SPEC, Place()) as session:
            found = session.step(given, states)
        np.testing.assert_allclose(found.scores, wanted[1], atol=tolerance, err_msg=name)
        np.testing.assert_allclose(found.states["relu"], wanted[2], atol=tolerance, err_msg=name)


def test_a_value_inside_that_has_a_new_name_gives_way_also_in_branches():
    branch = onnx.parser.parse_graph(
        "inner () => (float x) { frame = Constant<value_float=1.0>() x = Identity(frame) }"
    )
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> main (bool in) => (float out) { y = Identity(in) out = Identity(in) }'
    )
    del model.graph.node[1]
    model.graph.node.append(onnx.helper.make_node("If", ["y"], ["out"], then_branch=branch, else_branch=branch))
    rename(model, {"in": "frame", "out": "y"})
    condition, choice = model.graph.node
    assert (condition.input, condition.output) == (["frame"], ["y_1"])
    assert (choice.input, choice.output) == (["y_1"], ["y"])
    for attribute in choice.attribute:
        assert [name for node in attribute.g.node for name in node.output] == ["frame_1", "x"]


def test_the_opset_is_an_option_and_decides_the_ir_version(tmp_path):
    export_onnx(Deployable(Named(), SPEC).deploy(), tmp_path / "policy.onnx", opset=21)
    graph = onnx.load(tmp_path / "policy.onnx")
    assert ([(opset.domain, opset.version) for opset in graph.opset_import], graph.ir_version) == ([("", 21)], 10)
    assert ExportOptions(opset=21).plain()["opset"] == 21
    assert "opset" not in ExportOptions().plain(), "older builds keep their content keys"
