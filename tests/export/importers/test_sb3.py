"""Policies that Stable-Baselines3 trained, saved and loads act the same from a bundle."""

import functools
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import tests.export.importers.sb3_environments as environments
from export import Bundle
from export.commands import export, verify
from export.importers import ImportOptions, sb3
from xfer.errors import UsageError, WeightsError

HERE = environments.__name__
OBSERVATIONS = 500


@dataclass(frozen=True)
class Case:
    """How a policy is trained. ``order`` names the wrappers, the innermost first."""

    algorithm: str
    policy: str
    environment: str
    order: tuple[str, ...] = ()
    steps: int = 256
    options: dict = field(default_factory=dict)

    @property
    def task(self) -> str:
        own = self.environment.startswith("Dot")
        return f"env:{HERE}:{self.environment}" if own else f"env:{self.environment}"


PPO = {"n_steps": 64, "batch_size": 64, "n_epochs": 2}
OFF_POLICY = {"learning_starts": 50, "buffer_size": 500, "batch_size": 32}
EVERY_STEP = {**OFF_POLICY, "train_freq": 1, "learning_rate": 2e-3}
CASES = {
    "mlp": Case("PPO", "MlpPolicy", "CartPole-v1", options=PPO),
    "cnn with frame stack": Case("DQN", "CnnPolicy", "Dot-v0", ("stack",), 300, EVERY_STEP),
    "continuous": Case("SAC", "MlpPolicy", "Pendulum-v1", ("normalize",), 120, OFF_POLICY),
    "dict with VecNormalize": Case("PPO", "MultiInputPolicy", "DotAndJoints-v0", ("normalize", "stack"), options=PPO),
    "two cameras of unlike sizes": Case(
        "PPO", "MultiInputPolicy", "DotAndCameras-v0", ("normalize", "stack"), options=PPO
    ),
    "stacked, then normalized": Case("PPO", "MlpPolicy", "Pendulum-v1", ("stack", "normalize"), options=PPO),
}
STACK = 3


class Seen(gymnasium.Wrapper):
    """Keeps what the environment gave last, as a camera and sensors would."""

    def reset(self, **options):
        self.last, info = self.env.reset(**options)
        return self.last, info

    def step(self, action):
        self.last, *rest = self.env.step(action)
        return (self.last, *rest)


@dataclass
class Trained:
    """A model with its environment, and the files that its author would hand out."""

    model: stable_baselines3.common.base_class.BaseAlgorithm
    venv: stable_baselines3.common.vec_env.VecEnv
    env: Seen
    file: Path
    options: dict


@functools.cache
def trained(name: str, folder: Path) -> Trained:
    case = CASES[name]
    torch.manual_seed(0)
    env = Seen(gymnasium.make(case.environment))
    venv = DummyVecEnv([lambda: env])
    options = {"task": case.task, "trust": True, "importer": "sb3"}
    for wrapper in case.order:
        if wrapper == "stack":
            venv = VecFrameStack(venv, STACK)
            options["frame_stack"] = STACK
        else:
            keys = ["joints"] if isinstance(venv.observation_space, gymnasium.spaces.Dict) else None
            venv = VecNormalize(venv, norm_obs_keys=keys, clip_obs=3.0)
            options["vecnormalize"] = folder / f"{name}.pkl"
    model = getattr(stable_baselines3, case.algorithm)(case.policy, venv, seed=0, device="cpu", **case.options)
    model.learn(case.steps)
    file = folder / f"{name}.zip"
    model.save(file)
    layer = model.get_vec_normalize_env()
    if layer is not None:
        layer.save(str(options["vecnormalize"]))
        layer.training = False
    return Trained(model, model.get_env(), env, file, options)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sb3")


@pytest.fixture(autouse=True)
def _own_task(monkeypatch, one_thread):
    monkeypatch.setenv("XFER_TASK", "")  # put back afterwards


def args(source, *, output=None, targets="eager", **importing) -> export.Args:
    importing = ImportOptions(**importing)
    return export.Args(source=str(source), output=output, targets=targets, importing=importing)


def raw(env: Seen, bundle: Bundle) -> dict[str, np.ndarray]:
    given = env.last if isinstance(env.last, dict) else {"observation": env.last}
    return {o.name: np.asarray(given[o.name], o.dtype) for o in bundle.spec.observations}


@pytest.mark.parametrize("name", CASES)
def test_onnx_acts_as_predict_does_from_raw_observations(name, folder, tmp_path):
    own = trained(name, folder)
    output = tmp_path / "sb3.bundle"
    done = export.main(args(own.file, output=output, targets="eager,onnx-fp32", **own.options))
    assert [row["status"] for row in done["variants"]] == ["built", "built"], done
    bundle = Bundle(output)
    rng, shown, differences, choices = np.random.default_rng(0), own.venv.reset(), [], []
    span = np.subtract(bundle.spec.action.high, bundle.spec.action.low) if bundle.spec.action.high else 1
    with bundle.runner("onnx-fp32") as runner:
        for _ in range(OBSERVATIONS):
            wanted = own.model.predict(shown, deterministic=True)[0][0]
            action = runner.act(raw(own.env, bundle)).action
            differences.append(np.abs((action - wanted) / span).max())
            choices.append(wanted)
            step = wanted if rng.random() < 0.5 else own.model.action_space.sample()
            shown, _, dones, _ = own.venv.step([step])
            if dones[0]:
                runner.reset()
    assert max(differences) <= (0 if bundle.spec.action.kind == "discrete" else 1e-4)
    assert np.std(choices) > 0, "a policy that always does the same shows nothing"


def test_several_images_of_a_dict_keep_their_names_sizes_and_histories(folder):
    own = trained("two cameras of unlike sizes", folder)
    options = {name: value for name, value in own.options.items() if name != "importer"}
    policy = sb3.load(own.file, **options)
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in policy.spec.inputs} == {
        "front": ("uint8", (36, 36, 1)),
        "joints": ("float32", (4,)),
        "wrist": ("uint8", (40, 48, 3)),
        "front_history": ("float32", (STACK - 1, 36, 36)),
        "joints_history": ("float32", (4 * (STACK - 1),)),
        "wrist_history": ("float32", (3 * (STACK - 1), 40, 48)),
    }
    shown = {t.name: torch.from_numpy(t.zeros(1)) for t in policy.spec.inputs}
    scores = policy.deploy()(*shown.values())[1]
    for camera in ("front", "wrist"):
        other = {**shown, camera: shown[camera] + 255}
        assert (policy.deploy()(*other.values())[1] - scores).abs().max() > 1e-6, camera


def test_an_sb3_policy_is_verified_on_episodes_of_its_own_environment(folder, tmp_path):
    own = trained("mlp", folder)
    output = tmp_path / "cart.bundle"
    arguments = {"source": own.file, "output": output, "targets": "eager,onnx", **own.options}
    exported = {row["variant"]: row for row in export.main(args(**arguments))["variants"]}
    assert exported["onnx-int8"]["status"] == "built", "its dense layers but for the last"
    rows = {row["variant"]: row for row in verify.main(verify.Args(bundle=output, pairs=3, workers=1))["variants"]}
    assert (rows["onnx-fp32"]["status"], rows["onnx-fp32"]["rung"]) == ("provisional", "reward"), rows
    assert rows["onnx-fp32"]["observations"] == 1000, "held-out observations lie beside the bundle"
    scale = Bundle(output).spec.reward
    assert scale.reference_return > scale.random_return
    again = export.main(args(**arguments))["variants"]
    assert {row["variant"]: row["cached"] for row in again}["onnx-fp32"]


def test_a_convolutional_network_is_quantized(folder, tmp_path):
    import onnx

    own = trained("cnn with frame stack", folder)
    output = tmp_path / "sb3.bundle"
    done = export.main(args(own.file, output=output, targets="eager,onnx-int8", **own.options))
    assert [row["status"] for row in done["variants"]] == ["built", "built"], done
    bundle = Bundle(output)
    graph = onnx.load(bundle.check(bundle.build("onnx-int8")) / "policy.onnx").graph
    weights = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4}
    assert len(weights) == sum(node.op_type == "Conv" for node in graph.node) == 3
    rows = {row["variant"]: row for row in verify.main(verify.Args(bundle=output, pairs=0))["variants"]}
    assert (rows["onnx-int8"]["status"], rows["onnx-int8"]["rung"]) == ("provisional", "actions"), rows


def test_pickles_of_strangers_are_not_opened(tmp_path):
    class Planted:
        def __reduce__(self):
            return sys.exit, ("ran",)

    file = tmp_path / "model.zip"
    file.write_bytes(pickle.dumps(Planted()))
    with pytest.raises(UsageError, match=r"model.zip holds pickles, and loading a pickle runs .* say so: --trust"):
        export.main(args(file, importer="sb3"))
    with pytest.raises(WeightsError, match="cannot load it"):
        export.main(args(file, importer="sb3", trust=True))


def test_a_file_that_does_not_say_what_wrote_it_is_refused(tmp_path):
    file = tmp_path / "model.zip"
    file.write_bytes(b"")
    with pytest.raises(UsageError, match="say what wrote it, as in --from sb3"):
        export.main(args(file))
    with pytest.raises(UsageError, match="--frame-stack needs --from sb3"):
        export.main(args(file, frame_stack=4))


def test_a_forgotten_frame_stack_is_named(folder):
    own = trained("cnn with frame stack", folder)
    with pytest.raises(UsageError, match=rf"gives observation \[36, 36, 1\]; .* Was that --frame-stack {STACK}\?"):
        sb3.load(own.file, trust=True, task=own.options["task"])
    with pytest.raises(UsageError, match="no stack of 2"):
        sb3.load(own.file, trust=True, frame_stack=2)


def test_without_an_environment_a_camera_gives_its_channels_last(folder):
    own = trained("cnn with frame stack", folder)
    spec = sb3.load(own.file, trust=True, frame_stack=STACK, control_hz=20.0).spec
    assert spec.observations[0].shape == (36, 36, 1)
    assert [(state.name, state.shape) for state in spec.states] == [("history", (STACK - 1, 36, 36))]
    assert (spec.task, spec.control_hz, spec.score_kind) == ("", 20.0, "values")


def test_statistics_of_another_model_are_refused(folder):
    own, other = trained("mlp", folder), trained("continuous", folder)
    with pytest.raises(UsageError, match="Is this file of another model"):
        sb3.load(own.file, trust=True, vecnormalize=other.options["vecnormalize"])


def test_half_precision_leaves_normalization_exact(folder):
    own = trained("dict with VecNormalize", folder)
    options = {name: value for name, value in own.options.items() if name != "importer"}
    policy = sb3.load(own.file, **options)
    inputs = {tensor.name: torch.from_numpy(tensor.zeros(1)) for tensor in policy.spec.inputs}
    inputs["joints"] += torch.tensor([[500.03, 480.0, 0.1, -0.2]])
    full, half = (policy.deploy(precision)(*inputs.values())[1] for precision in ("fp32", "fp16"))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=2e-3, rtol=0)
