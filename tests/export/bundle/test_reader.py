import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import Bundle
from export.build import export_policy
from export.bundle.manifest import MANIFEST, read_manifest
from export.bundle.writer import BundleWriter
from export.targets import expand
from tests.conftest import make_policy
from xfer.errors import BundleError, UsageError
from xfer.files import write_atomically


def rewrite(path, **changes):
    """Write a manifest with other facts and a digest that is right, as an attacker or a newer xfer would."""
    manifest = read_manifest(path / MANIFEST)
    write_atomically(path / MANIFEST, replace(manifest, **changes).encode())


def test_a_bundle_acts_on_raw_frames_and_gives_the_caller_arrays_of_its_own(shared_bundle, golden):
    bundle = Bundle(shared_bundle)
    with bundle.runner("onnx-fp32") as policy:
        policy.reset()
        first = policy.act({"frame": golden.observations["frame"][0]})
        kept = first.scores.copy()
        policy.act({"frame": golden.observations["frame"][9]})
    assert first.action.dtype == np.int64
    assert first.action.shape == ()
    assert first.scores.shape == (2,)
    np.testing.assert_array_equal(first.scores, kept)


def test_a_truncated_file_is_refused_with_its_name(bundle_path):
    file = next(bundle_path.glob("variants/onnx-int8-*/policy.onnx"))
    file.write_bytes(file.read_bytes()[:-1])
    with (
        pytest.raises(BundleError, match=r"policy\.onnx has .* truncated or exchanged"),
        Bundle(bundle_path).runner("onnx-int8"),
    ):
        pass


def test_an_exchanged_file_of_the_same_size_is_refused(bundle_path):
    file = next(bundle_path.glob("variants/onnx-int8-*/policy.onnx"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BundleError, match="SHA-256"), Bundle(bundle_path).runner("onnx-int8"):
        pass
    with Bundle(bundle_path).runner("onnx-fp32"):
        pass  # only what the chosen variant reads is checked


def test_a_changed_golden_is_refused(bundle_path):
    golden = bundle_path / "golden.safetensors.gz"
    golden.write_bytes(golden.read_bytes()[:-9] + b"\0" * 9)
    with pytest.raises(BundleError, match="golden"):
        Bundle(bundle_path).golden()


def test_an_edited_manifest_is_refused(bundle_path):
    manifest = bundle_path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"control_hz": 50.0', '"control_hz": 51.0'))
    with pytest.raises(BundleError, match="was edited"):
        Bundle(bundle_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("not json", "not a manifest"), ("[1, 2]", "not a manifest"), ("{}", "not a manifest")],
)
def test_a_manifest_that_is_none_is_refused(bundle_path, text, message):
    (bundle_path / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=message):
        Bundle(bundle_path)


def test_a_newer_schema_is_refused_by_name(bundle_path):
    rewrite(bundle_path, schema=(3, 0))
    with pytest.raises(BundleError, match=r"schema 3\.0; this xfer reads 1.x and 2.x"):
        Bundle(bundle_path)


def test_a_newer_minor_schema_with_unknown_fields_is_read(bundle_path):
    manifest = json.loads((bundle_path / MANIFEST).read_bytes())
    manifest["schema"], manifest["digest"], manifest["novelty"] = [1, 9], "0" * 64, {"a": 1}
    import hashlib

    blank = json.dumps(manifest, indent=2).encode()
    (bundle_path / MANIFEST).write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode()))
    assert Bundle(bundle_path).spec.task == "cartpole"


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "variants/../../elsewhere", ""])
def test_paths_that_leave_the_bundle_are_refused(bundle_path, folder):
    builds = read_manifest(bundle_path / MANIFEST).builds
    rewrite(bundle_path, builds=tuple(replace(build, folder=folder) for build in builds))
    with pytest.raises(BundleError, match="not inside the bundle"), Bundle(bundle_path).runner("onnx-fp32"):
        pass


def test_a_link_that_leaves_the_bundle_is_refused(bundle_path, tmp_path):
    folder = next(bundle_path.glob("variants/onnx-fp32-*"))
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leads out of the bundle"), Bundle(bundle_path).runner("onnx-fp32"):
        pass


def test_an_unknown_variant_is_refused_with_the_closest(shared_bundle):
    with pytest.raises(UsageError, match=r"Unknown variant 'onnx-int4'. Did you mean 'onnx-int8'"):
        Bundle(shared_bundle).build("onnx-int4")


def test_exporting_again_skips_what_has_not_changed(bundle_path, policy, golden):
    variants = expand("eager,torchscript")
    results = export_policy(policy, policy.spec, golden, golden, variants, bundle_path, run="nowhere")
    assert [cached for _, cached in results] == [True, True]


def test_a_damaged_build_is_built_again(bundle_path, policy, golden):
    file = next(bundle_path.glob("variants/torchscript-fp32-*/policy.pt"))
    file.write_bytes(b"")
    results = export_policy(policy, policy.spec, golden, golden, expand("torchscript"), bundle_path, run="nowhere")
    assert [cached for _, cached in results] == [False]
    with Bundle(bundle_path).runner("torchscript-fp32"):
        pass


def test_one_variant_that_fails_does_not_stop_the_rest(tmp_path, policy, golden, monkeypatch):
    from export.targets import torchscript

    def explode(request, folder, precision):
        (folder / "half").write_text("half")
        raise RuntimeError("no such operation")

    monkeypatch.setattr(torchscript, "export", explode)
    path = tmp_path / "b.bundle"
    results = export_policy(policy, policy.spec, golden, golden, expand("torchscript,eager"), path, run="nowhere")
    assert [build.status for build, _ in results] == ["failed", "built"]
    assert "no such operation" in Bundle(path).builds["torchscript-fp32"].reason
    assert not list(path.glob(".building-*"))
    with pytest.raises(BundleError, match="no such operation"):
        Bundle(path).build("torchscript-fp32")


def test_a_variant_whose_library_is_missing_is_unavailable_and_says_what_to_install(
    tmp_path, policy, golden, monkeypatch
):
    from export.targets import onnx

    monkeypatch.setattr(onnx, "available", lambda: "onnx is not installed: pip install 'xfer-policy[onnx-export]'")
    path = tmp_path / "b.bundle"
    results = export_policy(policy, policy.spec, golden, golden, expand("eager,onnx-fp32"), path, run="nowhere")
    assert [build.status for build, _ in results] == ["built", "unavailable"]
    assert "pip install" in results[1][0].reason


def test_another_policy_does_not_go_into_the_bundle(bundle_path, golden):
    other = make_policy(seed=9)
    with pytest.raises(BundleError, match="holds another policy"):
        export_policy(other, other.spec, golden, golden, expand("eager"), bundle_path, run="elsewhere")


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        BundleWriter(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_no_write_permission_is_one_clear_line():
    with pytest.raises(BundleError, match="cannot be written to"):
        BundleWriter(Path("/proc/no.bundle"))  # where even root may not write


EXPORT_TWICE = """
import sys, torch
from pathlib import Path
from export.build import export_policy
from export.targets import expand
from tests.conftest import make_policy, drive
policy, seen = make_policy(tap="stem", head="average"), drive(0, 9)
export_policy(policy, policy.spec, seen, seen, expand(sys.argv[2]), Path(sys.argv[1]), run="nowhere")
"""


def test_two_exports_into_one_bundle_at_once_leave_a_whole_bundle(tmp_path):
    path = tmp_path / "b.bundle"
    writers = [
        subprocess.Popen([sys.executable, "-c", EXPORT_TWICE, str(path), targets])
        for targets in ("eager,torchscript,onnx-fp32", "torchscript,onnx-fp32,eager")
    ]
    assert [writer.wait(timeout=240) for writer in writers] == [0, 0]
    bundle = Bundle(path)
    assert {build.variant for build in bundle.manifest.builds} == {"eager-fp32", "torchscript-fp32", "onnx-fp32"}
    for build in bundle.manifest.builds:
        bundle.check(build)
    assert len(list((path / "variants").iterdir())) == 3
    bundle.golden()
