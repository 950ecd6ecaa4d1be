"""What a hurried user sees: one clear line, and a non-zero exit."""

import json
import subprocess
import sys
import time

import pytest

from tests.conftest import make_policy
from xfer import cli
from xfer.errors import CheckFailed
from xfer.models.checkpoint import save_policy, weights_bytes
from xfer.training.run_config import RunConfig
from xfer.training.run_folder import RunFolder


def error(capsys, *words):
    """Run a command that must fail, and return its one line."""
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert status != 0
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def test_importing_the_three_packages_brings_in_no_heavy_library():
    code = (
        "import sys, xfer.cli, export, benchmarks;"
        "heavy = {'torch', 'onnxruntime', 'torchvision', 'gymnasium', 'matplotlib', 'scipy'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.timing
def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        answer = subprocess.run(
            [sys.executable, "-m", "xfer.cli", "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
    for command in cli.COMMANDS:
        assert command in answer.stdout
    assert "examples:" in answer.stdout


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--debug" in text
    assert f"xfer {command}" in text


def test_unknown_command(capsys):
    assert "Did you mean 'train'" in error(capsys, "trian")


def test_unknown_task(capsys):
    assert "Unknown task 'cartpol'. Did you mean 'cartpole'" in error(capsys, "train", "cartpol")


def test_unknown_target_and_precision(capsys, tmp_path):
    assert "Did you mean 'onnx'" in error(capsys, "export", tmp_path, "--targets", "onx")
    assert "Did you mean 'int8'" in error(capsys, "export", tmp_path, "--targets", "onnx-int88")


def test_unknown_layer(capsys, tmp_path):
    line = error(
        capsys, "train", "cartpole", "--weights", "none", "--train-from", "layer9", "--output", tmp_path / "run"
    )
    assert "Unknown layer for --train-from 'layer9'" in line
    assert not (tmp_path / "run").exists()


def test_missing_run(capsys, tmp_path):
    assert "is not a run" in error(capsys, "export", tmp_path / "nothing")


def test_missing_bundle(capsys, tmp_path):
    assert "is not a bundle" in error(capsys, "verify", tmp_path / "nothing")


def test_edited_manifest(capsys, bundle_path):
    manifest = bundle_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("cartpole", "cartpolo"))
    assert "was edited" in error(capsys, "run", bundle_path, "--variant", "onnx-fp32")


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ("{", "is not a manifest")])
def test_empty_or_broken_manifest(capsys, bundle_path, content, message):
    (bundle_path / "manifest.json").write_text(content)
    assert message in error(capsys, "bench", bundle_path)


def test_weights_of_another_architecture(capsys, tmp_path):
    import torch
    import torchvision

    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "resnet50.pt")
    line = error(capsys, "train", "cartpole", "--weights", tmp_path / "resnet50.pt", "--output", tmp_path / "run")
    assert "resnet50.pt is of another architecture than resnet18" in line
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_no_run(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not a run" in error(capsys, "train", "cartpole", "--weights", "none", "--output", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_output_that_is_not_a_run_is_refused_before_weights_are_looked_for(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    weights = tmp_path / "missing.pth"
    assert "is not a run" in error(capsys, "train", "cartpole", "--weights", weights, "--output", tmp_path)


def test_an_output_with_another_configuration(capsys, tmp_path):
    from tests.conftest import imitation_config

    policy = make_policy()
    RunFolder(tmp_path / "run").start(RunConfig("cartpole", "none", policy.config, imitation_config()))
    line = error(capsys, "train", "cartpole", "--weights", "none", "--output", tmp_path / "run")
    assert "another configuration" in line


def test_no_write_permission(capsys):
    assert "cannot be written to" in error(capsys, "train", "cartpole", "--weights", "none", "--output", "/proc/run")


def test_an_unfinished_run(capsys, tmp_path):
    from tests.conftest import imitation_config

    policy = make_policy()
    folder = RunFolder(tmp_path / "run")
    folder.start(RunConfig("cartpole", "none", policy.config, imitation_config()))
    save_policy(policy, folder.path)
    assert "is not finished" in error(capsys, "export", tmp_path / "run")


def test_a_run_whose_weights_are_another_policys(capsys, tmp_path):
    from tests.conftest import imitation_config
    from xfer.training.run_folder import RunResult

    policy = make_policy()
    folder = RunFolder(tmp_path / "run")
    folder.start(RunConfig("cartpole", "none", policy.config, imitation_config()))
    folder.finish(RunResult(1, 1.0, (9.0,)))
    save_policy(policy, folder.path)
    (folder.path / "policy.safetensors").write_bytes(weights_bytes(make_policy(tap="stem")))
    assert "is a checkpoint of another architecture" in error(capsys, "export", tmp_path / "run")


def test_debug_shows_the_traceback(tmp_path):
    from xfer.errors import BundleError

    with pytest.raises(BundleError):
        cli.main(["verify", str(tmp_path), "--debug"])


def test_doctor_lists_every_target_and_json_is_the_last_line(capsys):
    from export import targets

    assert cli.main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["target"] for row in answer["targets"]] == targets.names()
    assert answer["machine"]["cores"] >= 1


def test_run_drives_the_environment_and_writes_a_video(capsys, bundle_path, tmp_path):
    video = tmp_path / "out.gif"
    words = ["run", str(bundle_path), "--variant", "onnx-int8", "--episodes", "2", "--video", str(video), "--json"]
    assert cli.main(words) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert answer["episodes"] == len(answer["returns"]) == 2
    assert answer["action_p50_ms"] > 0
    assert video.read_bytes()[:3] == b"GIF"


def test_verify_keeps_records_and_prints_the_designs_keys(capsys, bundle_path):
    from export import Bundle
    from export.bundle import records

    words = ["verify", str(bundle_path), "--variants", "onnx-fp32,eager-fp32", "--pairs", "10", "--workers", "1"]
    assert cli.main([*words, "--json"]) == 0
    output = capsys.readouterr().out
    assert "golden alone" in output
    rows = {row["variant"]: row for row in json.loads(output.strip().splitlines()[-1])["variants"]}
    assert rows["onnx-fp32"]["status"] == "provisional"
    assert rows["onnx-fp32"]["rung"] == "reward"
    assert rows["onnx-fp32"]["pairs"] == 10
    assert rows["onnx-fp32"]["pairs_needed"] > 100
    assert rows["eager-fp32"]["status"] == "verified"
    assert records.load(Bundle(bundle_path))["onnx-fp32"].verification.pairs == 10


def test_a_negative_number_of_pairs(capsys):
    assert "neither may be negative" in error(capsys, "verify", "any.bundle", "--pairs", "-1")


def test_a_check_that_failed_exits_non_zero_says_why_and_prints_its_object_all_the_same(monkeypatch, capsys):
    from export.commands import verify

    def fail(args):
        raise CheckFailed("The self-test failed: red and blue swapped.", {"passed": False})

    monkeypatch.setattr(verify, "main", fail)
    assert cli.main(["verify", "any.bundle", "--self-test", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == {"passed": False}
    assert captured.err.splitlines() == ["xfer: The self-test failed: red and blue swapped."]


def test_an_interrupt_that_python_ignores_comes_again():
    """In a destructor or a weak reference's callback, as h5py has many, an exception goes no further."""
    code = """
import signal, sys, time
from xfer import cli
class Busy:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
def run(command, words):
    Busy()
    for _ in range(2000):
        time.sleep(0.01)
    return 0
cli.run = run
sys.exit(cli.main(["doctor"]))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 130
    assert answer.stderr == "xfer: interrupted; nothing was left half-written\n"
