import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from tests.xfer.training import toys
from xfer.errors import TaskError
from xfer.training.vector_env import MadeAnew, vector_env


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_episode_that_ends_begins_anew_in_the_same_step(kind):
    with vector_env(toys.script(), 2, kind) as envs:
        envs.reset(seed=[0, 1])
        for step in range(1, 7):
            observations, rewards, terminated, truncated, infos = envs.step(np.array([0, 0]))
            assert rewards.tolist() == [(step - 1) % 3 + 1] * 2
            assert terminated.tolist() == [step == 3] * 2
            assert truncated.tolist() == [step == 6] * 2
            if step % 3 == 0:
                assert observations["frame"].max() <= 25  # the next episode's first frame
                assert infos["final_obs"][1]["frame"].min() >= 170  # this one's last


def test_processes_are_used_where_there_are_several_environments_and_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with vector_env(toys.signs(), 2) as envs:
        assert isinstance(envs, AsyncVectorEnv)
        assert envs.shared_memory
        assert all(process._start_method in ("forkserver", "spawn") for process in envs.processes)
    with vector_env(toys.signs(), 1) as envs:
        assert isinstance(envs, SyncVectorEnv)
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("Worker<")]


def test_a_seed_makes_the_environment_anew_and_closes_the_old_one():
    closed = []

    class Noted(toys.Script):
        def close(self):
            closed.append(self.episode)

    env = MadeAnew(Noted)
    env.reset(seed=0)
    env.reset()
    assert not closed
    env.reset(seed=0)
    assert closed == [2]
    assert env.unwrapped.episode == 1


class Stuck(toys.Script):
    def step(self, action):
        time.sleep(600)


def interrupted(processes):
    with vector_env(replace(toys.signs(), make=Stuck), 2, "async") as envs:
        processes += envs.processes
        envs.reset(seed=[0, 1])
        envs.step_async([0, 1])
        raise KeyboardInterrupt


def test_an_error_does_not_wait_for_environments_that_do_not_answer():
    start, processes = time.monotonic(), []
    with pytest.raises(KeyboardInterrupt):
        interrupted(processes)
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)
    assert time.monotonic() - start < 60


class Breaks(toys.Script):
    def step(self, action):
        raise KeyError("motor")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_fault_of_an_environment_is_one_error_also_from_a_process_of_its_own(kind, capfd):
    said = pytest.raises(TaskError, match=r"toys:signs, seed 1, step 0: step\(\) raised KeyError \('motor'\)")
    with said as caught, vector_env(replace(toys.signs(), make=Breaks), 1, kind) as envs:
        envs.reset(seed=[1])
        envs.step(np.array([0]))
    assert capfd.readouterr() == ("", "")
    if kind == "async":  # --debug shows it
        assert 'raise KeyError("motor")' in caught.value.__notes__[0]


ENDLESS = """
import sys
from tests.xfer.training import toys
from xfer.training.vector_env import vector_env
if __name__ == "__main__":
    with vector_env(toys.signs(), 2, "async") as envs:
        envs.reset(seed=[0, 1])
        print("ready", flush=True)
        while True:
            envs.step([0, 1])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_trains(number, tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout.readline() == "ready\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert psutil.wait_procs(children, timeout=30)[1] == []
    if number == signal.SIGINT:
        assert errors.count("Traceback") == 1  # this script's own
        assert "KeyboardInterrupt" in errors
