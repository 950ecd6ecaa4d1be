import numpy as np
import pytest

pytest.importorskip("ale_py", reason="needs ale_py: pip install 'xfer-policy[atari]'")

from xfer import tasks
from xfer.tasks import atari


@pytest.mark.parametrize("world", atari.WORLDS)
def test_actions_have_the_games_own_names(world):
    env = tasks.load(f"atari:{world}").make()
    meanings = [meaning.lower() for meaning in env.unwrapped.get_action_meanings()]
    env.close()
    ours = [action.replace(" ", "") for action in atari.GAMES[world].actions]
    assert ours == meanings


def test_four_frames_a_step_sticky_and_the_maximum_of_the_last_two():
    env = tasks.load("atari:pong").make()
    ale = env.unwrapped.ale
    env.reset(seed=0)
    assert ale.getFloat("repeat_action_probability") == pytest.approx(atari.STICKY)
    before = ale.getFrameNumber()
    last = []
    step = env.unwrapped.step

    def watched(action):
        result = step(action)
        last.append(result[0])
        return result

    env.unwrapped.step = watched
    shown = env.step(2)[0]["frame"]
    assert ale.getFrameNumber() - before == atari.FRAME_SKIP
    np.testing.assert_array_equal(shown, np.maximum(last[-1], last[-2]))
    env.close()


def test_losing_a_life_ends_no_episode():
    env = tasks.load("atari:breakout").make()
    env.reset(seed=0)
    lives, over = {env.unwrapped.ale.lives()}, False
    while not over:
        _, _, terminated, truncated, info = env.step(1)
        lives.add(info["lives"])
        over = terminated or truncated
    env.close()
    assert lives == {5, 4, 3, 2, 1, 0}
