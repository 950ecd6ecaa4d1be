"""The runtime on the chip that robots have: cross-compiled, and run under an emulator with ONNX Runtime for aarch64.

It needs Debian's g++-aarch64-linux-gnu, and three environment variables: XFER_AARCH64_SYSROOT (folder with libssl-dev,
zlib1g-dev, nlohmann-json3-dev and the C and C++ libraries for arm64), XFER_AARCH64_QEMU (qemu-aarch64, version 10 or
newer) and XFER_AARCH64_ONNXRUNTIME (the library out of ONNX Runtime's aarch64 wheel).
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.export.conftest import RUNTIME, header_options, run

NEEDED = ("XFER_AARCH64_SYSROOT", "XFER_AARCH64_QEMU", "XFER_AARCH64_ONNXRUNTIME")


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    missing = [name for name in NEEDED if name not in os.environ]
    if missing or not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip(
            f"needs {', '.join(missing) or 'g++-aarch64-linux-gnu'}: .ci/runtime-tools installs and prints them"
        )
    folder = tmp_path_factory.mktemp("aarch64")
    toolchain = RUNTIME / "cmake" / "aarch64-linux-gnu.cmake"
    options = [o for o in header_options() if "ONNX" in o]
    options += [f"-DXFER_SYSROOT={os.environ[NEEDED[0]]}", "-DXFER_TESTS=OFF"]
    run("cmake", "-S", RUNTIME, "-B", folder, "--toolchain", toolchain, *options)
    run("cmake", "--build", folder, "--parallel", "1")
    return folder


def verify(programs: Path, bundle: Path, variant: str) -> dict:
    sysroot, qemu, library = (os.environ[name] for name in NEEDED)
    emulator = [qemu, "-L", sysroot, "-E", f"XFER_ONNXRUNTIME_LIBRARY={library}"]
    said = run(*emulator, programs / "xfer-verify", bundle, "--variant", variant, "--json").stdout
    return json.loads(said.splitlines()[-1])


@pytest.mark.parametrize("name", ["two", "recurrent"])
def test_golden_is_played_alike_on_aarch64(programs, bundles, name):
    row = verify(programs, bundles / f"{name}.bundle", "onnx-fp32")
    assert row["status"] == "provisional"
    assert row["max_abs_diff"] < 1e-5
    assert row["agreement"] == 1


def test_int8_acts_alike_on_aarch64(programs, bundles):
    row = verify(programs, bundles / "cartpole.bundle", "onnx-int8")
    assert row["status"] == "provisional", row["reason"]
