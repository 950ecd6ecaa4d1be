import dataclasses
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from tests import small_task
from tests.conftest import imitation_config, make_policy, train_briefly
from tests.xfer.training import toys
from xfer import tasks
from xfer.errors import UsageError
from xfer.evaluate import episode_returns
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec, to_action
from xfer.models.policy import Policy
from xfer.models.torch_session import runner
from xfer.spec import ActionSpec, ImageConfig, PolicySpec, TensorSpec
from xfer.training import imitation
from xfer.training.config import ImitationConfig
from xfer.training.train import build_policy


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def frames():
    config = imitation_config(frames=64)
    return imitation.collect(tasks.load("cartpole"), make_policy(tap="stem"), config, 0, "cpu", lambda count: None)


def fit(policy, frames, **changes):
    config = imitation_config(**{"steps": 6, "batch_size": 16, **changes})
    frozen, _ = policy.split(config.train_from)
    features = imitation.compute_features(frozen, frames.seen, "cpu")
    policy.fit_standardize(config.train_from, features)
    return [loss for _, _, loss in imitation.fit(policy, features, frames.expert, config, 0, "cpu")]


@pytest.mark.parametrize("train_from", ["head", "layer1"])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_frozen_part_does_not_change(frames, train_from, compiled):
    policy = make_policy(tap="layer1")
    before = snapshot(policy.trunk)
    fit(policy, frames, train_from=train_from, compile=compiled)
    moved = {
        name.split(".")[0] for name, value in policy.trunk.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == ({"layer1"} if train_from == "layer1" else set())
    assert not any("_orig_mod" in name for name in policy.state_dict())


def test_all_means_that_everything_moves(frames):
    policy = make_policy(tap="layer1")
    before = snapshot(policy)
    fit(policy, frames, train_from="all")
    still = [name for name, p in policy.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("head", ["spatial-softmax", "flatten", "average"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_every_head_learns_with_every_loss(frames, head, loss):
    policy = make_policy(tap="stem", head=head, loss=loss)
    config = {"loss": loss, "steps": 100, "learning_rate": 1e-3 if head == "flatten" else 1e-2}
    before, after = fit(policy, frames, **config)
    assert after < before


@pytest.mark.parametrize("changes", [{"optimizer": "sgd", "learning_rate": 1e-3}, {"amp": "bf16"}])
def test_optimizers_and_precisions_learn(frames, changes):
    losses = fit(make_policy(tap="stem", head="average"), frames, steps=150, **changes)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    weights = []
    for seed in (0, 0, 1):
        policy = make_policy(tap="stem", seed=seed)
        train_briefly(policy, frames=40, steps=10, seed=seed)
        weights.append(policy.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert any(not torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_the_cut_network_computes_what_the_whole_one_does():
    policy = make_policy(tap="layer2")
    seen = torch.rand(2, 3, 40, 150)
    with torch.no_grad():
        for line in ("all", "layer1", "layer2", "head"):
            frozen, trainable = policy.split(line)
            torch.testing.assert_close(trainable(frozen(seen)), policy.scores(seen))


def test_history_starts_from_zeros_after_an_episode_ends():
    """The first frames of an episode that began during collection are those of a fresh one."""
    policy = make_policy(tap="stem")
    frames = imitation.collect(
        tasks.load("cartpole"),
        policy,
        imitation_config(frames=120, environments=1, expert_noise=1.0),
        0,
        "cpu",
        lambda count: None,
    )
    empty = (frames.seen[:, :2] == 0).all(dim=(2, 3))
    begun = np.flatnonzero(empty.all(dim=1).numpy())
    assert begun[0] == 0
    assert len(begun) > 2 * policy.config.image.frame_step  # several episodes, each with `frame_step` empty histories


def test_a_continuous_experts_noise_is_a_share_of_the_range_and_stays_in_it():
    task = toy("action", ActionSpec("continuous", ("turn", "gas"), "", (-2.0, 0.0), (2.0, 1.0)))
    expert = np.tile(np.float32([[0.0, 1.0]]), (5000, 1))
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(imitation.with_noise(expert, task, 0.0, rng), expert)
    drawn = imitation.with_noise(expert, task, 0.25, rng)
    assert drawn.dtype == np.float32
    assert drawn[:, 0].std() == pytest.approx(0.25 * 2, rel=0.05)
    assert (drawn[:, 1] <= 1).all()
    assert (drawn[:, 1] == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_half_of_the_discrete_actions_are_random_with_noise_of_one_half():
    task = toy("scores", ActionSpec("discrete", ("a", "b", "c", "d")))
    expert = np.tile(np.float32([[0, 3, 1, 0]]), (4000, 1))
    rng = np.random.default_rng(0)
    assert (imitation.with_noise(expert, task, 0.0, rng) == 1).all()
    assert (imitation.with_noise(expert, task, 0.5, rng) == 1).mean() == pytest.approx(5 / 8, abs=0.03)


def toy(expert_kind, action):
    return dataclasses.replace(tasks.load("cartpole"), action=action, expert_kind=expert_kind)


def test_probabilities_are_a_soft_target_and_scores_a_hard_one():
    scores, expert = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    log = scores.log_softmax(1)
    soft = imitation.imitation_loss(scores, expert, "cross-entropy", "probabilities")
    torch.testing.assert_close(soft, -(log[0, 0] + log[0, 1]) / 2)
    torch.testing.assert_close(imitation.imitation_loss(scores, expert, "cross-entropy"), -log[0, 0])


def test_frames_kept_before_there_were_vectors_are_read(tmp_path):
    old = {"seen": torch.rand(3, 3, 4, 4), "expert": torch.rand(3, 2)}
    frames = imitation.Frames(**load(save(old)))
    new = imitation.Frames(torch.rand(2, 3, 4, 4), torch.rand(2, 2), torch.zeros(2, 0))
    again = imitation.Frames(**load(save(new._asdict())))
    assert torch.cat([frames.vector, again.vector]).shape[1] == 0
    torch.testing.assert_close(again.seen, new.seen)


def test_continuous_actions_are_learned_from_a_vector_beside_the_picture():
    """The picture is black and the action is in the vector: with it the loss vanishes, without it does not."""
    frame, joint = TensorSpec("frame", "uint8", (16, 16, 3), color_order="RGB"), TensorSpec("joint", "float32", (2,))
    action = ActionSpec("continuous", ("turn", "gas"), "", (-2.0, 0.0), (2.0, 1.0))
    spec = PolicySpec("toy", 10.0, (frame, joint), (), action, "mean")
    image = ImageConfig((0, 16, 0, 16), gray=False, frames=1)
    rng = torch.Generator().manual_seed(0)
    vector = torch.randn(256, 2, generator=rng) * 0.3 + 5
    wanted = torch.stack([(vector[:, 0] - 5) * 2, (vector[:, 1] - 5) / 2 + 0.5], dim=1)
    last = {}
    for name, shown in (("with", vector), ("without", torch.zeros_like(vector))):
        torch.manual_seed(0)
        policy = Policy(PolicyConfig("resnet18", "stem", "average", 4, image, (32,)), spec).eval()
        seen = policy.preprocess(torch.zeros(256, 16, 16, 3, dtype=torch.uint8))
        config = imitation_config(steps=60, learning_rate=3e-2, train_from="head", weight_decay=0.0)
        features = imitation.compute_features(policy.split("head")[0], seen, "cpu")
        policy.fit_standardize("head", features, shown)
        *_, (_, _, last[name]) = imitation.fit(policy, features, wanted, config, 0, "cpu", shown)
        if name == "with":
            with torch.no_grad():
                acted = to_action(policy.scores(seen, shown), spec)
            assert (acted - wanted.clamp(torch.tensor([-2.0, 0]), torch.tensor([2.0, 1]))).abs().mean() < 0.1
    assert last["with"] < 0.05 < last["without"]


def test_a_loss_that_is_none_for_continuous_actions_is_refused():
    policy = make_policy(tap="stem")
    action = ActionSpec("continuous", ("a", "b"), "", (0, 0), (1, 1))
    policy.spec = dataclasses.replace(policy.spec, action=action, score_kind="mean")
    with pytest.raises(UsageError, match="cross-entropy is for discrete actions"):
        next(imitation.fit(policy, torch.zeros(1), torch.zeros(1, 2), imitation_config(loss="cross-entropy"), 0, "cpu"))


def remembering(task, memory=16):
    torch.manual_seed(0)
    spec = make_spec(task, task.image, "values", memory)
    config = PolicyConfig(
        "resnet18", "stem", "flatten", 8, task.image, memory="gru" if memory else "none", memory_size=memory or 64
    )
    return Policy(config, spec).eval()


def test_frames_are_numbered_by_their_episodes_which_are_joined_over_rounds():
    task, config = toys.cue(), imitation_config(frames=40, environments=2)
    policy = remembering(task)
    rounds = [imitation.collect(task, policy, config, index, "cpu") for index in (0, 1)]
    whole = imitation.join([frames.seen for frames in rounds])
    cut = imitation.episodes(rounds)
    assert [len(rows) for rows in cut] == 2 * [8, 8, 8, 8, 4, 4]
    assert torch.equal(torch.cat(cut).sort()[0], torch.arange(80))
    for rows in cut:
        assert (rows.diff() == 2).all()  # two environments take turns
        assert whole[rows[0]].std() > 0.1  # the cue
        assert (whole[rows[1:]] == whole[rows[1], :, 0, 0, None, None]).all()


def test_stretches_go_through_whole_episodes_one_after_the_other():
    episodes = [torch.arange(3), torch.tensor([10, 12, 14, 16, 18]), torch.tensor([11])]
    follows = {int(a): int(b) for rows in episodes for a, b in itertools.pairwise(rows)}
    config = imitation_config(batch_size=8, unroll=4, steps=30)
    given = [(rows.reshape(4, 2), begins) for rows, begins in imitation.sequences(episodes, config, 0)]
    rows, begins = (torch.cat(parts) for parts in zip(*given, strict=True))
    assert rows.shape == begins.shape == (120, 2)
    firsts = [int(e[0]) for e in episodes]
    for stream, starts in zip(rows.T.tolist(), begins.T.tolist(), strict=True):
        assert starts == [row in firsts for row in stream]
        assert all(follows.get(a) == b or (a not in follows and b in firsts) for a, b in itertools.pairwise(stream))
    read = rows[begins].bincount()[firsts]
    assert read.max() - read.min() <= 2  # all are read equally often


def test_a_memory_in_training_is_the_one_that_is_deployed():
    """Two stretches, with an episode that begins in the middle of the second."""
    task = toys.cue()
    policy = remembering(task)
    frames = torch.randint(0, 256, (8, 2, 32, 32, 3), dtype=torch.uint8)
    begins = torch.zeros(8, 2, dtype=torch.bool)
    begins[0], begins[6, 1] = True, True
    unrolled = imitation.Unrolled(policy.split("head")[1])
    module, state, memory = policy.deploy(), torch.ones(2, 16), torch.ones(2, 16)
    with torch.no_grad():
        for part in (slice(0, 4), slice(4, 8)):
            features = policy.split("head")[0](policy.preprocess(frames[part].flatten(0, 1)))
            scores, memory = unrolled(features, None, memory, begins[part])
            for step, wanted in zip(range(part.start, part.stop), scores.unflatten(0, (4, 2)), strict=True):
                state[begins[step]] = 0
                _, found, state = module(frames[step], state)
                torch.testing.assert_close(found, wanted)
            torch.testing.assert_close(state, memory)


def test_a_policy_that_drives_takes_its_memory_along_and_drops_it_with_the_episode():
    task = toys.cue()
    policy, acted = remembering(task), []

    class Watched(toys.Cue):
        def step(self, action):
            acted.append(action)
            return super().step(action)

    config = imitation_config(frames=30, environments=1)
    watched = dataclasses.replace(task, make=Watched)
    with torch.no_grad():  # what it remembers must decide
        policy.head.memory.weight_hh.mul_(10)
    frames = imitation.collect(watched, policy, config, 1, "cpu")
    runs = {"with": [], "without": []}
    with torch.inference_mode():
        for rows in imitation.episodes([frames]):
            memory = torch.zeros(1, 16)
            for row in rows:
                runs["without"].append(policy.step(frames.seen[row][None], None, torch.zeros(1, 16))[0].argmax())
                scores, memory = policy.step(frames.seen[row][None], None, memory)
                runs["with"].append(scores.argmax())
    assert acted == runs["with"]
    assert acted != runs["without"]


@pytest.mark.parametrize("memory", [0, 16])
def test_only_a_memory_learns_what_was_to_be_seen_earlier(one_thread, memory):
    """Seven pictures of eight are all alike; without a memory the best is to guess, for 4.5 of 8."""
    task, config = toys.cue(), imitation_config(frames=320, steps=150, batch_size=64, unroll=8, learning_rate=1e-2)
    policy = remembering(task, memory)
    kept = [imitation.collect(task, policy, config, 0, "cpu")]
    features = imitation.compute_features(policy.split("head")[0], kept[0].seen, "cpu")
    policy.fit_standardize("head", features)
    episodes = imitation.episodes(kept)
    *_, (_, _, loss) = imitation.fit(policy, features, kept[0].expert, config, 0, "cpu", episodes=episodes)
    returns = [value for _, value in episode_returns(task, runner(policy, "cpu", 4), range(12))]
    if memory:
        assert loss < 0.05
        assert np.mean(returns) > 7
    else:
        assert loss > 0.15
        assert np.mean(returns) < 6.5


@pytest.mark.parametrize("changes", [{"amp": "bf16"}, {"compile": True}, {"train_from": "all", "optimizer": "sgd"}])
def test_a_memory_learns_in_every_way(one_thread, changes):
    task, config = toys.cue(), imitation_config(frames=64, steps=100, batch_size=16, unroll=8, **changes)
    policy = remembering(task)
    kept = [imitation.collect(task, policy, config, 0, "cpu")]
    features = imitation.compute_features(policy.split(config.train_from)[0], kept[0].seen, "cpu")
    policy.fit_standardize(config.train_from, features)
    before = snapshot(policy.head)
    found = imitation.fit(policy, features, kept[0].expert, config, 0, "cpu", episodes=imitation.episodes(kept))
    first, *_, last = [loss for _, _, loss in found]
    assert last < first
    assert not any(torch.equal(value, before[name]) for name, value in policy.head.state_dict().items())


@pytest.mark.parametrize("name", ["navigation:crossing-n1", "reach"])
def test_dagger_drives_every_kind_of_task(name):
    task = tasks.load(name)
    config = ImitationConfig.for_task(task, train_from="head", frames=8, environments=2)
    policy = build_policy(task, PolicyConfig.for_task(task, tap="stem"), config).eval()
    for index in (0, 1):
        frames = imitation.collect(task, policy, config, index, "cpu")
        assert frames.seen.shape == (8, 3, *task.image.size)
        assert frames.expert.shape == (8, len(task.action.elements))
        assert frames.vector.shape == (8, policy.vector_size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_training_on_cuda_with_compile_and_amp_learns(frames, amp):
    policy = make_policy(tap="layer1").to("cuda")
    config = imitation_config(steps=100, batch_size=16, train_from="layer1", amp=amp, compile=True)
    frozen, _ = policy.split("layer1")
    features = imitation.compute_features(frozen, frames.seen, "cuda")
    policy.fit_standardize("layer1", features.to("cuda"))
    losses = [loss for _, _, loss in imitation.fit(policy, features, frames.expert, config, 0, "cuda")]
    assert losses[-1] < losses[0]


def planner(task, horizon=3, execute=2, memory=0):
    torch.manual_seed(0)
    kind = "gru" if memory else "none"
    config = PolicyConfig(
        "resnet18", "stem", "flatten", 8, task.image, (), kind, memory or 64, horizon=horizon, execute=execute
    )
    return build_policy(task, config, imitation_config()).eval()


def test_a_policy_that_plans_ahead_learns_what_comes_next_in_the_same_episode():
    first, second = torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3])
    rows = imitation.following([first, second], 7, 3)
    assert rows.tolist() == [[0, 2, 4], [1, 3, -1], [2, 4, 6], [3, -1, -1], [4, 6, -1], [-1] * 3, [6, -1, -1]]


def test_it_is_fitted_to_the_experts_next_scores_and_not_beyond_the_end_of_an_episode():
    task = tasks.load("cartpole")
    policy = planner(task)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 64, 4, 5, generator=generator)
    policy.head[-1][0] = torch.nn.Linear(features[0].numel(), 6)
    own = torch.nn.Linear(features[0].numel(), 2)
    with torch.no_grad():
        expert = torch.cat([own(features.flatten(1))[:59], torch.full((1, 2), torch.nan)])
    expert = expert.detach().clone()
    cut = [torch.arange(30), torch.arange(30, 59)]  # nothing is learned of the last row, which is in no episode
    config = imitation_config(train_from="head", steps=40, batch_size=59, loss="mse")
    losses = [loss for _, _, loss in imitation.fit(policy, features, expert, config, 0, episodes=cut)]
    assert np.isfinite(losses).all()
    with torch.no_grad():
        scores = policy.head(features)
    assert scores.shape == (60, 3, 2)
    assert (scores[:28, 2] - expert[2:30]).abs().mean() < 0.5 * expert[:59].std()


def test_it_drives_as_it_is_deployed_and_its_history_begins_with_copies_of_the_first_frame():
    task = small_task.task()
    policy = planner(task)
    frames = imitation.collect(task, policy, imitation_config(frames=20, environments=2), 1)
    assert frames.expert.shape == (20, len(task.action.elements))
    observation = policy.spec.observations[0]
    assert (observation.frames, policy.spec.states) == (5, ())
    acts = runner(policy)
    history = torch.zeros(1, *policy.history_shape)
    rng = np.random.default_rng(0)
    for step in range(4):
        frame = rng.integers(0, 256, observation.shape, np.uint8)
        given = {observation.name: torch.from_numpy(frame[None])}
        with torch.inference_mode():
            history = policy.begun(given, history, torch.tensor([step == 0]))
            seen, history = policy.see(given, history)
            wanted = policy.scores(seen, None)[0]
        made = acts.infer({observation.name: frame})
        np.testing.assert_allclose(made.scores, wanted.numpy(), atol=1e-4)


def test_a_memory_may_plan_ahead_if_each_step_has_its_inference():
    policy = planner(toys.cue(), execute=1, memory=16)
    assert [state.name for state in policy.spec.states] == ["memory"]
    assert policy.spec.chunk_scores.shape == (3, len(policy.spec.action.elements))
