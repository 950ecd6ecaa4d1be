"""A project outside the repository finds the runtime in the installed wheel, builds it, and acts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.bundle.reader import Bundle
from tests.export.runtime.conftest import build_project, require, run

ROOT = Path(__file__).parents[3]
PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(robot LANGUAGES CXX)
find_package(xfer 0.1 CONFIG REQUIRED)
add_executable(robot robot.cpp)
target_link_libraries(robot PRIVATE xfer::policy)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Where `pip install` put the wheel's files."""
    require()
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--target", folder)
    run(sys.executable, "-m", "pip", "install", *options, ROOT)
    return folder


@pytest.fixture(scope="module")
def robot(installed, tmp_path_factory) -> Path:
    """The program of somebody else's project: README's ten lines."""
    source = tmp_path_factory.mktemp("robot")
    (source / "CMakeLists.txt").write_text(PROJECT)
    lines = (installed / "export" / "runtime" / "examples" / "ten_lines.cpp").read_text()
    (source / "robot.cpp").write_text(lines)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = (sys.executable, "-P", "-m", "xfer.cli", "cmake-dir")
    found = run(*command, env=environment, cwd=source).stdout.decode().strip()
    assert Path(found).is_relative_to(installed)
    options = [f"-Dxfer_DIR={found}", "-DXFER_ONNX=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    if include := os.environ.get("ONNXRUNTIME_INCLUDE_DIR"):
        options.append(f"-DONNXRUNTIME_INCLUDE_DIR={include}")
    return build_project(source, source / "build", *options) / "robot"


def test_a_project_outside_acts_with_the_installed_runtime(robot, bundles, onnxruntime_library):
    bundle = Bundle(bundles / "cartpole.bundle")
    with bundle.runner("onnx-int8") as runner:
        action = int(runner.act({"frame": np.zeros(bundle.spec.observations[0].shape, np.uint8)}).action)
    environment = {**os.environ, "XFER_ONNXRUNTIME_LIBRARY": str(onnxruntime_library)}
    command = [robot, bundle.path, "onnx-int8"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == bundle.spec.action.elements[action]


def test_the_wheel_carries_no_built_files(installed):
    suffixes = {path.suffix for path in (installed / "export" / "runtime").rglob("*") if path.is_file()}
    assert suffixes <= {".cpp", ".hpp", ".h", ".c", ".txt", ".cmake", ".py", ".pyc", ".md"}
