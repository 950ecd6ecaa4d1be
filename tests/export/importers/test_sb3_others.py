"""Files of Stable-Baselines3 whose policy does not act as its networks alone do are refused, each in one line."""

import base64
import importlib
import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from export.importers import sb3
from export.importers._sb3_original import saved_class
from xfer import cli
from xfer.errors import UsageError, WeightsError
from xfer.trajectories import Trajectories

contrib = pytest.mark.skipif(
    not importlib.util.find_spec("sb3_contrib"), reason="pip install --no-deps sb3-contrib: not installed"
)
OFF_POLICY = {"buffer_size": 10, "device": "cpu"}
ON_POLICY = {"n_steps": 64, "device": "cpu"}


class Goals(gymnasium.Env):
    """An environment of goals, for hindsight."""

    observation_space = Dict({name: Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")})
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return {name: np.zeros(2, np.float32) for name in self.observation_space}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}

    def compute_reward(self, achieved, desired, info):
        return np.zeros(len(achieved))


class Discretes(gymnasium.Env):
    """As small as an environment is."""

    observation_space, action_space = Box(-1, 1, (4,)), Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 0.0, False, False, {}


class Torques(Discretes):
    action_space = Box(-2, 2, (2,))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XFER_TASK", "")


def refusal(file, capsys) -> str:
    """Return what the command line says of a file: one line."""
    capsys.readouterr()
    observations = Trajectories(
        {"observation": np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)}, np.arange(80) % 20 == 0
    )
    observations.save(Path("met.safetensors"))
    words = ["export", str(file), "--from", "sb3", "--trust", "--observations", "met.safetensors", "--targets", "eager"]
    assert cli.main(words) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("xfer: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


# Algorithms.


@contrib
@pytest.mark.parametrize(
    ("algorithm", "policy", "environment", "said"),
    [
        ("RecurrentPPO", "MlpLstmPolicy", Discretes, "is of RecurrentPPO, which keeps the state of an LSTM"),
        ("MaskablePPO", "MlpPolicy", Discretes, "is of MaskablePPO, which is told at every step what is allowed"),
        ("QRDQN", "MlpPolicy", Discretes, r"is of QR-DQN \(its policy is a QRDQNPolicy\)"),
        ("TQC", "MlpPolicy", Torques, "is of TQC"),
        ("CrossQ", "MlpPolicy", Torques, "is of CrossQ"),
        ("ARS", "LinearPolicy", Discretes, "is of ARS"),
    ],
)
def test_algorithms_of_sb3_contrib_are_refused_by_name(algorithm, policy, environment, said, tmp_path):
    import sb3_contrib

    options = {"policy_kwargs": {"lstm_hidden_size": 4}} if algorithm == "RecurrentPPO" else {}
    getattr(sb3_contrib, algorithm)(policy, environment(), device="cpu", **options).save("model.zip")
    with pytest.raises(UsageError, match=said):
        sb3.load(Path("model.zip"), trust=True)


@contrib
def test_an_lstm_whose_sizes_fit_is_not_left_out(capsys):
    """With four units it has the observation's size, so that its networks fit together without it."""
    from sb3_contrib import RecurrentPPO

    model = RecurrentPPO("MlpLstmPolicy", Discretes(), device="cpu", policy_kwargs={"lstm_hidden_size": 4})
    with torch.no_grad():
        model.policy.action_net.bias += torch.tensor([5.0, 0, 0])
    model.save("model.zip")
    assert "is of RecurrentPPO" in refusal("model.zip", capsys)


def contribs(file: Path, module: str, name: str) -> Path:
    """Make a file as sb3-contrib would, where it is not installed: its class by name, its pickle of what is missing."""
    model = PPO("MlpPolicy", Discretes(), **ON_POLICY)
    model.save(file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    data = json.loads(entries["data"])
    data["policy_class"] = {
        ":type:": "<class 'abc.ABCMeta'>",
        ":serialized:": base64.b64encode(b"cno_such_library.policies\nTheirs\n.").decode(),
        "__module__": module,
        "__init__": f"<function {name}.__init__ at 0x7f9c5c0b8d30>",
    }
    entries["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return file


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("sb3_contrib.common.recurrent.policies", "RecurrentActorCriticPolicy", "is of RecurrentPPO, which keeps"),
        ("sb3_contrib.common.maskable.policies", "MaskableActorCriticPolicy", "is of MaskablePPO, which is told"),
        ("sb3_contrib.qrdqn.policies", "QRDQNPolicy", "is of QR-DQN (its policy is a QRDQNPolicy)"),
        ("sb3_contrib.tqc.policies", "TQCPolicy", "is of TQC (its policy is a TQCPolicy)"),
        ("sb3_contrib.new.policies", "NewPolicy", "is of sb3-contrib (its policy is a NewPolicy)"),
        ("mine", "Mine", "needs no_such_library, which is neither in this folder nor installed"),
    ],
)
def test_what_is_not_installed_is_named_from_the_file_alone(module, name, said, capsys):
    assert said in refusal(contribs(Path("model.zip"), module, name), capsys)


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_other_algorithms_are_refused_by_name(algorithm):
    algorithm("MlpPolicy", Torques(), **OFF_POLICY).save("model.zip")
    with pytest.raises(UsageError, match=r"is of TD3 or DDPG \(its policy is a TD3Policy\). PPO, A2C, DQN and SAC are"):
        sb3.load(Path("model.zip"), trust=True)


def test_a2c_and_hindsight_are_taken():
    A2C("MlpPolicy", Discretes(), **ON_POLICY).save("a2c.zip")
    assert sb3.load(Path("a2c.zip"), trust=True).spec.score_kind == "logits"
    options = {**OFF_POLICY, "replay_buffer_class": HerReplayBuffer}
    SAC("MultiInputPolicy", Goals(), **options).save("her.zip")
    policy = sb3.load(Path("her.zip"), trust=True)
    assert [o.name for o in policy.spec.observations] == ["achieved_goal", "desired_goal", "observation"]


def test_a_file_of_something_else_is_refused(capsys):
    model = PPO("MlpPolicy", Discretes(), **ON_POLICY)
    model.policy.save("policy.zip")
    assert "is no file that model.save wrote" in refusal("policy.zip", capsys)
    Path("text.zip").write_text("no zip")
    assert "is no file that model.save wrote" in refusal("text.zip", capsys)
    with zipfile.ZipFile("data.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": 3}))
    with pytest.raises(WeightsError, match=r"no file that model\.save wrote"):
        saved_class(Path("data.zip"))


# Classes of their own. A class of this file is found by its name, as one in the user's folder is.


class Opposite(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        return (super()._predict(observation, deterministic) + 1) % 3


class Remembers(ActorCriticPolicy):
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return super().predict(observation, state, episode_start, deterministic)[0], (observation,)


class Doubled(ActorCriticPolicy):
    """Chooses as SB3 does, from other scores."""

    def get_distribution(self, obs):
        return super().get_distribution(2 * obs)


class TrainsDifferently(ActorCriticPolicy):
    def forward(self, obs, deterministic=False):
        return super().forward(obs * 0, deterministic)


class SetsItself(ActorCriticPolicy):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._predict = lambda observation, deterministic: torch.zeros(len(observation), dtype=torch.long)


class Dueling(QNetwork):
    def forward(self, obs):
        return super().forward(obs) * 2


class DuelingPolicy(DQNPolicy):
    def make_q_net(self):
        return Dueling(**self._update_features_extractor(self.net_args)).to(self.device)


@pytest.mark.parametrize(
    ("policy", "method"),
    [
        (Opposite, "Opposite._predict"),
        (Remembers, "Remembers.predict"),
        (Doubled, "Doubled.get_distribution"),
        (TrainsDifferently, "TrainsDifferently.forward"),
        (SetsItself, "SetsItself._predict"),
        (DuelingPolicy, "Dueling.forward"),
    ],
)
def test_a_policy_that_overrides_how_it_acts_is_refused_with_class_and_method(policy, method, capsys):
    if issubclass(policy, DQNPolicy):
        DQN(policy, Discretes(), **OFF_POLICY).save("model.zip")
    else:
        PPO(policy, Discretes(), **ON_POLICY).save("model.zip")
    said = refusal("model.zip", capsys)
    assert f"acts in a way of its own: {method} is not Stable-Baselines3's, and would be lost" in said


class DoubledNetwork(DQNPolicy):
    """Overrides nothing of SB3's, but a hook works only where SB3 calls the whole network. It chooses the same."""

    def make_q_net(self):
        network = super().make_q_net()
        network.register_forward_hook(lambda module, given, made: made * 2)
        return network


def test_what_the_methods_do_not_show_the_scores_do(capsys):
    DQN(DoubledNetwork, Discretes(), **OFF_POLICY).save("model.zip")
    assert "acts in a way of its own: its scores are up to" in refusal("model.zip", capsys)


class Noisy(ActorCriticPolicy):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pi_features_extractor.register_forward_hook(lambda module, given, made: made * torch.rand(()))


def test_noise_in_a_network_is_called_noise(capsys):
    PPO(Noisy, Discretes(), **ON_POLICY).save("model.zip")
    assert "it draws random numbers" in refusal("model.zip", capsys)


class HookedNetwork(DQNPolicy):
    def make_q_net(self):
        network = super().make_q_net()
        network.register_forward_hook(lambda module, given, made: made + (given[0][:, :1] > 1.5) * 3)
        return network


def test_recorded_observations_show_what_samples_do_not(capsys):
    """The space ends at 1, the recorded observations do not."""
    DQN(HookedNetwork, Discretes(), **OFF_POLICY).save("model.zip")
    sb3.load(Path("model.zip"), trust=True)
    assert "the library that trained it acts differently at step" in refusal("model.zip", capsys)


class Heads(nn.Module):
    """The network of SB3's own documentation: latent features of a kind of its own."""

    def __init__(self, size):
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 8
        self.policy_net, self.value_net = nn.Linear(size, 8), nn.Linear(size, 8)

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return torch.relu(self.policy_net(features))

    def forward_critic(self, features):
        return torch.relu(self.value_net(features))


class WithHeads(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Heads(self.features_dim)


def test_networks_of_ones_own_are_taken():
    model = PPO(WithHeads, Discretes(), n_steps=64, device="cpu")
    model.save("model.zip")
    policy = sb3.load(Path("model.zip"), trust=True)
    seen = torch.rand(5, 4)
    with torch.no_grad():
        scores = policy.deploy()(seen)[1]
        wanted = model.policy.get_distribution(seen).distribution.logits
    torch.testing.assert_close(scores.log_softmax(1), wanted)


OWN_NETWORK = """\
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

class Squares(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)

    def forward(self, x):
        return x * x
"""


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """A file whose features extractor lies in the current folder."""
    name = f"networks_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN_NETWORK)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        extractor = importlib.import_module(name).Squares
        options = {**ON_POLICY, "policy_kwargs": {"features_extractor_class": extractor}}
        PPO("MlpPolicy", Discretes(), **options).save("model.zip")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    del sys.modules[name]
    importlib.invalidate_caches()
    return tmp_path / f"{name}.py"


def test_a_features_extractor_in_the_users_folder_is_found(own_network):
    policy = sb3.load(Path("model.zip"), trust=True)
    assert type(policy.module.extractor).__name__ == "Squares"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "needs {name}, which is neither in this folder nor installed"),
        ("raise SystemExit(3)", "cannot load it: SystemExit: 3 ({name}.py:1"),
        ("def :", "cannot load it: SyntaxError: invalid syntax ({name}.py, line 1)"),
        ("import no_such_library", "needs no_such_library, which is neither"),
        ("", "its policy_kwargs cannot be read (Can't get attribute 'Squares'"),
    ],
)
def test_a_features_extractor_that_cannot_be_had_is_named(own_network, code, said, capsys):
    own_network.unlink() if code is None else own_network.write_text(code)
    assert said.format(name=own_network.stem) in refusal("model.zip", capsys)


def test_a_network_that_fails_is_blamed_with_its_line(own_network, capsys):
    own_network.write_text(OWN_NETWORK.replace("x * x", "x.view(3, 3, 3)"))
    said = refusal("model.zip", capsys)
    assert "it fails on samples of what it observes (RuntimeError: shape '[3, 3, 3]' is invalid" in said
    assert f"{own_network.name}:9, in forward" in said


def test_statistics_of_another_observation_are_refused():
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    PPO("MlpPolicy", Discretes(), **ON_POLICY).save("model.zip")
    VecNormalize(DummyVecEnv([Goals]), norm_obs_keys=["achieved_goal"]).save("normalize.pkl")
    with pytest.raises(UsageError, match=r"normalizes achieved_goal; model.zip sees observation. Is this file of"):
        sb3.load(Path("model.zip"), trust=True, vecnormalize=Path("normalize.pkl"))
