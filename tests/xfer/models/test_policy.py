import pytest
import torch

from tests.conftest import make_policy
from xfer.errors import UsageError
from xfer.models.config import PolicyConfig
from xfer.models.contract import from_action, to_action
from xfer.models.heads import Memory
from xfer.models.policy import Policy
from xfer.spec import ActionSpec, ImageConfig, PolicySpec, TensorSpec

FRAME = TensorSpec("frame", "uint8", (32, 32, 3), color_order="RGB", value_range=(0, 255))
JOINTS, FORCE = TensorSpec("joints", "float32", (3,)), TensorSpec("force", "float32", (2,))
IMAGE = ImageConfig(crop=(0, 32, 0, 32), gray=False, frames=1)
GRIP = ActionSpec("continuous", ("turn", "grip"), "", (-2.0, 0.0), (2.0, 1.0))


def mixed(observations=(JOINTS, FRAME, FORCE), hidden=(), head="average", action=GRIP):
    """A policy that sees a picture between two vectors."""
    torch.manual_seed(0)
    spec = PolicySpec("mixed", 10.0, observations, (), action, "mean" if action.kind == "continuous" else "logits")
    return Policy(PolicyConfig("resnet18", "layer1", head, 4, IMAGE, hidden), spec).eval()


def observed(batch=3):
    return {
        "joints": torch.randn(batch, 3),
        "frame": torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8),
        "force": torch.randn(batch, 2) * 100,
    }


def test_vectors_join_in_the_specs_order_wherever_the_picture_stands():
    policy, given = mixed(), observed()
    assert ([c.frame.name for c in policy.cameras], policy.vector_names) == (["frame"], ("joints", "force"))
    assert policy.vector_size == 5
    torch.testing.assert_close(policy.vector(given), torch.cat([given["joints"], given["force"]], 1))
    assert make_policy(tap="stem").vector({"frame": given["frame"]}).shape == (3, 0)


def test_the_deployed_policy_takes_all_observations_in_the_specs_order():
    policy, given = mixed(hidden=(8,)), observed()
    policy.fit_standardize("all", torch.zeros(1), policy.vector(given))
    with torch.no_grad():
        action, scores = policy.deploy()(given["joints"], given["frame"], given["force"])
        wanted = policy.scores(policy.preprocess(given["frame"]), policy.vector(given))
    torch.testing.assert_close(scores, wanted)
    torch.testing.assert_close(action, to_action(scores, policy.spec))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_policy_with_vectors_deploys_in_half_precision(precision):
    policy, given = mixed(), observed()
    with torch.no_grad():
        whole = policy.deploy()(*given.values())[1]
        half = policy.deploy(precision)(*given.values())[1]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, atol=0.1 * float(whole.abs().max()), rtol=0)


def test_vectors_are_standardized_by_what_was_first_seen():
    policy, vector = mixed(), torch.randn(500, 5) * torch.tensor([1.0, 2, 3, 4, 0]) + 7
    policy.fit_standardize("all", torch.zeros(1), vector)
    seen = policy.standardize_vector(vector)
    torch.testing.assert_close(seen.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.tensor([1.0, 1, 1, 1, 0]))
    # What never moved may move later, and must not drown the rest.
    moved = policy.standardize_vector(vector + torch.tensor([0, 0, 0, 0, 0.01]))
    assert moved[:, 4].abs().max() < 11


@pytest.mark.parametrize("hidden", [(), (8, 6)])
@pytest.mark.parametrize("head", ["average", "flatten", "spatial-softmax"])
def test_the_trainable_part_gives_what_the_readout_and_a_critic_read(hidden, head):
    policy, given = mixed(hidden=hidden, head=head), observed()
    seen, vector = policy.preprocess(given["frame"]), policy.vector(given)
    with torch.no_grad():
        for line in ("all", "layer1", "head"):
            frozen, trainable = policy.split(line)
            read = trainable.hidden(frozen(seen), vector)
            assert read.shape == (3, policy.head_size)
            torch.testing.assert_close(read[:, -5:], vector)
            torch.testing.assert_close(trainable.readout(read), policy.scores(seen, vector))
            torch.testing.assert_close(trainable(frozen(seen), vector), policy.scores(seen, vector))
            assert policy.make_readout(1)(read).shape == (3, 1)


def test_names_in_checkpoints_stay_what_they_were():
    plain, linear = make_policy(tap="stem", head="spatial-softmax"), make_policy(tap="stem", head="average")
    head = {name for name in plain.state_dict() if not name.startswith("trunk.")}
    assert head == {
        "standardize.mean",
        "standardize.std",
        "head.0.maps.weight",
        "head.0.maps.bias",
        "head.1.weight",
        "head.1.bias",
    }
    assert {"head.2.weight", "head.2.bias"} <= set(linear.state_dict())


def remembering(memory=6, states=(("history", (2, 32, 32)), ("memory", (6,)))):
    """A policy with both kinds of state."""
    torch.manual_seed(0)
    specs = tuple(TensorSpec(name, "float32", shape) for name, shape in states)
    spec = PolicySpec("mixed", 10.0, (JOINTS, FRAME), specs, GRIP, "mean")
    image = ImageConfig(crop=(0, 32, 0, 32))
    config = PolicyConfig(
        "resnet18", "stem", "average", 4, image, memory="gru" if memory else "none", memory_size=memory or 64
    )
    return Policy(config, spec).eval()


def test_a_memory_is_a_state_beside_the_history_and_a_part_of_the_head():
    policy = remembering()
    assert policy.spec.output_names == ("action", "scores", "history_out", "memory_out")
    assert policy.head_size == 6
    head = {name for name in policy.state_dict() if name.startswith("head.")}
    cell = {f"head.2.{kind}_{side}" for kind in ("weight", "bias") for side in ("ih", "hh")}
    assert head == cell | {"head.3.weight", "head.3.bias"}
    given, history, memory = observed(), torch.rand(3, 2, 32, 32), torch.rand(3, 6)
    with torch.no_grad():
        _, scores, _, after = policy.deploy()(given["joints"], given["frame"], history, memory)
        seen, _ = policy.see(given, history)
        wanted, remembered = policy.step(seen, given["joints"], memory)
    torch.testing.assert_close((scores, after), (wanted, remembered))
    assert not torch.allclose(after, memory)


def test_a_memory_computes_what_pytorchs_own_gru_does():
    torch.manual_seed(0)
    memory, read, held = Memory(7, 5), torch.randn(3, 7) * 2, torch.randn(3, 5)
    with torch.no_grad():
        torch.testing.assert_close(memory(read, held), torch.nn.GRUCell.forward(memory, read, held))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_memory_stays_float32_in_half_precision(precision):
    policy, given = remembering(), observed()
    inputs = (given["joints"], given["frame"], torch.rand(3, 2, 32, 32), torch.rand(3, 6))
    with torch.no_grad():
        whole, half = policy.deploy()(*inputs), policy.deploy(precision)(*inputs)
    assert {tensor.dtype for tensor in half} == {torch.float32}
    torch.testing.assert_close(half[3], whole[3], atol=0.05, rtol=0)


@pytest.mark.parametrize("states", [(), (("history", (2, 32, 32)),), (("memory", (6,)), ("history", (2, 32, 32)))])
def test_a_spec_whose_states_are_not_the_policys_is_refused(states):
    with pytest.raises(UsageError, match=r"states of the spec .* are not those of the policy's configuration"):
        remembering(states=states)


def test_an_action_is_the_clipped_mean_in_the_environments_units():
    spec = mixed().spec
    scores = torch.tensor([[-1.0, -1], [0, 0], [1, 1], [-9, 9], [0.5, -0.5]])
    wanted = torch.tensor([[-2.0, 0], [0, 0.5], [2, 1], [-2, 1], [1, 0.25]])
    torch.testing.assert_close(to_action(scores, spec), wanted)
    inside = scores[[0, 1, 2, 4]]
    torch.testing.assert_close(from_action(to_action(inside, spec), spec), inside)


def test_a_discrete_action_is_the_best_scored_one():
    spec = mixed(action=ActionSpec("discrete", ("a", "b", "c"))).spec
    action = to_action(torch.tensor([[0.0, 2, 1], [3, 2, 1]]), spec)
    assert (action.tolist(), action.dtype) == ([1, 0], torch.int64)


@pytest.mark.parametrize(
    "observations",
    [(JOINTS,), (FRAME, TensorSpec("depth", "uint8", (8, 8, 2))), (FRAME, TensorSpec("n", "int64", (1,)))],
)
def test_observations_that_a_policy_cannot_see_are_refused_by_name(observations):
    with pytest.raises(UsageError, match=f"sees uint8 images .*{observations[-1].name}"):
        mixed(observations)
