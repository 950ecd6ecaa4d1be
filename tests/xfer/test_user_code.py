"""A folder with files that are called like modules of ours, of Python's and of libraries: none breaks a thing."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure.messages import Assignment, Turn
from benchmarks.measure.worker_process import WorkerProcess
from export.bundle.reader import Bundle
from export.verification import pairs
from tests.export.importers.test_module import OWN, met
from xfer import user_code
from xfer.errors import UsageError

ROOT = Path(__file__).parents[2]
NAMES = ("export", "xfer", "benchmarks", "numpy", "random", "queue", "socket", "pickle", "signal", "tempfile", "torch")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, whose files fail if they are imported."""
    path = tmp_path / "mine"
    path.mkdir()
    for name in NAMES:
        (path / f"{name}.py").write_text(
            f"raise RuntimeError('the user\\'s {name}.py was imported')\n", encoding="utf-8"
        )
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return path


def run(*words: object) -> str:
    """Run Python in that folder, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_current_folder_comes_last_wherever_it_was(folder, monkeypatch):
    for before in ("", ".", str(folder)):
        monkeypatch.setattr(sys, "path", [before, "/elsewhere", str(folder)])
        user_code.look_here_last()
        assert sys.path == ["/elsewhere", str(folder)]
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    user_code.look_here_last()
    assert sys.path == ["/elsewhere"], "nothing of it is imported unless somebody says so"
    user_code.look_here()
    user_code.look_here()
    assert sys.path == ["/elsewhere", str(folder)]


def test_our_own_packages_are_found_where_they_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), "/elsewhere"])
    user_code.look_here()
    assert sys.path == [str(ROOT), "/elsewhere"]


def test_a_current_folder_that_was_deleted_is_no_reason_to_fail(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    user_code.look_here_last()


@pytest.mark.parametrize("name", ["export", "queue", "numpy"])
def test_a_module_of_the_user_with_a_name_that_is_taken_is_named(folder, name):
    with pytest.raises(UsageError, match=rf"Policy {name}:make: {name}\.py has the name of the module .*another name"):
        user_code.call(f"{name}:make", "Policy")


def test_the_command_exports_a_policy_of_that_folder(folder):
    (folder / "policies.py").write_text(OWN, encoding="utf-8")
    met().save(folder / "met.safetensors.gz")
    for name in ("xfer", "signal"):  # `python -m` itself takes these, before anything of ours runs
        (folder / f"{name}.py").unlink()
    words = ("export", "policies:make", "--targets", "eager", "--observations", "met.safetensors.gz")
    assert "built" in run("-m", "xfer.cli", *words)
    assert Bundle(folder / "make.bundle").builds["eager-fp32"].status == "built"


STEP = """
from xfer import user_code
if __name__ == "__main__":
    user_code.look_here()
    import os, dataclasses
    import my_task
    from xfer import tasks
    from xfer.training.vector_env import vector_env
    task = dataclasses.replace(tasks.load("env:CartPole-v1"), make=my_task.make)
    with vector_env(task, 2, "async") as envs:
        print(envs.reset(seed=[0, 1])[0]["observation"].shape, envs.call("started"), "PYTHONSAFEPATH" in os.environ)
"""

MY_TASK = """
import os
import gymnasium
from xfer import tasks

class Mine(gymnasium.Wrapper):
    def started(self):
        return os.environ.get("PYTHONSAFEPATH")

def make():
    return Mine(tasks.load("env:CartPole-v1").make())
"""


def test_environments_in_processes_of_their_own_are_stepped_there(folder):
    (folder / "my_task.py").write_text(MY_TASK, encoding="utf-8")
    script = folder.parent / "script.py"  # elsewhere, as the command `xfer` is
    script.write_text(STEP, encoding="utf-8")
    assert run(script).split("\n")[0] == "(2, 4) (None, None) False"


def test_a_worker_of_the_bench_measures_there(folder, shared_bundle):
    user_code.look_here()
    with WorkerProcess(Assignment(str(shared_bundle), "onnx-fp32", 1)) as worker:
        assert len(worker.turn(Turn(calls=1, seconds=0)).seconds) == 1


def test_processes_that_run_pairs_of_episodes_start_there(folder, shared_bundle, monkeypatch):
    user_code.look_here()
    monkeypatch.setattr(pairs, "CONTEXT", pairs.multiprocessing.get_context("spawn"))
    with pairs.PairProcesses(Bundle(shared_bundle), 1) as processes:
        found = processes.submit(eval, f"[__import__(name).__file__ for name in {NAMES[:6]}]").result(timeout=300)
        assert processes.submit(os.getenv, "PYTHONSAFEPATH").result(timeout=300) is None
    assert "PYTHONSAFEPATH" not in os.environ
    assert found == [importlib.import_module(name).__file__ for name in NAMES[:6]]
