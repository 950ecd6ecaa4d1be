"""The C++ runtime, configured and built once for all tests that want it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import made_once, skip_without
from tests.export.runtime.xfer_c import Library

RUNTIME = Path(__file__).parents[3] / "export" / "runtime"
HEADER = "onnxruntime_c_api.h"


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run a program, and show what it said if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:].decode()}\n{done.stderr[-4000:].decode()}"
    return done


def missing() -> str:
    """Why the runtime cannot be built here, or nothing."""
    if not shutil.which("cmake"):
        return "needs CMake: apt-get install cmake"
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE_DIR", ""), "/usr/include/onnxruntime"]
    if not any(folder and Path(folder, HEADER).exists() for folder in folders):
        return f"needs {HEADER}: set ONNXRUNTIME_INCLUDE_DIR; .ci/runtime-tools fetches it"
    return ""


def require() -> None:
    """Skip the test where the runtime cannot be built."""
    skip_without("runtime", missing())


def build_project(source: Path, folder: Path, *options: object, targets: tuple[str, ...] = ()) -> Path:
    """Configure and build a CMake project in a folder; with Ninja and ccache where there are such."""
    if shutil.which("ninja"):
        options = ("-G", "Ninja", *options)
    if shutil.which("ccache"):
        options = ("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", *options)
    run("cmake", "-S", source, "-B", folder, *options)
    run("cmake", "--build", folder, "--parallel", 2, *(("--target", *targets) if targets else ()))
    return folder


def header_options() -> list[str]:
    """What CMake is told of the places that backends are compiled against."""
    options = ["-DXFER_ONNX=ON"]
    for variable in ("ONNXRUNTIME_INCLUDE_DIR", "TENSORRT_INCLUDE_DIR", "CUDA_INCLUDE_DIR"):
        if variable in os.environ:
            options.append(f"-D{variable}={os.environ[variable]}")
    for package, variable, folder in (("openvino", "OpenVINO_DIR", "cmake"), ("torch", "XFER_TORCH_DIR", "")):
        if found := importlib.util.find_spec(package):
            options.append(f"-D{variable}={Path(str(found.origin)).parent / folder}")
    return options


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Path:
    """The folder of the built project; XFER_RUNTIME_BUILD names one that is built already."""
    if built := os.environ.get("XFER_RUNTIME_BUILD"):
        return Path(built).resolve()
    require()
    options = (f"-DPython3_EXECUTABLE={sys.executable}", *header_options())
    return made_once(tmp_path_factory, "runtime", lambda folder: build_project(RUNTIME, folder, *options))


@pytest.fixture(scope="session")
def bundles(build, tmp_path_factory) -> Path:
    """Where the test's bundles are; ctest makes them, too, if they are not there."""
    folder = build / "tests" / "bundles"
    words = (sys.executable, RUNTIME / "tests" / "make_bundles.py", folder)
    environment = {**os.environ, "PYTHONPATH": str(RUNTIME.parents[1])}
    made_once(tmp_path_factory, "runtime-bundles", lambda _: run(*words, env=environment))
    return folder


@pytest.fixture(scope="session")
def library(build) -> Library:
    return Library(build)


@pytest.fixture(scope="session")
def onnxruntime_library() -> Path:
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
