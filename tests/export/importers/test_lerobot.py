"""Policies of LeRobot: they act as LeRobot itself did, and what cannot be taken is refused in one line."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from export import Bundle, export
from export.importers import ImportOptions, lerobot
from export.importers._lerobot.act import ACT
from export.importers._lerobot.config import read_config
from export.onnx_graph import export_onnx
from export.targets import Place, onnx
from xfer.errors import FidelityError, UsageError, WeightsError
from xfer.models.torch_session import TorchSession
from xfer.runner import Runner
from xfer.spec import TensorSpec
from xfer.tasks import reach
from xfer.trajectories import load_trajectories

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data/lerobot"
HZ = 25.0
CLOSE = 1e-5


def module_of(path):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


drawn, recorder = module_of(DATA / "drawn.py"), module_of(ROOT / "examples/record_lerobot.py")


def edit(file, **changes):
    """Change fields of a JSON file; None of them takes one away."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def pretrained(case, folder, **changes):
    """Write a ``pretrained_model`` folder as LeRobot left it, its weights drawn again; return it."""
    shutil.copytree(DATA / case, folder, ignore=shutil.ignore_patterns("actions.safetensors"))
    edit(folder / "config.json", **changes)
    with torch.device("meta"):
        network = ACT(read_config(folder))
    shapes = {f"model.{name}": tuple(one.shape) for name, one in network.state_dict().items()}
    shapes["model.vae_encoder_cls_embed.weight"] = (1, 32)  # LeRobot's files have it, and inference has no use for it
    save_file({name: drawn.weight(name, shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def seen_by(case, observations):
    """Return what LeRobot saw, [60, 3, ...] by xfer's names."""
    features = read_config(DATA / case).input_features
    renamed = {"front": "observation.images.top"}  # by the preprocessor
    keys = {one.name: renamed.get(one.name) for one in observations}
    keys = {name: key or next(key for key in features if key.endswith(f".{name}")) for name, key in keys.items()}
    return {name: drawn.observation(case, key, features[key].shape) for name, key in keys.items()}


def recorded(case, spec, file, steps=80):
    """Write what robots saw, one after the other, and LeRobot's own actions; return the file."""
    arrays = {f"observations.{name}": array for name, array in seen_by(case, spec.observations).items()}
    arrays["actions"] = load_file(DATA / case / "actions.safetensors")["three"]
    arrays = {name: np.concatenate([array[:, 0], array[:, 1]])[:steps] for name, array in arrays.items()}
    at = np.arange(steps) % drawn.STEPS
    save_file({**arrays, "resets": (at == 0) | (at == drawn.RESET)}, file)
    return file


def acts_as_lerobot_did(case, runner):
    """Compare a runner of 1 or 3 rows with LeRobot's recorded actions."""
    wanted = load_file(DATA / case / "actions.safetensors")
    wanted = wanted["three"] if runner.batch == 3 else wanted["one"][:, None]
    seen = {name: array[:, : runner.batch] for name, array in seen_by(case, runner.spec.observations).items()}
    found = []
    for step in range(drawn.STEPS):
        if step in (0, drawn.RESET):
            runner.reset()
        found.append(runner.act({name: array[step] for name, array in seen.items()}).action)
    np.testing.assert_allclose(np.stack(found), wanted, rtol=0, atol=CLOSE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot")
    return {case: pretrained(case, folder / case) for case in ("cameras", "ensemble", "dilated")}


@pytest.fixture(scope="module")
def policies(folders):
    return {case: lerobot.load(folder, control_hz=HZ) for case, folder in folders.items()}


@pytest.fixture(scope="module")
def sessions(folders, policies, tmp_path_factory):
    """Two policies as ONNX; one in a bundle, of a recording with LeRobot's own actions, which the fidelity gate saw."""
    folder = tmp_path_factory.mktemp("graphs")
    file = recorded("ensemble", policies["ensemble"].spec, folder / "recorded.safetensors")
    importing = ImportOptions(importer="lerobot", control_hz=HZ, observations=file)
    made = export(folders["ensemble"], "onnx-fp32", folder / "policy.bundle", importing=importing)
    assert [(build.variant, build.status) for build, _ in made.builds] == [("onnx-fp32", "built")]
    spec = policies["cameras"].spec
    export_onnx(policies["cameras"].deploy(), folder / onnx.FILE)
    with Bundle(folder / "policy.bundle").session("onnx-fp32") as one, onnx.load(folder, spec, Place()) as other:
        yield {"ensemble": one, "cameras": other}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("case", ["cameras", "ensemble", "dilated"])
def test_eager_acts_as_lerobots_select_action_and_postprocessor_did(policies, case, rows):
    policy = policies[case]
    acts_as_lerobot_did(case, Runner(TorchSession(policy.deploy(), policy.spec), policy.spec, rows))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("case", ["cameras", "ensemble"])
def test_onnx_acts_as_lerobots_select_action_and_postprocessor_did(policies, sessions, case, rows):
    acts_as_lerobot_did(case, Runner(sessions[case], policies[case].spec, rows))


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A policy without cameras, and a recording of what it does; its folder and the recording."""
    config = read_config(DATA / "ensemble")
    inputs = {key: {"type": one.type, "shape": one.shape} for key, one in config.vectors.items()}
    changes = {"input_features": inputs, "temporal_ensemble_coeff": None, "n_action_steps": 4}
    folder = pretrained("ensemble", tmp_path_factory.mktemp("blind") / "policy", **changes)
    policy = lerobot.load(folder, control_hz=HZ)
    runner = Runner(TorchSession(policy.deploy(), policy.spec), policy.spec)
    seen = {name: array[:, 0] for name, array in seen_by("ensemble", policy.spec.observations).items()}
    seen = {name: np.concatenate([array, array[:10]]) for name, array in seen.items()}
    actions = [runner.act({name: array[t] for name, array in seen.items()}).action for t in range(70)]
    arrays = {f"observations.{name}": array for name, array in seen.items()}
    file = folder.parent / "recorded.safetensors"
    save_file({**arrays, "actions": np.stack(actions), "resets": np.arange(70) == 0}, file)
    return folder, file


def test_a_policy_without_cameras_is_exported(blind, tmp_path):
    importing = ImportOptions(importer="lerobot", control_hz=HZ, observations=blind[1])
    made = export(blind[0], "torchscript", tmp_path / "policy.bundle", importing=importing)
    assert [build.status for build, _ in made.builds] == ["built"]
    assert [one.name for one in Bundle(tmp_path / "policy.bundle").spec.observations] == ["state", "environment_state"]


def test_other_actions_in_the_recording_than_the_policys_are_refused(blind, tmp_path):
    arrays = load_file(blind[1])
    arrays["actions"][7] = arrays["actions"][3]  # of a plan of before
    save_file(arrays, tmp_path / "recorded.safetensors")
    importing = ImportOptions(importer="lerobot", control_hz=HZ, observations=tmp_path / "recorded.safetensors")
    with pytest.raises(FidelityError, match=r"the recorded actions are not the module's at step 7 of episode 1"):
        export(blind[0], "eager", tmp_path / "policy.bundle", importing=importing)


def test_the_contract_is_what_the_robot_gives_and_the_chunk(policies):
    spec = policies["cameras"].spec
    frames = [(one.name, one.dtype, one.shape, one.color_order) for one in spec.observations]
    assert frames == [
        ("front", "uint8", (48, 64, 3), "RGB"),
        ("wrist", "uint8", (32, 36, 3), "RGB"),
        ("state", "float32", (5,), ""),
    ]
    assert (spec.action.horizon, spec.action.execute, spec.action.ensemble, spec.action.low) == (8, 5, None, ())
    assert (spec.control_hz, spec.reward, spec.task) == (HZ, None, "")
    action = policies["ensemble"].spec.action
    assert (action.horizon, action.execute, action.ensemble) == (6, 1, 0.01)


def test_a_chunk_of_one_is_an_action(tmp_path):
    changes = {"chunk_size": 1, "temporal_ensemble_coeff": 0.01}
    policy = lerobot.load(pretrained("ensemble", tmp_path / "policy", **changes), control_hz=HZ)
    assert (policy.spec.action.horizon, policy.spec.action.ensemble) == (1, None)
    runner = Runner(TorchSession(policy.deploy(), policy.spec), policy.spec, 3)
    seen = {name: array[0] for name, array in seen_by("ensemble", policy.spec.observations).items()}
    assert runner.act(seen).action.shape == (3, 4)


def test_statistics_stay_exact_in_bf16(policies):
    policy = policies["cameras"]
    cast = policy.deploy("bf16")
    assert {one.dtype for one in cast.module.network.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for part in (cast.module.images, cast.module.action) for buffer in part.buffers()} == {
        torch.float32
    }
    seen = {name: array[0] for name, array in seen_by("cameras", policy.spec.observations).items()}
    one, other = (TorchSession(each, policy.spec).step(seen, {}).action for each in (policy.deploy(), cast))
    np.testing.assert_allclose(other, one, atol=0.05)


@pytest.mark.parametrize("below", ["", "last", "outputs"])
def test_a_checkpoint_or_the_output_of_a_training_is_taken_too(folders, tmp_path, below):
    last = tmp_path / "outputs/checkpoints/000100"
    last.mkdir(parents=True)
    (last / "pretrained_model").symlink_to(folders["cameras"])
    (last.parent / "last").symlink_to(last)
    given = {"": last / "pretrained_model", "last": last.parent / "last", "outputs": tmp_path / "outputs"}[below]
    assert lerobot.find(given).samefile(folders["cameras"])


@pytest.mark.parametrize(
    ("train_config", "rate"),
    [
        ({"env": {"fps": 10}, "dataset": {}}, 10.0),
        ({"env": None, "dataset": {"repo_id": "me/it", "root": "data"}}, 50.0),
    ],
)
def test_the_rate_is_that_of_the_training(tmp_path, monkeypatch, train_config, rate):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/meta").mkdir(parents=True)
    (tmp_path / "data/meta/info.json").write_text('{"fps": 50}')
    (tmp_path / "train_config.json").write_text(json.dumps(train_config))
    assert lerobot.trained_hz(tmp_path) == rate


def test_observations_are_the_tasks_own_by_name_or_shape():
    frame, joints = reach.TASK.observations
    found = lerobot.matched(
        (TensorSpec("state", "float32", (6,)), TensorSpec("frame", "uint8", (128, 128, 3))), reach.TASK
    )
    assert found == (joints, frame)
    with pytest.raises(UsageError, match=r"the policy sees top uint8 \[96, 96, 3\], which is none of them"):
        lerobot.matched((TensorSpec("top", "uint8", (96, 96, 3)),), reach.TASK)


@pytest.mark.parametrize(
    "keys",
    [
        ["observation.images.top", "observation.state"],
        ["observation.image", "observation.images.image", "observation.images.front-left"],
        ["observation.images.action", "observation.environment_state"],
    ],
)
def test_a_recording_has_the_importers_names(keys):
    assert recorder.short_names(keys) == lerobot.short_names(keys)
    assert len(set(lerobot.short_names(keys))) == len(keys)


def test_a_recording_is_read_as_it_was_written(tmp_path):
    rows = [
        {
            "resets": np.array(t == 0),
            "observations.top": np.full((2, 3, 3), t, np.uint8),
            "actions": np.float32([t, -t]),
        }
        for t in range(70)
    ]
    recording = recorder.Recording(tmp_path / "recorded.safetensors", 70, rows[0])
    for t, row in enumerate(rows):
        recording.write(t, row)
    found = load_trajectories(tmp_path / "recorded.safetensors")
    assert found.observations["top"][69].tolist() == rows[69]["observations.top"].tolist()
    assert found.actions[:, 0].tolist() == list(range(70))
    assert found.resets.sum() == 1


PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
STATISTICS = "policy_preprocessor_step_3_normalizer_processor.safetensors"


def step(folder, index, **changes):
    """Change a step of the preprocessor."""
    steps = json.loads((folder / PRE).read_text())["steps"]
    steps[index] |= changes
    edit(folder / PRE, steps=steps)


def configured(folder, index, **changes):
    config = json.loads((folder / PRE).read_text())["steps"][index]["config"]
    step(folder, index, config={**config, **changes})


def tensors(file, changes, drop=()):
    content = {name: array for name, array in load_file(file).items() if not name.endswith(drop or ("?",))}
    save_file({**content, **changes}, file)


def config(**changes):
    return lambda folder: edit(folder / "config.json", **changes)


FAULTS = {
    "no preprocessor": (lambda f: (f / PRE).unlink(), "policy_preprocessor.json is not there.*migrate_policy_norm"),
    "no postprocessor": (lambda f: (f / POST).unlink(), "policy_postprocessor.json is not there"),
    "no statistics": (lambda f: (f / STATISTICS).unlink(), "normalizer_processor.safetensors is not there"),
    "none of a camera": (
        lambda f: tensors(f / STATISTICS, {}, ("wrist.mean", "wrist.std")),
        "observation.images.wrist is normalized by MEAN_STD.*missing: no 'observation.images.wrist.mean'",
    ),
    "half of one": (lambda f: tensors(f / STATISTICS, {}, ("state.max",)), "missing: no 'observation.state.max'"),
    "a file not named": (lambda f: step(f, 3, state_file=None), "missing: no '.*' in any file"),
    "of other joints": (
        lambda f: tensors(f / STATISTICS, {"observation.state.min": np.zeros(6, np.float32)}),
        r"'observation.state.min' in .* has shape \[6\]; observation.state is \[5\]",
    ),
    "infinite ones": (
        lambda f: tensors(f / STATISTICS, {"observation.state.min": np.full(5, np.inf, np.float32)}),
        "'observation.state.min' in .* is not finite",
    ),
    "a feature left out": (lambda f: configured(f, 3, features={}), "normalizes no observation.images.top, and config"),
    "an unknown mode": (lambda f: configured(f, 3, norm_map={"VISUAL": "LOG"}), "normalized by LOG, which is none of"),
    "two names for one": (
        lambda f: configured(f, 0, rename_map={"a": "observation.state", "b": "observation.state"}),
        "its rename_map leaves no one name for observation.state",
    ),
    "half precision": (lambda f: configured(f, 2, float_dtype="float16"), "its device_processor casts to float16"),
    "an unknown step": (
        lambda f: step(f, 1, registry_name="tokenizer_processor"),
        "its step 'tokenizer_processor' is none of .*module:function",
    ),
    "somebody's step": (
        lambda f: edit(f / PRE, steps=[{"class": "mine.Step", "config": {}}]),
        "its step 'mine.Step' is none of",
    ),
    "no steps": (lambda f: edit(f / PRE, steps=None), "policy_preprocessor.json is not as LeRobot writes it"),
    "no JSON": (lambda f: (f / POST).write_text("{"), "policy_postprocessor.json is not as LeRobot writes it"),
    "diffusion": (config(type="diffusion"), "config.json: a policy of type 'diffusion' is not taken; act is"),
    "no type": (config(type=...), "a policy without a type is not taken"),
    "an adapter": (config(use_peft=True), "use_peft: the weights are an adapter's"),
    "a newer field": (config(n_registers=4), r"its field 'n_registers' \(4\) is none of LeRobot 0.6's ACT"),
    "a field of another type": (config(chunk_size="8"), r"Expected `int`, got `str` - at `\$.chunk_size`"),
    "two steps at once": (config(n_obs_steps=2), "n_obs_steps 2: ACT sees one step"),
    "too many steps": (config(n_action_steps=9), "n_action_steps 9 is more than chunk_size 8"),
    "steps to ensemble": (config(temporal_ensemble_coeff=0.1), "temporal_ensemble_coeff needs n_action_steps 1, not 5"),
    "another trunk": (config(vision_backbone="vgg16"), "vision_backbone 'vgg16' is none of resnet18"),
    "no dilation": (config(replace_final_stride_with_dilation=True), "torchvision dilates no resnet18"),
    "glu": (config(feedforward_activation="glu"), "feedforward_activation 'glu' is none of relu, gelu"),
    "heads": (config(n_heads=5), "dim_model 32 is no multiple of n_heads 5"),
    "no layers": (config(n_decoder_layers=0), "n_decoder_layers 0 must be 1 or more"),
    "nothing to see": (config(input_features={}), "has neither an image nor observation.environment_state"),
    "no action": (config(output_features={}), "output_features has no 'action' that is a vector"),
    "depth": (
        config(input_features={"observation.images.depth": {"type": "VISUAL", "shape": [1, 32, 32]}}),
        r"observation.images.depth has shape \[1, 32, 32\], not \[3, height, width\]",
    ),
    "no rate": (lambda f: None, "does not say at which rate the policy acts: --control-hz HZ"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_taken_is_refused_in_one_line(tmp_path, name):
    damage, said = FAULTS[name]
    shutil.copytree(DATA / "cameras", tmp_path / "policy")
    damage(tmp_path / "policy")
    with pytest.raises((UsageError, WeightsError), match=said) as caught:
        lerobot.load(tmp_path / "policy")
    assert "\n" not in str(caught.value)


WEIGHT = "model.action_head.weight"
OF_WEIGHTS = {
    "one missing": ({}, (WEIGHT,), f"lacks the weight {WEIGHT}"),
    "one left over": ({"model.other.weight": np.zeros(1, np.float32)}, (), "holds a weight model.other.weight, which"),
    "of other joints": (
        {WEIGHT: np.zeros((7, 32), np.float32)},
        (),
        rf"{WEIGHT} is \[7, 32\]; that of .* is \[4, 32\]",
    ),
    "statistics in them": (
        {"normalize_inputs.buffer_observation_state.mean": np.zeros(5, np.float32)},
        (),
        "holds statistics .normalize_inputs.buffer_observation_state.mean.*before 0.4.*migrate_policy_normalization",
    ),
}


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_weights_of_another_policy_are_refused_by_name(folders, tmp_path, name):
    changes, drop, said = OF_WEIGHTS[name]
    shutil.copytree(folders["cameras"], tmp_path / "policy")
    tensors(tmp_path / "policy/model.safetensors", changes, drop)
    with pytest.raises((UsageError, WeightsError), match=said):
        lerobot.load(tmp_path / "policy", control_hz=HZ)


def test_weights_that_are_cut_off_are_refused(folders, tmp_path):
    shutil.copytree(folders["cameras"], tmp_path / "policy")
    file = tmp_path / "policy/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model.safetensors is damaged"):
        lerobot.load(tmp_path / "policy", control_hz=HZ)


def test_what_is_no_policy_of_lerobots_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no policy of LeRobot: there is no config.json"):
        lerobot.load(tmp_path)
    with pytest.raises(WeightsError, match=r"lerobot/act_aloha is no folder here.*hf download lerobot/act_aloha"):
        lerobot.load(Path("lerobot/act_aloha"))


def test_images_of_another_size_are_refused_with_both_sizes(folders, policies, tmp_path):
    file = recorded("cameras", policies["cameras"].spec, tmp_path / "recorded.safetensors")
    arrays = load_file(file)
    save_file({**arrays, "observations.front": arrays["observations.front"][:, :32]}, file)
    importing = ImportOptions(importer="lerobot", control_hz=HZ, observations=file)
    with pytest.raises(
        UsageError, match=r"holds .*front: uint8 \[32, 64, 3\].*the policy sees front: uint8 \[48, 64, 3\]"
    ):
        export(folders["cameras"], "eager", tmp_path / "policy.bundle", importing=importing)
