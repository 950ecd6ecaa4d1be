"""Training by hand, without a command or a run's folder: the configuration classes are enough."""

from xfer import ImitationConfig, PolicyConfig, tasks
from xfer.evaluate import episode_returns
from xfer.models.contract import make_spec
from xfer.models.policy import Policy
from xfer.models.pretrained import load_weights
from xfer.models.torch_session import runner
from xfer.training import imitation


def test_load_adapt_make_train_use(one_thread):
    task = tasks.load("cartpole")  # the environment, seen as pixels
    policy = Policy(PolicyConfig(tap="stem", image=task.image), make_spec(task, task.image, "values"))
    load_weights(policy, "none")
    config = ImitationConfig(frames=20, steps=5, train_from="head")
    frames = imitation.collect(task, policy, config)  # the expert drives
    frozen, _ = policy.split(config.train_from)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    features = imitation.compute_features(frozen, frames.seen)
    assert list(imitation.fit(policy, features, frames.expert, config))
    assert {1, 2} == dict(episode_returns(task, runner(policy), [1, 2])).keys()
    changed = {name.partition(".")[0] for name, value in policy.state_dict().items() if (value != before[name]).any()}
    assert changed == {"head"}
