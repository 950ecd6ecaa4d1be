"""Policies that see several cameras."""

from dataclasses import replace

import pytest
import torch

from tests import two_cameras
from xfer.errors import UsageError, WeightsError
from xfer.models.checkpoint import load_policy, save_policy
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec, planning
from xfer.models.policy import Policy
from xfer.models.pretrained import load_weights
from xfer.models.torch_session import runner
from xfer.spec import ActionSpec, ImageConfig, TensorSpec
from xfer.tasks import Task

JOINTS = TensorSpec("joints", "float32", (3,))


def build(task: Task, trunks: str = "shared", tap: str = "stem", head: str = "average", **options) -> Policy:
    torch.manual_seed(0)
    config = PolicyConfig.for_task(
        task, backbone="resnet18", tap=tap, head=head, keypoints=4, trunks=trunks, hidden=(), **options
    )
    spec = make_spec(task, config.image, "values", config.memory_units, dict(config.images))
    return Policy(config, planning(spec, config)).eval()


def with_joints(task: Task) -> Task:
    """The joints stand between the two cameras."""
    first, second = task.observations
    return replace(task, observations=(first, JOINTS, second))


def shown(policy: Policy, batch: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    found = {}
    for observation in policy.spec.observations:
        shape = (batch, *observation.shape)
        found[observation.name] = (
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
            if observation.is_image
            else torch.randn(shape, generator=random)
        )
    return found


KINDS = pytest.mark.parametrize(
    ("task", "trunks"), [(two_cameras.task(), "shared"), (two_cameras.task(), "each"), (two_cameras.unlike(), "each")]
)


@KINDS
def test_each_camera_keeps_frames_of_its_own_in_a_state_of_its_own(task, trunks):
    policy = build(task, trunks)
    gray = [camera.frame.name for camera in policy.cameras if camera.image.past]
    assert [state.name for state in policy.spec.states] == [f"{name}_history" for name in gray]
    assert gray == (["cart"] if task.images else ["cart", "pole"])


@KINDS
@pytest.mark.parametrize("memory", ["none", "gru"])
def test_training_and_the_deployed_module_see_the_same_over_steps(task, trunks, memory):
    policy = build(with_joints(task), trunks, memory=memory, memory_size=5)
    deployed, states = policy.deploy(), [torch.zeros(3, *state.shape) for state in policy.spec.states]
    history, held = torch.zeros(3, *policy.history_shape), torch.zeros(3, policy.config.memory_units)
    with torch.no_grad():
        for step in range(6):
            given = shown(policy, seed=step)
            _, scores, *states = deployed(*given.values(), *states)
            seen, history = policy.see(given, history)
            wanted, held = policy.step(seen, policy.vector(given), held)
            torch.testing.assert_close(scores, wanted)
    assert seen.shape == (3, *policy.seen.shape)


@KINDS
@pytest.mark.parametrize("head", ["average", "flatten", "spatial-softmax"])
def test_the_frozen_and_the_trained_part_give_what_the_whole_does(task, trunks, head):
    policy = build(with_joints(task), trunks, "layer1", head)
    given = shown(policy)
    with torch.no_grad():
        seen, _ = policy.see(given, torch.zeros(3, *policy.history_shape))
        wanted = policy.scores(seen, policy.vector(given))
        for line in ("all", "layer1", "head"):
            frozen, trainable = policy.split(line)
            features = frozen(seen)
            assert features.ndim == 4
            torch.testing.assert_close(trainable(features, policy.vector(given)), wanted)
            assert trainable.hidden(features, policy.vector(given)).shape == (3, policy.head_size)


@KINDS
def test_every_camera_counts(task, trunks):
    policy = build(task, trunks)
    given, states = shown(policy), [torch.zeros(3, *state.shape) for state in policy.spec.states]
    with torch.no_grad():
        _, before, *_ = policy.deploy()(*given.values(), *states)
        for name in given:
            other = {**given, name: 255 - given[name]}
            _, after, *_ = policy.deploy()(*other.values(), *states)
            assert (after - before).abs().max() > 1e-4, name


def test_trunks_are_shared_or_one_each():
    shared, each = (sum(p.numel() for p in build(two_cameras.task(), t).trunk.parameters()) for t in ("shared", "each"))
    assert each == 2 * shared


def test_batch_norm_sees_cameras_that_share_a_trunk_together():
    """Else it would be trained on each camera's own statistics, and act on those of both."""
    policy = build(two_cameras.task())
    seen, _ = policy.see(
        {"cart": torch.zeros(2, 32, 32, 3).byte(), "pole": torch.full((2, 32, 32, 3), 255).byte()},
        torch.ones(2, *policy.history_shape),
    )
    _, trainable = policy.split("all")
    torch.optim.swa_utils.update_bn([seen], trainable.stages)
    with torch.no_grad():
        trained = trainable.train()(seen)
        torch.testing.assert_close(trainable.eval()(seen), trained, atol=0.05, rtol=0.05)


@KINDS
def test_the_scale_of_each_cameras_features_is_its_own(task, trunks):
    policy = build(task, trunks)
    seen, _ = policy.see(shown(policy, 20), torch.zeros(20, *policy.history_shape))
    frozen, _ = policy.split("head")
    with torch.no_grad():
        features = frozen(seen)
        policy.fit_standardize("head", features)
    found = [standardize.mean for standardize in policy.standardize]
    assert len(found) == 2
    assert (found[0] - found[1]).abs().max() > 1e-3


@KINDS
def test_a_policy_with_several_cameras_is_saved_and_loaded(task, trunks, tmp_path):
    policy = build(task, trunks)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.config == policy.config
    given, states = shown(policy), [torch.zeros(3, *state.shape) for state in policy.spec.states]
    with torch.no_grad():
        torch.testing.assert_close(loaded.deploy()(*given.values(), *states), policy.deploy()(*given.values(), *states))


@pytest.mark.parametrize("trunks", ["shared", "each"])
def test_weights_of_a_policy_with_one_camera_are_taken_by_every_trunk(trunks, tmp_path):
    alone = replace(two_cameras.task(), observations=(two_cameras.CART,))
    source = build(alone)
    save_policy(source, tmp_path)
    policy = build(two_cameras.task(), trunks)
    torch.nn.init.zeros_(next(policy.parameters()))
    loaded = load_weights(policy, str(tmp_path))
    assert "(stem)" in str(loaded)
    for trunk in policy.trunk if trunks == "each" else [policy.trunk]:
        torch.testing.assert_close(trunk.state_dict(), source.trunk.state_dict())


def test_trunks_of_several_cameras_do_not_fit_one(tmp_path):
    save_policy(build(two_cameras.task(), "each"), tmp_path)
    for other in (build(two_cameras.task()), build(replace(two_cameras.task(), observations=(two_cameras.CART,)))):
        with pytest.raises(WeightsError, match="a trunk for each of its 2 cameras: only a policy with as many and --t"):
            load_weights(other, str(tmp_path))
    again = build(two_cameras.task(), "each")
    assert len(load_weights(again, str(tmp_path)).taken) == len(again.state_dict())


def test_cameras_that_share_a_trunk_must_give_it_pictures_of_one_size():
    with pytest.raises(UsageError, match="these give 'cart' 32 x 32, 'pole' 12 x 16: use --trunks each"):
        build(two_cameras.unlike(), "shared")


def test_a_crop_that_does_not_fit_names_the_camera():
    task = replace(two_cameras.unlike(), images={})
    with pytest.raises(UsageError, match=r"does not fit the 24 x 32 frame 'pole'\. Task.images"):
        build(task, "each")
    with pytest.raises(UsageError, match=r"camera in PolicyConfig.images 'pol'\. Did you mean 'pole'"):
        build(replace(task, images={"pol": task.image}), "each")


@pytest.mark.parametrize("image", [ImageConfig((0, 8, 0, 8), gray=True), ImageConfig((0, 8, 0, 8), 2, False, 1)])
def test_a_gray_camera_is_seen_as_one_in_color_whose_colors_are_alike(image):
    gray, color = (TensorSpec("eye", "uint8", (8, 8, colors)) for colors in (1, 3))
    frame = torch.randint(0, 256, (2, 8, 8, 1), dtype=torch.uint8)
    found = []
    for spec, seen in ((gray, frame), (color, frame.expand(-1, -1, -1, 3).contiguous())):
        action = ActionSpec("discrete", ("a", "b"))
        policy = build(Task("eye", 10.0, (spec,), action, None, image, lambda: None))
        found.append(policy.see({"eye": seen}, torch.zeros(2, *policy.history_shape))[0])
    torch.testing.assert_close(*found)


@KINDS
def test_a_policy_that_plans_ahead_is_given_each_cameras_frames(task, trunks):
    policy = build(with_joints(task), trunks, horizon=3, execute=2)
    assert policy.spec.states == ()
    kept = {observation.name: observation.frames for observation in policy.spec.observations}
    assert kept == {"cart": 5, "joints": 1, "pole": 1 if task.images else 5}
    acts, history = runner(policy), torch.zeros(1, *policy.history_shape)
    with torch.no_grad():
        for step in range(6):
            given = shown(policy, batch=1, seed=step)
            history = policy.begun(given, history, torch.tensor([step == 0]))
            seen, history = policy.see(given, history)
            made = acts.infer({name: tensor.numpy()[0] for name, tensor in given.items()})
            torch.testing.assert_close(torch.from_numpy(made.scores), policy.scores(seen, policy.vector(given))[0])
