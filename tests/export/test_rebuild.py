"""Engines for the GPU at hand from the ONNX in a bundle, where there is neither torch nor the run."""

import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from export import Bundle, rebuild
from export.build import export_policy
from export.libraries import cuda
from export.targets import ExportOptions, expand, tensorrt
from tests.conftest import drive
from xfer.errors import BundleError, UnavailableError, UsageError

ROOT = Path(__file__).parents[2]
WANTED = ("86", "89", "120")

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("tensorrt_rtx"),
    reason="needs TensorRT for RTX: pip install 'xfer-policy[tensorrt-rtx]'",
)


@pytest.fixture(scope="module")
def exported(policy, golden, tmp_path_factory):
    """Makes a bundle whose engines are for another GPU and for batch 1."""

    def export(targets):
        path = tmp_path_factory.mktemp("exported") / "small.bundle"
        options = ExportOptions(max_batch=1, compute_capabilities=("121",))
        export_policy(policy, policy.spec, drive(6, 16), golden, expand(targets), path, run="nowhere", options=options)
        return path

    return export


@pytest.fixture(scope="module")
def fp16(exported):
    return exported("tensorrt-fp16")


@pytest.fixture
def path(fp16, tmp_path):
    """A copy that the test may change."""
    return Path(shutil.copytree(fp16, tmp_path / "small.bundle"))


WITHOUT = """
import sys
from xfer import cli
status = cli.main(sys.argv[1:])
assert not {"torch", "torchvision", "gymnasium", "onnx", "onnxruntime", "onnxscript"} & set(sys.modules)
sys.exit(status)
"""


def export_into(python, path, targets):
    """Run the command, and return its rows."""
    words = ["export", "--targets", targets, "--into", path, "--compute-capabilities", *WANTED, "--json"]
    answer = subprocess.run([*python, *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])["variants"]


def check_engine(bundle, variant, before):
    build = bundle.build(variant)
    folder = bundle.check(build)
    assert build.compute_capabilities == WANTED
    assert (build.max_batch, build.options["max_batch"]) == (8, 8)
    assert build.files[tensorrt.ONNX] == before.files[tensorrt.ONNX]
    assert "torch" not in build.libraries
    engine = (folder / tensorrt.ENGINE).read_bytes()
    assert set(re.findall(rb"sm\d+", engine)) == {b"sm86", b"sm89", b"sm120"}
    for tensor in bundle.spec.inputs:  # smallest, best and largest shape lie in the file
        shapes = [engine.count(struct.pack(f"<{1 + len(tensor.shape)}q", n, *tensor.shape)) for n in (1, 8, 2, 9)]
        assert shapes == [2, 1, 0, 0]


def test_an_engine_is_built_without_torch_and_takes_the_place_of_the_old_one(path):
    before = Bundle(path).build("tensorrt-fp16")
    python = [sys.executable, "-c", WITHOUT]
    (row,) = export_into(python, path, "tensorrt-fp16")
    assert (row["variant"], row["status"], row["cached"]) == ("tensorrt-fp16", "built", False)
    bundle = Bundle(path)
    check_engine(bundle, "tensorrt-fp16", before)
    assert bundle.manifest.provenance == Bundle(path).manifest.provenance
    assert bundle.golden().digest()
    (again,) = export_into(python, path, "tensorrt-fp16")
    assert again["cached"]
    assert Bundle(path).manifest == bundle.manifest


@pytest.mark.filterwarnings("ignore:Use Deprecated:DeprecationWarning")
def test_the_timing_cache_is_kept_and_a_damaged_one_is_begun_anew(tmp_path, monkeypatch):
    """TensorRT for RTX still has the calls, and says that they do nothing: tensorrt itself needs a GPU."""
    import tensorrt_rtx

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = rebuild.timing_cache()
    assert cache.parent == tmp_path / "xfer"
    config = tensorrt_rtx.Builder(tensorrt._logger(tensorrt_rtx, [])).create_builder_config()
    tensorrt.read_timing_cache(config, cache)
    tensorrt.write_timing_cache(config, cache)
    known = cache.read_bytes()
    for content in (known, b"damaged"):
        cache.write_bytes(content)
        tensorrt.read_timing_cache(config, cache)
        tensorrt.write_timing_cache(config, cache)
        assert cache.read_bytes()[:4] == known[:4] == b"ptrt"


def test_other_targets_and_other_bundles_are_refused_and_a_gpu_it_does_not_know_leaves_the_bundle_as_it_is(
    path, shared_bundle
):
    with pytest.raises(UsageError, match="onnx-int8 is none: write --targets tensorrt"):
        rebuild.rebuild(path, expand("tensorrt-fp16,onnx-int8"))
    with pytest.raises(UsageError, match="Unknown variant 'tensorrt-fp16'"):
        rebuild.rebuild(shared_bundle, expand("tensorrt-fp16"))
    with pytest.raises(BundleError, match="is not a bundle"):
        rebuild.rebuild(path / "nothing", expand("tensorrt-fp16"))
    assert not (path / "nothing").exists()
    manifest = Bundle(path).manifest
    with pytest.raises(BundleError, match=r"no compute capability '87'\. It knows: 75, 80, 86"):
        rebuild.rebuild(path, expand("tensorrt-fp16"), compute_capabilities=("87",))
    assert Bundle(path).manifest == manifest
    Bundle(path).check(Bundle(path).build("tensorrt-fp16"))


def test_what_an_engine_needs_to_run_is_said_all_at_once(path):
    if not (lacking := cuda.missing()):
        pytest.skip("this machine has an NVIDIA GPU")
    with pytest.raises(UnavailableError) as caught, Bundle(path).session("tensorrt-fp16"):
        pass
    assert all(reason in str(caught.value) for reason in lacking)
    assert "PyTorch" not in str(caught.value)


@pytest.mark.slow
def test_all_precisions_build_in_an_environment_without_torch(exported, tmp_path):
    path = exported("tensorrt")
    before = Bundle(path).builds
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[tensorrt-rtx]"], check=True)
    for package in ("torch", "gymnasium", "onnx", "onnxruntime"):
        assert subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode != 0
    rows = export_into([tmp_path / "venv" / "bin" / "xfer"], path, "tensorrt")
    assert [(row["variant"], row["cached"]) for row in rows] == [
        ("tensorrt-fp32", False),
        ("tensorrt-fp16", False),
        ("tensorrt-int8", False),
    ]
    for variant, build in before.items():
        check_engine(Bundle(path), variant, build)
    answer = subprocess.run([python, "-m", "xfer.cli", "doctor", "--json"], capture_output=True, text=True, check=True)
    rows = {row["target"]: row for row in json.loads(answer.stdout.splitlines()[-1])["targets"]}
    lacking = rows["tensorrt"]["run"][""]
    assert all(reason in lacking for reason in cuda.missing())
    assert "PyTorch" not in lacking
    assert "TensorRT is not installed" not in lacking
    assert rows["onnx"]["run"][""] == "onnxruntime is not installed: pip install 'xfer-policy[onnx]'"
