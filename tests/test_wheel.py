"""What is in the wheel: all that the three packages need at run time, and nothing else."""

import zipfile
from pathlib import Path

import pytest

import xfer

ROOT = Path(__file__).parents[1]
PACKAGES = ("xfer", "export", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = wheels.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_templates_style_sheets_and_types_are_inside(names):
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for name in ("report/report.html.j2", "report/report.css", "claims/learning_curves.html.j2"):
        assert f"benchmarks/{name}" in names


def test_cpp_runtime_is_inside_as_source(names):
    runtime = ROOT / "export" / "runtime"
    needed = [path for kind in ("*.cpp", "*.hpp", "*.h", "*.cmake", "CMakeLists.txt") for path in runtime.rglob(kind)]
    assert len(needed) > 40
    assert {str(path.relative_to(ROOT)) for path in needed} <= names


def test_nothing_else_is_inside(names):
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, f"xfer_policy-{xfer.__version__}.dist-info"}
    kinds = {Path(name).suffix for name in names if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    assert kinds <= {".py", ".typed", ".j2", ".css", ".cpp", ".hpp", ".h", ".c", ".cmake", ".txt", ".md"}
