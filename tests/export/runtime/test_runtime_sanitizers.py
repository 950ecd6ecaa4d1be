"""The runtime under sanitizers: memory errors, undefined behavior, leaks, data races."""

import sys

import pytest

from tests.export.runtime.conftest import RUNTIME, build_project, header_options, require, run

pytestmark = pytest.mark.slow


def test_memory_errors_undefined_behavior_and_leaks(bundles, tmp_path):
    """All tests of the core and of the onnx backend."""
    options = [
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DXFER_SANITIZE=address,undefined",
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]
    build_project(RUNTIME, tmp_path, *options, *header_options(), "-DXFER_OPENVINO=OFF", "-DXFER_TORCH=OFF")
    (tmp_path / "tests" / "bundles").symlink_to(bundles)
    done = run("ctest", "--test-dir", tmp_path, "--output-on-failure")
    assert b"100% tests passed" in done.stdout
    assert b"onnx_lifetime" in done.stdout


def test_data_races(tmp_path):
    """The core with the tests' own backend, since inference libraries are not built for it."""
    require()
    off = [f"-DXFER_{name}=OFF" for name in ("ONNX", "OPENVINO", "TORCH", "PROGRAMS")]
    options = ("-DCMAKE_BUILD_TYPE=Debug", "-DXFER_SANITIZE=thread", *off)
    build_project(RUNTIME, tmp_path, *options, targets=("xfer_counting", "xfer_counting_runner", "runner_test"))
    done = run("ctest", "--test-dir", tmp_path, "--output-on-failure", "-R", "runner_test")
    assert b"100% tests passed" in done.stdout
