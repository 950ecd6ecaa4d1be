import numpy as np
import pytest

from export import Bundle, formats
from export.commands import pack, verify
from export.commands.pack import Args
from tests.permissions import read_only
from xfer.errors import BundleError, UsageError


def test_one_variant_travels_alone_and_acts_alike(bundle_path, tmp_path):
    output = tmp_path / "robot.bundle"
    answer = pack.main(Args(bundle=bundle_path, variant="onnx-fp32", output=output))
    whole, packed = Bundle(bundle_path), Bundle(output)
    assert [*packed.builds] == ["onnx-fp32"]
    assert packed.builds["onnx-fp32"] == whole.builds["onnx-fp32"]
    assert packed.manifest.provenance == whole.manifest.provenance
    assert answer["size_bytes"] < 0.7 * sum(f.stat().st_size for f in bundle_path.rglob("*") if f.is_file())
    golden = packed.golden()
    with whole.runner("onnx-fp32") as there, packed.runner("onnx-fp32") as here:
        for frame in golden.observations["frame"][:8]:
            wanted = there.act({"frame": frame}).scores
            np.testing.assert_array_equal(here.act({"frame": frame}).scores, wanted)
    row = verify.main(verify.Args(bundle=output))["variants"][0]
    assert (row["variant"], row["rung"]) == ("onnx-fp32", "actions")
    assert "no eager-fp32 to compare with" in row["reason"]


def test_a_read_only_bundle_is_packed(bundle_path, tmp_path):
    with read_only(bundle_path):
        packed = formats.pack(Bundle(bundle_path), "onnx-fp32", tmp_path / "robot.bundle")
    build = Bundle(packed).build("onnx-fp32")
    (Bundle(packed).check(build) / "more").touch()


def test_packing_again_changes_nothing_and_the_name_follows_from_the_variant(bundle_path):
    first = pack.main(Args(bundle=bundle_path, variant="onnx-fp32"))
    assert first["bundle"] == str(bundle_path.with_name("small-onnx-fp32.bundle"))
    manifest = (Bundle(first["bundle"]).path / "manifest.json").read_bytes()
    assert pack.main(Args(bundle=bundle_path, variant="onnx-fp32")) == first
    assert (Bundle(first["bundle"]).path / "manifest.json").read_bytes() == manifest


def test_what_cannot_be_packed_is_refused(bundle_path, tmp_path):
    with pytest.raises(UsageError, match="says where to run"):
        pack.main(Args(bundle=bundle_path, variant="onnx-fp32@cuda"))
    with pytest.raises(UsageError, match="is the bundle itself"):
        pack.main(Args(bundle=bundle_path, variant="onnx-fp32", output=bundle_path))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="is not a bundle"):
        pack.main(Args(bundle=bundle_path, variant="onnx-fp32", output=tmp_path))
    file = bundle_path / Bundle(bundle_path).build("onnx-fp32").folder / "policy.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"policy\.onnx"):
        pack.main(Args(bundle=bundle_path, variant="onnx-fp32", output=tmp_path / "robot.bundle"))
    assert not (tmp_path / "robot.bundle").exists()
