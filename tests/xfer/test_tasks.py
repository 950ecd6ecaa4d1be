import os
import subprocess
import sys

import numpy as np
import pytest

from xfer import tasks
from xfer.errors import UsageError


def test_making_cartpole_without_a_screen_says_nothing():
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    program = "from xfer import tasks; tasks.load('cartpole').make().reset(seed=0)"
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("", "")


def test_cartpole_is_seen_as_pixels_and_its_expert_keeps_the_pole_up():
    task = tasks.load("cartpole")
    env = task.make()
    observations, _ = env.reset(seed=3)
    assert observations["frame"].shape == (400, 600, 3)
    assert observations["frame"].dtype == np.uint8
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.env.step(int(task.expert(env).argmax()))  # undrawn
        over, steps = terminated or truncated, steps + 1
    env.close()
    assert steps == 500


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'cartpole'"):
        tasks.load("cartpol")
