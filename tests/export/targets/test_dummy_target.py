"""A target is one file: with it in a folder of PYTHONPATH, every command knows it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands import bench as bench
from benchmarks.commands import bench_options
from benchmarks.measure import protocol
from benchmarks.measure.protocol import Protocol
from export import targets
from export.commands import export, verify
from xfer import train

FILE = '''
"""TorchScript as it is, under another name."""

from contextlib import contextmanager

from export.targets import Exported
from export.libraries.pytorch import available, libraries, load_trace, save_trace, trace
from xfer.errors import UnavailableError

PRECISIONS, PLACES = ("fp32",), ()


def runnable(place):
    return available()


def export(request, folder, precision):
    save_trace(trace(request.policy.deploy(precision), request.spec), folder / "dummy.pt")
    return Exported(notes="a dummy")


@contextmanager
def load(folder, spec, place):
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(reason)
    from xfer.models.torch_session import TorchSession, set_threads

    set_threads(place.threads)
    yield TorchSession(load_trace(folder / "dummy.pt"), spec)
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the target, as somebody would put it on PYTHONPATH."""
    targets = tmp_path / "mine" / "export" / "targets"
    targets.mkdir(parents=True)
    (targets / "dummy.py").write_text(FILE)
    return tmp_path / "mine"


@pytest.fixture
def found(folder, monkeypatch):
    """This process as it would be had it begun with that folder."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(targets, "__path__", list(targets.__path__))
    importlib.reload(targets)
    yield
    sys.modules.pop("export.targets.dummy", None)


def test_a_file_in_a_folder_of_pythonpath_is_a_target(folder):
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", "from export import targets; print(*targets.names())"]
    environment = {**os.environ, "PYTHONPATH": path}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert set(said) == {*targets.names(), "dummy"}
    assert "dummy" not in targets.names()


@pytest.mark.usefixtures("few_recordings")
def test_one_file_is_exported_verified_and_measured_like_all_others(found, tmp_path, monkeypatch):
    pytest.importorskip("minigrid", reason="needs a task with small frames: pip install 'xfer-policy[navigation]'")
    pytest.importorskip("matplotlib", reason="needs the report's libraries: pip install 'xfer-policy[bench]'")
    small = {"rounds": 1, "environments": 2, "tap": "stem", "train_from": "head", "weights": "none", "eval_episodes": 1}
    run, bundle = tmp_path / "run", tmp_path / "run.bundle"
    train("navigation:empty", output=run, device="cpu", frames=64, steps=4, **small)
    built = export.main(export.Args(source=str(run), targets="eager,dummy"))["variants"]
    assert {row["variant"]: row["status"] for row in built} == {"eager-fp32": "built", "dummy-fp32": "built"}
    assert export.main(export.Args(source=str(run), targets="dummy-fp32"))["variants"][0]["cached"]
    verified = verify.main(verify.Args(bundle=bundle, variants="dummy-fp32", pairs=0))["variants"]
    assert [row["status"] for row in verified] == ["provisional"]
    short = Protocol(1, 5, calls=70, seconds=0, quick=True, warmup_calls=5, warmup_seconds=0, warmup_limit_seconds=0.1)
    monkeypatch.setattr(protocol, "quick", lambda threads, rounds, cores: short)
    args = bench_options.Args(
        bundle=bundle, variants="dummy-fp32", quick=True, whole_backbone=False, output=tmp_path / "report"
    )
    rows = {row["variant"]: row for row in bench.main(args)["variants"]}
    assert rows["dummy-fp32"]["status"] == "provisional"
    assert rows["dummy-fp32"]["speedup"] > 0
    assert "dummy-fp32" in (tmp_path / "report" / "report.md").read_text()
