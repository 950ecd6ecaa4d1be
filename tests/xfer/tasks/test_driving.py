import numpy as np
import pytest

pytest.importorskip("Box2D", reason="needs Box2D: pip install 'xfer-policy[driving]'")

from xfer import tasks, train
from xfer.tasks import driving


def test_the_expert_drives_a_whole_lap():
    task = tasks.load("driving")
    env = task.make()
    # It is the simulator that draws in each step; the car does not look.
    env.unwrapped._render = lambda mode: np.zeros((96, 96, 3), np.uint8)
    returns = []
    for seed in (0, 1):
        env.reset(seed=seed)
        over, total = False, 0.0
        while not over:
            _, reward, terminated, truncated, _ = env.step(task.expert(env))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    env.close()
    assert np.mean(returns) == pytest.approx(task.reward.reference_return, abs=30)


def test_a_bend_is_braked_for_and_a_straight_is_not():
    straight = np.zeros(driving.SEE_AHEAD)
    late, soon = straight.copy(), straight.copy()
    late[6:], soon[2:] = 1.0, 1.0
    assert driving.allowed_speed(straight) == driving.FASTEST
    assert driving.allowed_speed(soon) < driving.allowed_speed(late) < driving.FASTEST
    assert driving.allowed_speed(-soon) == driving.allowed_speed(soon)
    around = np.array([3.1, 3.14, -3.1, -3.06, -3.0, -2.96, -2.9, -2.85])  # past pi the direction begins anew
    assert driving.allowed_speed(around) == driving.FASTEST


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_imitation_with_the_tasks_defaults_drives_nearly_as_the_expert_does(tmp_path):
    trained = train("driving", weights="none", device="cpu", output=tmp_path / "run")
    scale = tasks.load("driving").reward
    assert len(trained.returns) == 20
    assert (trained.mean - scale.random_return) / scale.span >= 0.8
