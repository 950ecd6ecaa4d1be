"""``export()`` as a program calls it: no command line, nothing printed."""

import numpy as np
import pytest
import torch

from export import Deployable, export
from export.build import buildable
from export.importers import ImportOptions
from tests.export.importers.test_module import SPEC, Leaky, met
from xfer.errors import UsageError


@pytest.fixture
def deployable() -> Deployable:
    torch.manual_seed(0)
    return Deployable(Leaky(), SPEC)


def test_a_module_becomes_a_bundle_without_a_command_line(deployable, tmp_path, capsys, one_thread):
    met().save(tmp_path / "recorded.safetensors.gz")
    importing = ImportOptions(observations=tmp_path / "recorded.safetensors.gz")
    steps, built = [], []
    result = export(
        deployable,
        ["eager", "torchscript"],
        tmp_path / "leaky.bundle",
        importing=importing,
        on_step=steps.append,
        on_build=lambda build, cached: built.append((build.variant, cached)),
    )
    assert built == [("eager-fp32", False), ("torchscript-fp32", False)]
    checking = "checking that the policy can be exported unchanged"
    assert steps == ["reading the policy", checking, "exporting eager-fp32", "exporting torchscript-fp32"]
    assert result.bundle.reference == "eager-fp32"
    assert not result.repairs
    joints = met(seed=3).observations["joints"]
    with result.bundle.runner("torchscript-fp32") as runner:
        action = runner.act({"joints": joints[0]})
    wanted = deployable.module(torch.from_numpy(joints[:1]), torch.zeros(1, 2))
    np.testing.assert_allclose(action.scores, wanted[1][0].detach().numpy(), atol=1e-6)
    again = export(deployable, "torchscript", tmp_path / "leaky.bundle", importing=importing)
    assert [(build.variant, cached) for build, cached in again.builds] == [("torchscript-fp32", True)]
    assert capsys.readouterr().out == ""


def test_a_module_without_a_name_needs_an_output(deployable):
    with pytest.raises(UsageError, match="say where its bundle goes"):
        export(deployable, "torchscript")


def test_a_module_that_does_not_fit_its_spec_is_refused(tmp_path):
    class Wrong(Leaky):
        def forward(self, joints, memory):
            return super().forward(joints, memory)[:2]

    with pytest.raises(UsageError, match="its spec says"):
        export(Deployable(Wrong(), SPEC), "torchscript", tmp_path / "wrong.bundle")
    assert not (tmp_path / "wrong.bundle").exists()


def test_names_that_cannot_be_built_are_refused():
    assert [str(variant) for variant in buildable("onnx-int8, eager")] == ["onnx-int8", "eager-fp32"]
    with pytest.raises(UsageError, match="names nothing"):
        buildable(" , ")
    with pytest.raises(UsageError, match="onnx-fp32@cuda says where to run"):
        buildable(["eager", "onnx-fp32@cuda"])
