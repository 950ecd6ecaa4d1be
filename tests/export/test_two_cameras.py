"""A run with two cameras, from training to a verdict."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from export import Bundle
from export.commands import export as export_command
from export.commands import run as run_command
from export.commands import verify as verify_command
from export.importers import ImportOptions
from export.verification import pairs
from export.verification.fault_injection import inject
from export.verification.fault_injection.faults import FAULTS
from tests import small_task, two_cameras
from xfer import tasks, train
from xfer.training import record, rounds
from xfer.training.run_folder import RunFolder

VARIANTS = ["eager-fp32", "torchscript-fp32", "onnx-fp32", "onnx-int8"]
NETWORK = {"tap": "stem", "head": "flatten", "hidden": (), "weights": "none", "device": "cpu"}
HOW = {"rounds": 1, "frames": 400, "steps": 60, "environments": 4, "eval_episodes": 4, "train_from": "head"}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "two"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "RECORDED", small_task.FEW)
        patch.setenv("XFER_TASK", "tests.two_cameras:task")
        train("tests.two_cameras:task", **NETWORK, **HOW, output=path, console=QUIET)
    return path


@pytest.fixture(scope="module")
def bundle(run):
    path = run.with_name("two.bundle")
    importing, wanted = ImportOptions(), "eager,torchscript,onnx-fp32,onnx-int8"
    done = export_command.main(export_command.Args(source=str(run), output=path, targets=wanted, importing=importing))
    assert {row["variant"]: row["status"] for row in done["variants"]} == dict.fromkeys(VARIANTS, "built"), done
    return Bundle(path)


def test_a_run_keeps_what_both_cameras_saw(run):
    kept = RunFolder(run).observations("held-out").observations
    assert {name: array.shape[1:] for name, array in kept.items()} == {"cart": (32, 32, 3), "pole": (32, 32, 3)}


def test_its_variants_pass_every_gate(bundle):
    args = verify_command.Args(bundle=bundle.path, pairs=3, workers=1, task="tests.two_cameras:task")
    found = {row["variant"]: row for row in verify_command.main(args)["variants"]}
    reached = {name: (row["status"], row["rung"]) for name, row in found.items()}
    assert reached.pop("eager-fp32")[0] == "verified"
    assert reached == dict.fromkeys(VARIANTS[1:], ("provisional", "reward")), found


@pytest.mark.parametrize("name", ["cameras swapped", "camera ignored", "history one step late"])
def test_a_fault_in_one_camera_is_caught(bundle, run, name):
    held_out = RunFolder(run).observations("held-out")
    faults = [fault for fault in FAULTS if fault.name == name]
    found = inject.inject_faults(bundle, held_out=held_out, pairs=0, faults=faults)
    assert found.findings[0].tested
    assert found.findings[0].caught_by == "numbers", found.findings
    assert not found.rejected


def test_faults_of_a_second_camera_are_not_tested_where_there_is_none(shared_bundle):
    two = [fault for fault in FAULTS if fault.name in ("cameras swapped", "camera ignored")]
    missing = [inject.not_injectable(Bundle(shared_bundle), fault) for fault in two]
    assert missing == [
        "the bundle has no second camera with frames of the same size",
        "the bundle has no second camera",
    ]


def test_a_video_and_a_divergence_show_the_cameras_side_by_side(bundle, tmp_path):
    video = tmp_path / "two.gif"
    args = run_command.Args(
        bundle=bundle.path, variant="onnx-fp32", episodes=1, video=video, task="tests.two_cameras:task"
    )
    run_command.main(args)
    with Image.open(video) as shown:
        assert shown.size == (64, 32)
    rng = np.random.default_rng(0)
    seen = {name: rng.integers(0, 256, (32, 32, 3), np.uint8) for name in ("cart", "pole")}
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pairs.picture(seen, bundle.spec)))))
    np.testing.assert_array_equal(shown, np.hstack([seen["cart"], seen["pole"]]))


def test_int8_quantizes_the_trunk_and_nothing_else(bundle):
    import onnx

    graph = onnx.load(bundle.check(bundle.build("onnx-int8")) / "policy.onnx").graph
    weights = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(weights) == 1  # one trunk, of one stage
    assert len(convolutions) == 3  # and a preprocessing for each camera
    assert [i.name for i in graph.input] == ["cart", "pole", "cart_history", "pole_history"]


@pytest.mark.parametrize("trunks", ["shared", "each"])
def test_ppo_and_demonstrations_train_with_several_cameras(trunks, few_recordings, tmp_path, monkeypatch):
    pytest.importorskip("minari", reason="needs Minari: pip install 'xfer-policy[demonstrations]'")
    task = two_cameras.task() if trunks == "shared" else two_cameras.unlike()
    monkeypatch.setattr(tasks, "load", lambda name: task)
    dataset = str(tmp_path / "shown")
    assert record.record(task, dataset, episodes=3).frames > 50
    short = {**HOW, "frames": 64, "steps": 5, "eval_episodes": 1, "train_from": "all", "trunks": trunks}
    shown = train(
        task, **NETWORK, **short, demonstrations=dataset, loss="cross-entropy", output=tmp_path / "a", console=QUIET
    )
    assert shown.frames > 50
    few = {
        "rounds": 1,
        "environments": 2,
        "rollout_steps": 16,
        "total_frames": 96,
        "num_minibatches": 2,
        "eval_episodes": 1,
    }
    played = train(
        task,
        **NETWORK,
        **few,
        trunks=trunks,
        algorithm="ppo",
        train_from="all",
        vectorize="sync",
        output=tmp_path / "b",
        console=QUIET,
    )
    assert played.frames == 96
    policy = RunFolder(tmp_path / "b").policy()
    assert sum(state.name.endswith("_history") for state in policy.spec.states) == (2 if trunks == "shared" else 1)
