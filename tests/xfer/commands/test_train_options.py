"""The options of `xfer train`: where their values come from, what `--help` says of them, and which are refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import xfer
from tests.conftest import imitation_config, make_policy
from tests.xfer.training import toys
from xfer import ImitationConfig, PolicyConfig, PPOConfig, cli, tasks, train
from xfer.commands.train import Args, parse
from xfer.errors import RunError, UsageError
from xfer.files import to_json
from xfer.models.checkpoint import load_description
from xfer.training.config import ImitationOptions, PPOOptions, RunOptions, TrainingConfig
from xfer.training.run_config import RunConfig, load_config
from xfer.training.run_folder import RunFolder

SIGNS = "tests.xfer.training.toys:signs"
GOLDEN_HELP = Path(__file__).parent / "train_help.txt"
REFRESH = f"COLUMNS=80 xfer train --help > {GOLDEN_HELP.relative_to(Path(__file__).parents[3])}"
QUIET = Console(quiet=True)


def run(*words, columns="80"):
    command = [sys.executable, "-m", "xfer.cli", "train", *words]
    environment = {**os.environ, "COLUMNS": columns}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def refused(capsys, *words):
    """Return the one line with which a command line is refused."""
    assert cli.main(["train", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_help_is_as_it_was():
    assert run("--help").stdout == GOLDEN_HELP.read_text(), f"if it should differ: {REFRESH}"


@pytest.mark.parametrize("words", [[], ["driving"], ["navigation:empty", "--algorithm", "ppo"]])
def test_help_fits_80_columns_and_shows_real_defaults(words):
    if "navigation:empty" in words:
        pytest.importorskip("minigrid")
    if "driving" in words:
        pytest.importorskip("Box2D")
    text = run(*words, "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "{None}" not in text
    assert "None" not in text


def test_help_says_which_values_differ_between_the_algorithms():
    text = " ".join(run("--help").stdout.replace("│", "").split())
    for name in ("environments", "learning_rate"):
        ours, theirs = getattr(ImitationConfig(), name), getattr(PPOConfig(), name)
        part = re.search(rf"--{name.replace('_', '-')} (INT|FLOAT) .*?\(default: \S+\)", text)[0]
        assert f"(PPO: {theirs:g})" in part
        assert f"(default: {ours})" in part
    same = {f.name for f in dataclasses.fields(TrainingConfig)} - {"environments", "learning_rate"}
    assert all(getattr(ImitationConfig(), name) == getattr(PPOConfig(), name) for name in same)


def test_help_of_a_task_shows_the_defaults_that_it_brings():
    pytest.importorskip("minigrid")
    text = " ".join(run("navigation:empty", "--algorithm", "ppo", "--help").stdout.replace("│", "").split())
    assert "Defaults that navigation:empty brings: --tap layer1" in text
    assert re.search(r"--learning-rate FLOAT .*?\(default: 0.0001\)", text)
    assert re.search(r"--total-frames INT .*?\(default: 150000\)", text)
    assert re.search(r"--clip-coef FLOAT .*?\(default: 0.2\)", text)


def test_help_imports_no_torch():
    code = (
        "import contextlib, sys; from xfer import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['train', *sys.argv[1:], '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    for words in ([], ["cartpole"]):
        answer = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=False)
        assert answer.returncode == 0
        assert "--learning-rate" in answer.stdout


def test_no_flag_means_two_options():
    groups = (Args, RunOptions, PolicyConfig, TrainingConfig, ImitationOptions, PPOOptions)
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    assert len(names) == len(set(names))


def test_what_is_given_comes_before_what_the_task_brings_and_that_before_the_defaults():
    pytest.importorskip("minigrid")
    assert parse(["navigation:empty"]).imitation.loss == "cross-entropy"
    assert parse(["--loss", "mse", "navigation:empty"]).imitation.loss == "mse"
    assert parse(["cartpole"]).imitation.loss == "mse"
    assert parse(["cartpole"]).training.environments == 2
    assert parse(["cartpole", "--algorithm", "ppo"]).training.environments == 8
    assert parse(["navigation:empty", "--algorithm", "ppo"]).training.rounds == 30
    assert parse(["navigation:empty", "--algorithm", "ppo"]).policy.head == "flatten"
    assert parse([SIGNS]).ppo == PPOOptions()


def test_flags_take_the_values_that_they_took():
    args = parse(
        ["cartpole", "--algorithm", "ppo", "--anneal-lr", "False", "--compile", "True", "--hidden", "64", "32"]
    )
    assert (args.ppo.anneal_lr, args.training.compile, args.policy.hidden) == (False, True, (64, 32))


def written(folder, **changes):
    config = RunConfig("cartpole", "none", make_policy(tap="stem").config, imitation_config(**changes))
    RunFolder(folder).start(config)
    return str(folder / "config.json")


def test_a_file_gives_what_is_not_given(tmp_path):
    file = written(tmp_path / "run", frames=123, seed=7)
    args = parse(["--config", file, "--seed", "3"])
    assert (args.task, args.run.weights, args.policy.tap) == ("cartpole", "none", "stem")
    assert (args.imitation.frames, args.training.seed) == (123, 3)
    assert args.policy.image == tasks.load("cartpole").image
    again = parse(["cartpole", "--config", file, "--algorithm", "ppo"])
    assert (again.policy.tap, again.ppo, again.training.environments) == ("stem", PPOOptions(), 8)


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text("[1, 2]")
    assert cli.main(["train", "--config", str(tmp_path / "config.json")]) == 1
    assert "config.json cannot be read" in capsys.readouterr().err
    assert cli.main(["train", "--config", "nope.json"]) == 2
    assert "--config nope.json: there is no such file" in capsys.readouterr().err


def test_the_configuration_is_written_with_library_versions(tmp_path):
    written(tmp_path / "run")
    found = RunFolder(tmp_path / "run").config().libraries
    assert found["xfer"] == xfer.__version__
    assert {"torch", "torchvision", "gymnasium", "numpy"} <= found.keys()


def test_another_library_version_does_not_keep_a_run_from_being_continued(tmp_path):
    file = Path(written(tmp_path / "run"))
    data = json.loads(file.read_text())
    data["libraries"]["torch"] = "1.0"
    file.write_text(json.dumps(data))
    folder = RunFolder(tmp_path / "run")
    folder.start(dataclasses.replace(folder.config(), libraries={}))
    assert folder.changed_libraries().startswith("torch 1.0 then, ")


V020 = {
    "task": "cartpole",
    "weights": "none",
    "policy": {
        "backbone": "resnet18",
        "tap": "stem",
        "head": "flatten",
        "keypoints": 8,
        "image": {"crop": [160, 320, 0, 600], "shrink": 4, "gray": True, "frames": 3, "frame_step": 2},
        "hidden": [],
        "memory": 0,
    },
    "imitation": None,
    "ppo": None,
    "demonstrations": None,
    "processes": 1,
}
"""What version 0.2.0 wrote, where it differs from what is written now."""


def test_configurations_of_0_2_0_are_read(tmp_path):
    file = tmp_path / "config.json"
    ppo = {**dataclasses.asdict(PPOConfig()), "compile": "max-autotune"}
    del ppo["compile_mode"]
    file.write_text(json.dumps({**V020, "ppo": ppo}))
    found = load_config(file)
    assert (found.ppo.compile, found.ppo.compile_mode) == (True, "max-autotune")
    assert found.policy.memory_units == 0
    file.write_text(json.dumps({**V020, "ppo": {**ppo, "compile": "off"}}))
    assert load_config(file).ppo == PPOConfig().resolved("cpu")
    imitation = {**dataclasses.asdict(imitation_config()), "compile": False}
    file.write_text(json.dumps({**V020, "policy": {**V020["policy"], "memory": 16}, "imitation": imitation}))
    found = load_config(file)
    assert (found.policy.memory, found.policy.memory_units) == ("gru", 16)
    RunFolder(tmp_path).start(found)  # which refuses another configuration


def test_policies_of_0_2_0_are_read(tmp_path):
    policy = make_policy(tap="stem")
    (tmp_path / "policy.json").write_bytes(to_json({"config": V020["policy"], "spec": policy.spec}))
    assert load_description(tmp_path).config == policy.config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cartpole --total-frames 5", "--total-frames is no option of --algorithm imitation."),
        ("cartpole --algorithm ppo --loss cross-entropy", "--loss is no option of --algorithm ppo."),
        (f"{SIGNS} --algorithm imitation", "has no expert to imitate. Use --algorithm ppo"),
        ("cartpole --algorithm ppo --memory gru", "--algorithm ppo does not train --memory gru"),
        (
            "cartpole --algorithm ppo --horizon 4",
            "--algorithm ppo does not train --horizon 4. Use --algorithm imitation",
        ),
        ("cartpole --horizon 2 --execute 3", "--execute 3 is more than --horizon 2"),
        ("cartpole --execute 2", "--execute 2 is more than --horizon 1"),
        ("cartpole --horizon 0", "--horizon must be at least 1, not 0"),
        ("cartpole --horizon 4 --execute 2 --memory gru", "--memory gru goes on at each step, so it needs --execute 1"),
        ("cartpole --memory-size 32", "--memory-size is an option of --memory gru."),
        ("cartpole --unroll 8", "--unroll is an option of --memory gru."),
        ("cartpole --memory gru --unroll 65", "--unroll 65 needs --batch-size 65"),
        ("cartpole --until-success 0.9", "cartpole does not say what success is"),
        ("cartpole --until-success 1.5", "--until-success must be between 0 and 1, not 1.5."),
        ("cartpole --rounds 0", "--rounds must be at least 1, not 0."),
        ("cartpole --frames 1", "--frames must be at least 2, not 1."),
        ("cartpole --frames 3 --environments 4", "--frames 3 are too few for --environments 4."),
        ("cartpole --environments -2", "--environments must be at least 1, not -2."),
        ("cartpole --batch-size 1", "--batch-size must be at least 2, not 1."),
        ("cartpole --hidden 64 0", "--hidden must be at least 1, not 0."),
        ("cartpole --keypoints 0", "--keypoints must be at least 1"),
        ("cartpole --keypoints -1", "--keypoints must be at least 0, not -1."),
        ("cartpole --seed -1", "--seed must be between 0 and"),
        ("cartpole --seed 99999999999999999999", "--seed must be between 0 and"),
        ("cartpole --learning-rate nan", "--learning-rate must be at least 0, not nan."),
        ("cartpole --learning-rate inf", "--learning-rate must be at least 0, not inf."),
        ("cartpole --learning-rate -0.1", "--learning-rate must be at least 0, not -0.1."),
        ("cartpole --eval-episodes 0", "--eval-episodes must be at least 1, not 0."),
        ("cartpole --memory-gib 0", "--memory-gib must be greater than 0, not 0.0."),
        ("cartpole --device tpu", "Unknown device 'tpu'. Did you mean 'cpu'? Choose from: auto, cpu, cuda."),
        ("cartpole --device cuda:7", "use --device cuda, with CUDA_VISIBLE_DEVICES=7 set."),
        ("cartpole --amp fp16 --device cpu", "--amp fp16 needs CUDA"),
        ("cartpole --algorithm ppo --gamma 1.5", "--gamma must be between 0 and 1, not 1.5."),
        ("cartpole --algorithm ppo --max-grad-norm 0", "--max-grad-norm must be greater than 0, not 0.0."),
        ("cartpole --algorithm ppo --num-minibatches 1024", "--num-minibatches 1024 makes minibatches of one frame."),
        ("cartpole --algorithm ppo --num-minibatches 7", "do not divide into --num-minibatches 7"),
        ("--weights none", "Which task? xfer train TASK"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words.split())
    assert not [*tmp_path.iterdir()]


def test_cuda_where_there_is_none_is_refused(capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch sees no CUDA GPU here. Use --device cpu." in refused(capsys, "cartpole", "--device", "cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imitation": ImitationConfig(frames=1)}, "--frames must be at least 2"),
        ({"imitation": ImitationConfig(loss="mae")}, "Unknown value of --loss 'mae'. Did you mean 'mse'?"),
        ({"imitation": ImitationConfig(), "algorithm": "ppo"}, "The configuration is for imitation"),
        ({"imitation": ImitationConfig(), "ppo": PPOConfig()}, "not both"),
        ({"ppo": PPOConfig(seed=-1)}, "--seed must be between"),
        ({"policy": PolicyConfig(hidden=(0,))}, "--hidden must be at least 1"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"gamma": 0.9}, "--gamma is no option of --algorithm imitation"),
        ({"learnin_rate": 0.9}, "Unknown option 'learnin_rate'. Did you mean 'learning_rate'?"),
    ],
)
def test_python_users_are_refused_the_same(options, message, tmp_path):
    with pytest.raises(UsageError, match=re.escape(message)):
        train("cartpole", weights="none", output=tmp_path / "run", console=QUIET, **options)
    assert not (tmp_path / "run").exists()


def test_a_policy_without_an_image_says_where_one_comes_from():
    from xfer.models.contract import make_spec
    from xfer.models.policy import Policy

    task = tasks.load("cartpole")
    with pytest.raises(UsageError, match=r"PolicyConfig.for_task\(task\)"):
        Policy(PolicyConfig(), make_spec(task, task.image, "values"))


def test_the_function_and_the_command_train_the_same(one_thread, tmp_path, monkeypatch):
    loads = []
    load = tasks.load
    monkeypatch.setattr(tasks, "load", lambda name: loads.append(name) or load(name))
    words = ["--weights", "none", "--tap", "stem", "--train-from", "all", "--rounds", "1", "--eval-episodes", "2"]
    words += ["--total-frames", "192", "--environments", "2", "--rollout-steps", "16", "--device", "cpu"]
    assert cli.main(["train", SIGNS, *words, "--output", str(tmp_path / "command")]) == 0
    assert loads == [SIGNS]
    task = dataclasses.replace(toys.signs(), name=SIGNS)
    config = PPOConfig(train_from="all", rounds=1, total_frames=192, environments=2, rollout_steps=16)
    result = train(
        task,
        policy=PolicyConfig(tap="stem"),
        ppo=config,
        weights="none",
        eval_episodes=2,
        device="cpu",
        output=tmp_path / "function",
        console=QUIET,
    )
    assert loads == [SIGNS]
    assert len(result.returns) == 2
    assert result.frames == 192
    one, other = (RunFolder(tmp_path / name) for name in ("command", "function"))
    assert result.path == other.path
    assert one.config() == other.config()
    assert (one.path / "policy.safetensors").read_bytes() == (other.path / "policy.safetensors").read_bytes()
    with pytest.raises(RunError, match="seed is 0 there, 1 here"):
        train(task, ppo=config, policy=PolicyConfig(tap="stem"), weights="none", seed=1, output=other.path)
