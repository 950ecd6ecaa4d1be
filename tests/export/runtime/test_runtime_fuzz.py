"""libFuzzer on the readers of a bundle's own formats finds nothing."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import skip_without
from tests.export.runtime.conftest import RUNTIME, build_project, require


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory) -> Path:
    require()
    if not shutil.which("clang++"):
        skip_without("runtime", "needs libFuzzer: apt-get install clang libclang-rt-dev")
    folder = tmp_path_factory.mktemp("fuzz")
    off = [f"-DXFER_{name}=OFF" for name in ("ONNX", "OPENVINO", "TORCH", "TENSORRT", "PROGRAMS")]
    options = ("-DCMAKE_CXX_COMPILER=clang++", "-DXFER_FUZZ=ON", *off)
    build_project(RUNTIME, folder, *options, targets=("fuzz_manifest",))
    return folder / "tests" / "fuzz_manifest"


@pytest.mark.parametrize("seconds", [10, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_the_readers_survive(fuzzer, bundles, tmp_path, seconds):
    for bundle in bundles.glob("*.bundle"):
        manifest = (bundle / "manifest.json").read_bytes()
        (tmp_path / f"{bundle.name}.plain").write_bytes(b"\0" + manifest)
        (tmp_path / f"{bundle.name}.sealed").write_bytes(b"\1" + manifest)
    (tmp_path / "golden").write_bytes(b"\2" + gzip.compress(b"\2\0\0\0\0\0\0\0{}"))
    command = [str(fuzzer), f"-max_total_time={seconds}", f"-artifact_prefix={tmp_path}/", str(tmp_path)]
    # libFuzzer's own limit looks at the peak that Linux hands on from whoever started it, here pytest with torch.
    command += ["-rss_limit_mb=0", "-malloc_limit_mb=1024"]
    environment = {**os.environ, "ASAN_OPTIONS": "hard_rss_limit_mb=2048"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:].decode(errors="replace")
    assert b"Done " in done.stderr
