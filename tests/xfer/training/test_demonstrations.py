from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from tests.conftest import imitation_config
from tests.xfer.training import toys
from xfer import tasks, train
from xfer.commands import record
from xfer.errors import RunError, UsageError
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec
from xfer.models.policy import Policy
from xfer.spec import ActionSpec
from xfer.training import imitation
from xfer.training.config import SCORE_KINDS
from xfer.training.demonstrations import frames, open_dataset
from xfer.training.run_folder import RunFolder

minari = pytest.importorskip("minari", reason="needs minari: pip install 'xfer-policy[demonstrations]'")
pytestmark = pytest.mark.usefixtures("few_recordings")


def signs():
    def expert(env):
        return np.eye(2, dtype=np.float32)[env.unwrapped.right]

    return replace(toys.signs(), expert=expert)


def dial():
    def expert(env):
        return env.unwrapped.target.clip(0, 4).astype(np.float32)

    return replace(toys.dial(), expert=expert, expert_kind="action")


def script():
    """Three frames of history, and episodes of three steps."""
    return replace(toys.script(), expert=lambda env: np.array([0, 1], np.float32))


TASKS = {"signs": signs(), "dial": dial(), "script": script()}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small gain nothing from a second one, and lose much when somebody else has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        for name in TASKS:
            record.main(record.Args(source=f"{__name__}:{name}", output=f"toys/{name}-v0", episodes=12))
        yield


def make_policy(task, tap="stem", head="flatten", loss="mse"):
    torch.manual_seed(0)
    spec = make_spec(task, task.image, SCORE_KINDS[loss])
    return Policy(PolicyConfig("resnet18", tap, head, 8, task.image), spec).eval()


def demonstrated(name, policy=None):
    task = TASKS[name]
    return frames(open_dataset(f"toys/{name}-v0", task), policy or make_policy(task), task)


def losses(name, loss, **changes):
    task = TASKS[name]
    policy = make_policy(task, loss=loss)
    config = imitation_config(loss=loss, steps=150, batch_size=32, **changes)
    shown = demonstrated(name, policy)
    features = imitation.compute_features(policy.split("head")[0], shown.seen, "cpu")
    policy.fit_standardize("head", features, shown.vector)
    vector = shown.vector if policy.vector_size else None
    return (
        policy,
        shown,
        [
            value
            for _, _, value in imitation.fit(policy, features, shown.expert, config, 0, "cpu", vector, task.expert_kind)
        ],
    )


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_cloning_discrete_demonstrations_learns_them(loss):
    policy, shown, (first, *_, last) = losses("signs", loss)
    assert last < first / 2
    assert torch.equal(policy.scores(shown.seen).argmax(1), shown.expert.argmax(1))


def test_cloning_continuous_demonstrations_learns_them():
    _, shown, (first, *_, last) = losses("dial", "mse")
    assert last < first / 2
    assert shown.vector.shape == (96, 1)


def test_what_is_learned_from_is_what_the_environment_shows():
    task = TASKS["script"]
    policy = make_policy(task)
    ticks = []
    shown = frames(open_dataset("toys/script-v0", task), policy, task, tick=ticks.append)
    expected = []
    env = task.make()
    for seed in range(12):
        observations, _ = env.reset(seed=seed)
        history, over = torch.zeros(1, *policy.history_shape), False
        while not over:
            seen, history = policy.see({"frame": torch.from_numpy(observations["frame"])[None]}, history)
            expected.append(seen)
            observations, _, terminated, truncated, _ = env.step(1)
            over = terminated or truncated
    assert torch.equal(shown.seen, torch.cat(expected))
    assert (shown.seen[::3, :2] == 0).all()  # an episode starts without a past
    assert (shown.seen[2::3] != 0).all()
    assert torch.equal(shown.expert, torch.tensor([[0.0, 1.0]]).expand(36, 2))
    assert torch.equal(shown.episode, torch.arange(12).repeat_interleave(3))
    assert sum(ticks) == 36


def test_a_folder_is_a_dataset_too(tmp_path):
    task = TASKS["dial"]
    record.main(record.Args(source=f"{__name__}:dial", output=str(tmp_path / "set"), episodes=2))
    policy = make_policy(task)
    for name in (tmp_path / "set", tmp_path / "set" / "data"):
        shown = frames(open_dataset(str(name), task), policy, task)
        assert torch.equal(shown.expert, demonstrated("dial").expert[:16])


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("signs", tasks.load("cartpole"), r"'frame' is uint8 \[32, 32, 3\] there, uint8 \[400, 600, 3\] in the task"),
        ("signs", toys.dial(), "it has no observation 'offset'"),
        ("dial", toys.signs(), "its action is 0 to 4, 0 to 4, the task's one of 2"),
        (
            "signs",
            replace(toys.signs(), action=ActionSpec("discrete", ("left", "right", "stay"))),
            "its action is one of 2, the task's one of 3",
        ),
    ],
)
def test_a_dataset_of_another_task_is_refused_in_one_line(name, task, message):
    with pytest.raises(UsageError, match=f"is not of task {task.name}: {message}"):
        open_dataset(f"toys/{name}-v0", task)


def test_a_dataset_that_is_not_there_is_refused_by_name():
    with pytest.raises(UsageError, match=r"no Minari dataset in .*none-v0\. Record one with `xfer record`"):
        open_dataset("toys/none-v0", TASKS["signs"])


def test_damaged_files_are_refused_by_name(tmp_path):
    task = TASKS["signs"]
    record.main(record.Args(source=f"{__name__}:signs", output=str(tmp_path / "set"), episodes=2))
    file, metadata = (tmp_path / "set" / "data" / name for name in ("main_data.hdf5", "metadata.json"))
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"garbage"):
        file.write_bytes(damage)
        with pytest.raises(RunError, match="data is damaged"):
            frames(open_dataset(str(tmp_path / "set"), task), make_policy(task), task)
    file.unlink()
    with pytest.raises(RunError, match="data cannot be read"):
        open_dataset(str(tmp_path / "set"), task)
    metadata.write_text("{")
    with pytest.raises(RunError, match="data cannot be read"):
        open_dataset(str(tmp_path / "set"), task)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari misses an author
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_datasets_that_others_recorded_are_read(data_format):
    """With a picture that has no name, kept as JPEG, and actions that count from 1."""
    if data_format == "arrow":
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.integers(0, 255, (5, 1, 1, 3), dtype=np.uint8), 32, 1).repeat(32, 2)
    episode = EpisodeBuffer(
        observations=pictures,
        actions=np.array([1, 2, 2, 1]),
        rewards=[0.0] * 4,
        terminations=[False] * 4,
        truncations=[False, False, False, True],
    )
    name = f"others/{data_format}-v0"
    minari.create_dataset_from_buffers(
        name,
        [episode, episode],
        observation_space=gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8),
        action_space=gymnasium.spaces.Discrete(2, start=1),
        data_format=data_format,
    )
    task = TASKS["signs"]
    policy = make_policy(task)
    shown = frames(open_dataset(name, task), policy, task)
    assert shown.expert.argmax(1).tolist() == [0, 1, 1, 0] * 2
    expected = policy.preprocess(torch.from_numpy(pictures[:4]))
    torch.testing.assert_close(shown.seen[:4], expected, atol=0.1, rtol=0)


def test_an_empty_dataset_is_refused(tmp_path):
    from minari.dataset.minari_storage import MinariStorage

    env = toys.Signs()
    storage = MinariStorage.new(tmp_path / "data", env.observation_space, env.action_space)
    storage.update_metadata({"dataset_id": "empty-v0", "minari_version": minari.__version__})
    with pytest.raises(UsageError, match="is empty"):
        open_dataset(str(tmp_path), TASKS["signs"])


SMALL = {"weights": "none", "tap": "stem", "train_from": "head", "head": "flatten", "eval_episodes": 4}


def trained(name, output, **options):
    task = f"{__name__}:{name}"
    return train(task, demonstrations=f"toys/{name}-v0", output=output, **SMALL, **options)


def test_a_run_learns_from_demonstrations_alone(tmp_path):
    result = trained("signs", tmp_path / "run", steps=80, learning_rate=1e-3)
    folder = RunFolder(tmp_path / "run")
    assert len(folder.rounds()) == 1
    assert result.frames == 12 * toys.LENGTH
    assert result.mean == toys.LENGTH
    assert folder.config().demonstrations == "toys/signs-v0"
    assert folder.config().imitation.loss == "cross-entropy"
    assert folder.policy().spec.score_kind == "logits"


def test_a_task_without_an_expert_is_learned_from_demonstrations(tmp_path):
    options = {"demonstrations": "toys/signs-v0", "output": tmp_path / "run", **SMALL}
    train("tests.xfer.training.toys:signs", steps=20, **options)
    assert RunFolder(tmp_path / "run").result() is not None


def test_rounds_after_the_demonstrations_go_on_with_the_expert(tmp_path):
    trained("dial", tmp_path / "run", steps=20, rounds=2, frames=20)
    assert [metrics.frames for metrics in RunFolder(tmp_path / "run").rounds()] == [96, 116]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "signs", "algorithm": "ppo"}, "no option of --algorithm ppo"),
        ({"task": "signs", "rounds": 2, "loss": "mse"}, "cannot mix recorded actions"),
        ({"task": "no_expert", "rounds": 2}, "Use --rounds 1"),
    ],
)
def test_what_demonstrations_cannot_do_is_refused(tmp_path, options, message):
    task = f"{__name__}:{options['task']}"
    with pytest.raises(UsageError, match=message):
        train(**{**SMALL, **options, "task": task, "demonstrations": "toys/signs-v0", "output": tmp_path})


def no_expert():
    return toys.signs()
