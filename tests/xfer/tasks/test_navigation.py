import numpy as np
import pytest

pytest.importorskip("minigrid", reason="needs minigrid: pip install 'xfer-policy[navigation]'")

from xfer import tasks, train
from xfer.tasks import navigation
from xfer.training.run_folder import RunFolder


@pytest.mark.parametrize("world", navigation.WORLDS)
def test_the_expert_reaches_the_goal_as_soon_as_its_reference_says(world):
    task = tasks.load(f"navigation:{world}")
    env = task.make()
    rng, returns = np.random.default_rng(0), []
    for seed in range(8):
        env.reset(seed=seed)
        over = False
        while not over:
            # Any of the actions that share the probability: all of them lie on shortest ways.
            action = rng.choice(len(navigation.ACTIONS), p=task.expert(env).astype(np.float64))
            _, reward, terminated, truncated, _ = env.env.step(int(action))
            over = terminated or truncated
        assert reward >= task.success
        returns.append(reward)
    env.close()
    assert np.mean(returns) == pytest.approx(task.reward.reference_return, abs=0.06)


def test_the_planner_moves_as_minigrid_does():
    """Whatever is done, the planner's state is the simulator's."""
    env = navigation.make("MiniGrid-DoorKey-8x8-v0")
    rng, names = np.random.default_rng(1), list(navigation.ACTIONS)
    seen = set()
    for seed in range(6):
        env.reset(seed=seed)
        world = env.unwrapped
        for step in range(400):
            kinds = {
                (x, y): world.grid.get(x, y).type
                for x in range(8)
                for y in range(8)
                if world.grid.get(x, y) is not None
            }
            before = state_of(world)
            # The expert's way leads past key and door; random actions try the rest.
            action = int(navigation.expert(env).argmax()) if step % 3 == 0 else int(rng.integers(len(names)))
            _, _, terminated, _, _ = env.env.step(action)
            assert navigation.move(before, names[action], kinds) == state_of(world)
            seen.add((before.carrying, before.open))
            if terminated:
                break
    env.close()
    assert seen == {(False, False), (True, False), (True, True)}


def state_of(world):
    cells = (world.grid.get(x, y) for x in range(8) for y in range(8))
    door = next(cell for cell in cells if cell is not None and cell.type == "door")
    x, y = world.agent_pos
    return navigation.State(int(x), int(y), int(world.agent_dir), world.carrying is not None, door.is_open)


def test_all_best_first_actions_share_the_probability():
    env = navigation.make("MiniGrid-Empty-8x8-v0")
    env.reset(seed=0)
    world = env.unwrapped
    world.agent_pos, world.agent_dir = (2, 2), 3  # looks up; the goal lies to the right and below
    np.testing.assert_array_equal(navigation.expert(env), np.float32([0, 1, 0, 0, 0]))
    world.agent_pos, world.agent_dir = (2, 6), 2  # looks away from it: either turn is half of the way around
    np.testing.assert_array_equal(navigation.expert(env), np.float32([0.5, 0.5, 0, 0, 0]))
    world.agent_pos, world.agent_dir = (6, 5), 1
    np.testing.assert_array_equal(navigation.expert(env), np.float32([0, 0, 1, 0, 0]))
    env.close()


def test_a_world_lies_in_the_part_of_the_canvas_that_its_policy_looks_at():
    for world in navigation.WORLDS:
        task = tasks.load(f"navigation:{world}")
        env = task.make()
        frame = env.reset(seed=0)[0]["frame"]
        env.close()
        top, bottom, left, right = task.image.crop
        outside = frame.copy()
        outside[top:bottom, left:right] = navigation.WALL_GRAY
        assert (outside == navigation.WALL_GRAY).all()
        green = (frame[top:bottom, left:right] == (0, 255, 0)).all(axis=2)
        assert green.sum() >= navigation.TILE**2 / 2  # the goal


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ppo_with_the_tasks_defaults_finds_the_goal_of_the_empty_room_with_each_of_three_seeds(tmp_path):
    task = tasks.load("navigation:empty")
    for seed in range(3):
        folder = tmp_path / f"seed{seed}"
        train(task.name, algorithm="ppo", weights="none", seed=seed, device="cpu", output=folder)
        returns = RunFolder(folder).result().returns
        assert np.mean(np.array(returns) >= task.success) >= 0.9, seed
