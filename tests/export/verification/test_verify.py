"""``verify()`` as a program calls it, and bundles whose reference is not eager PyTorch, or not in them."""

import numpy as np
import pytest

from export import Bundle, verify
from export.build import Builder
from export.bundle import records
from export.formats import pack
from export.targets import ExportOptions, ExportRequest, expand
from export.verification.held_out import held_out_observations
from tests.conftest import drive
from xfer.errors import UsageError
from xfer.models.checkpoint import weights_bytes
from xfer.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(policy, golden, tmp_path_factory):
    """A folder that looks like the run of the shared bundle, with its held-out observations."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "small")
    folder.observations_file("held-out").parent.mkdir(parents=True)
    golden.save(folder.observations_file("held-out"))
    (folder.path / "policy.safetensors").write_bytes(weights_bytes(policy))
    return folder.path


def test_the_function_does_what_the_command_does_and_prints_nothing(bundle_path, run, golden, capsys):
    notes, started = [], []
    found = verify(
        bundle_path, "onnx-fp32,torchscript-fp32", pairs=0, run=run, on_note=notes.append, on_variant=started.append
    )
    assert [*found] == started == ["onnx-fp32", "torchscript-fp32"]
    assert {(v.status, v.rung, v.observations) for v in found.values()} == {("provisional", "actions", len(golden))}
    assert found["onnx-fp32"].reason == "reward not run: --pairs 0"
    assert notes == []
    assert {name: record.verification for name, record in records.load(Bundle(bundle_path)).items()} == found
    assert capsys.readouterr().out == ""


def test_without_keeping_the_bundle_is_only_read(bundle_path):
    before = sorted(path.name for path in bundle_path.iterdir())
    notes = []
    verify(Bundle(bundle_path), ["onnx-fp32"], pairs=0, keep=False, on_note=notes.append)
    assert sorted(path.name for path in bundle_path.iterdir()) == before
    assert "golden alone" in notes[0]


def test_names_and_numbers_that_do_not_fit_are_refused(shared_bundle):
    with pytest.raises(UsageError, match="Did you mean 'int8'"):
        verify(shared_bundle, "onnx-int4")
    with pytest.raises(UsageError, match="Unknown variant 'openvino-fp32'"):
        verify(shared_bundle, ["openvino-fp32"])
    with pytest.raises(UsageError, match="neither may be negative"):
        verify(shared_bundle, workers=-1)


def test_a_packed_bundle_is_verified_in_full_where_its_run_is_and_else_on_golden(bundle_path, run, golden, tmp_path):
    packed = Bundle(pack(Bundle(bundle_path), "onnx-fp32", tmp_path / "robot.bundle"))
    assert packed.reference == "eager-fp32"
    assert packed.spreads() == Bundle(bundle_path).spreads()
    held_out, why = held_out_observations(packed, run)
    assert (len(held_out), why) == (len(golden), "")
    np.testing.assert_array_equal(held_out.scores, packed.held_out().scores)
    notes = []
    for where in (run, None):
        (found,) = verify(packed, run=where, on_note=notes.append).values()
        rung = "recordings" if where else "actions"
        assert (found.status, found.rung, found.observations) == ("provisional", rung, len(golden))
        assert "no eager-fp32 to compare with" in found.reason
    assert ["golden alone" in note for note in notes] == [False, True, False], "the reward gate, then both"


def test_a_bundle_without_eager_has_another_reference(policy, golden, met, tmp_path, one_thread):
    path = tmp_path / "graph.bundle"
    request = ExportRequest(policy, policy.spec, drive(6, 32), ExportOptions())
    builder = Builder(request, lambda: golden, path, run="nowhere", reference="onnx-fp32")
    for variant in expand("torchscript,onnx-fp32"):
        builder.build(variant)
    bundle = Bundle(path)
    assert bundle.reference == "onnx-fp32"
    assert [*bundle.builds] == ["onnx-fp32", "torchscript-fp32"], "the reference comes first"
    found = verify(bundle, held_out=met, pairs=10, workers=1)
    assert (found["onnx-fp32"].status, found["onnx-fp32"].reason) == ("verified", "the reference itself")
    other = found["torchscript-fp32"]
    assert (other.status, other.rung, other.pairs, other.agreement) == ("provisional", "reward", 10, 1.0)
    assert [row[:2] for row in found["onnx-fp32"].returns] == [row[:2] for row in other.returns]
    assert np.isfinite(other.reward_mean)
    assert Bundle(pack(bundle, "torchscript-fp32")).reference == "onnx-fp32"
