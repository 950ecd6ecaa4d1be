"""The reward gate with real processes, some of which are killed."""

import base64
import io
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from export.build import export_policy
from export.bundle.machine import this_machine
from export.bundle.manifest import MANIFEST, Spreads
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.targets import Variant
from export.verification import pairs
from export.verification.ledger import Ledger
from export.verification.non_inferiority import MARGIN, judge
from export.verification.pairs import PairProcesses
from export.verification.reward import LOOK_EVERY, run_gate
from tests import processes, small_task
from tests.conftest import drive, make_policy, train_briefly
from tests.export.verification.parity.test_parity import plant
from xfer import tasks
from xfer.errors import BundleError, UsageError, XferError
from xfer.evaluate import Fork, paired_episode
from xfer.files import write_atomically
from xfer.models.policy import Deployed
from xfer.spec import RewardScale

TASK = small_task.task()
SAME, WORSE, ROUNDED = "torchscript-fp32", "onnx-fp32", "onnx-int8"
SCALE = 40.0


def always(policy, action):
    """Make a policy push to one side, whatever it sees."""
    last = policy.head[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 0.0] if action == 0 else [0.0, 1.0]))
    return policy


@pytest.fixture(scope="module", autouse=True)
def trusted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tasks.TRUSTED, TASK.name)
        yield


@pytest.fixture(scope="module")
def golden():
    return drive(5, 24, TASK)


@pytest.fixture(scope="module")
def bundle(golden, tmp_path_factory):
    """A briefly trained policy: one variant agrees, one is rounded, and one was exchanged for a far worse policy."""
    path = tmp_path_factory.mktemp("bundles") / "worse.bundle"
    policy = make_policy(task=TASK)
    train_briefly(policy, TASK)
    variants = [Variant.parse(name) for name in ("eager-fp32", SAME, WORSE, ROUNDED)]
    export_policy(policy, policy.spec, drive(6, 64, TASK), golden, variants, path, run="nowhere")
    plant(path, always(make_policy(task=TASK), 0).deploy(), WORSE)
    manifest = Bundle(path).manifest
    # A scale that such a policy can reach, so that falling at once is a great loss.
    spec = replace(manifest.spec, reward=RewardScale(0.0, SCALE))
    write_atomically(path / MANIFEST, replace(manifest, spec=spec).encode())
    return Bundle(path)


@pytest.fixture(scope="module")
def falling(golden, tmp_path_factory):
    """A policy whose episodes are short, and a faithful variant of it."""
    policy = always(make_policy(task=TASK), 0)
    path = tmp_path_factory.mktemp("bundles") / "falling.bundle"
    variants = [Variant.parse("eager-fp32"), Variant.parse(SAME)]
    for build, _ in export_policy(policy, policy.spec, golden, golden, variants, path, run="nowhere"):
        assert build.status == "built", build.reason
    return Bundle(path)


def gate(bundle, names, most_pairs, workers, on_pairs=lambda done, verdicts: None):
    found = {name: Verification("provisional", rung="actions") for name in ("eager-fp32", *names)}
    return run_gate(bundle, found, most_pairs, workers, on_pairs)


@pytest.fixture(scope="module")
def alone(bundle):
    """What one process finds."""
    return gate(bundle, [SAME, WORSE, ROUNDED], 20, workers=1)


def test_two_processes_find_what_one_finds(bundle, alone):
    assert gate(bundle, [SAME, WORSE, ROUNDED], 20, workers=2) == alone


def test_a_process_that_is_killed_half_way_changes_no_figure(bundle, alone):
    killed = []

    def kill_one(done, verdicts):
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            os.kill(killed[0].pid, signal.SIGKILL)

    assert gate(bundle, [SAME, WORSE, ROUNDED], 20, 2, kill_one) == alone
    assert killed[0].exitcode == -signal.SIGKILL
    assert multiprocessing.active_children() == []


def test_an_interrupted_gate_continues_and_finds_the_same(bundle, alone, tmp_path, monkeypatch):
    copy = Bundle(shutil.copytree(bundle.path, tmp_path / "copy.bundle"))
    found = {name: Verification("provisional", rung="actions") for name in alone}
    ran = []
    run = PairProcesses.run
    monkeypatch.setattr(
        PairProcesses, "run", lambda self, seeds, variants: ran.append(seeds) or run(self, seeds, variants)
    )

    def interrupt(done, verdicts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_gate(copy, found, 20, 1, interrupt, Ledger(copy))
    assert run_gate(copy, found, 20, 1, lambda done, verdicts: None, Ledger(copy)) == alone
    base = alone[SAME].seed_base
    assert [seeds.start - base for seeds in ran] == [0, LOOK_EVERY]
    # All 20 pairs are there: no more are run, and one that asks for fewer has all the same.
    for most_pairs in (20, 10):
        assert run_gate(copy, found, most_pairs, 1, lambda done, verdicts: None, Ledger(copy)) == alone
    assert len(ran) == 2


@pytest.mark.timeout(100)
def test_a_process_that_answers_nothing_is_ended(bundle):
    with PairProcesses(bundle, 2) as processes:
        assert len(list(processes.run(range(7, 9), lambda: (SAME,)))) == 2
        stopped = multiprocessing.active_children()[0]
        os.kill(stopped.pid, signal.SIGSTOP)
    assert stopped.exitcode == -signal.SIGKILL


def test_a_faithful_variant_never_differs_and_is_compared_in_all_pairs(alone):
    same, eager = alone[SAME], alone["eager-fp32"]
    assert (same.status, same.pairs, same.forked, same.divergence) == ("provisional", 20, 0, None)
    assert [seed for seed, _, _ in same.returns] == list(range(same.seed_base, same.seed_base + 20))
    assert all(reference == variant for _, reference, variant in same.returns)
    assert eager.returns == same.returns
    assert eager.reward_mean == pytest.approx(np.mean([reference for _, reference, _ in same.returns]))


def test_a_variant_that_is_surely_worse_is_rejected_at_a_look_and_runs_no_more(alone):
    worse = alone[WORSE]
    assert worse.status == "rejected"
    assert worse.pairs == LOOK_EVERY
    assert -worse.reward_interval[1] > MARGIN * SCALE
    eager = alone["eager-fp32"].returns[: worse.pairs]
    assert [pair[:2] for pair in worse.returns] == [pair[:2] for pair in eager]


def test_the_first_divergence_is_the_one_that_the_same_pair_shows_here(bundle, alone):
    found = alone[WORSE].divergence
    with bundle.runner("eager-fp32") as eager, bundle.runner(WORSE) as worse:
        pair = paired_episode(TASK, eager, {WORSE: worse}, found.seed)[WORSE]
    assert (found.seed, found.step) == (alone[WORSE].seed_base, pair.fork.step)
    assert (found.reference_action, found.variant_action) == ((1.0,), (0.0,))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.picture))))
    np.testing.assert_array_equal(shown, pair.fork.observations["frame"])
    spread = np.mean(bundle.spreads().scores)
    assert found.margin == pytest.approx((pair.fork.scores[1] - pair.fork.scores[0]) / spread, rel=1e-5)


def test_records_hold_returns_and_divergence(bundle, alone, tmp_path):
    from export.bundle import records

    copy = Bundle(shutil.copytree(bundle.path, tmp_path / "copy.bundle"))
    records.save(copy, WORSE, verification=alone[WORSE])
    assert records.load(copy)[WORSE].verification == alone[WORSE]
    assert (copy.path / records.RECORDS / f"{this_machine().id}.json").stat().st_size < 50_000


def test_pairs_end_at_the_first_look_at_which_clean_pairs_are_enough(falling):
    looks = []
    found = gate(falling, [SAME], 1000, 2, lambda done, verdicts: looks.append(done))[SAME]
    enough = judge(np.zeros(0)).needed
    assert found.status == "verified"
    assert found.pairs == looks[-1] == -(-enough // LOOK_EVERY) * LOOK_EVERY


def test_a_variant_whose_scores_are_not_finite_is_rejected_alone(bundle, tmp_path):
    class NotFiniteLater(Deployed):
        def forward(self, frame, *states):
            action, scores, after = super().forward(frame, *states)
            first = states[0].flatten().abs().amax(dim=0) == 0  # only an episode's first history is zero
            return action, scores / first.float(), after

    path = shutil.copytree(bundle.path, tmp_path / "broken.bundle")
    module = make_policy(task=TASK).deploy()
    module.__class__ = NotFiniteLater
    plant(path, module, WORSE)
    found = gate(Bundle(path), [SAME, WORSE], 10, 1)
    assert (found[SAME].status, found[SAME].pairs) == ("provisional", 10)
    assert (found[WORSE].status, found[WORSE].rung, found[WORSE].pairs) == ("rejected", "reward", 1)
    assert re.search(rf"episode of seed {found[WORSE].seed_base}: .*not finite", found[WORSE].reason)


def test_pairs_end_when_the_only_variant_is_surely_worse(bundle):
    found = gate(bundle, [WORSE], 1000, workers=1)
    assert found[WORSE].status == "rejected"
    assert found["eager-fp32"].pairs == found[WORSE].pairs == LOOK_EVERY


@pytest.mark.slow
def test_processes_that_keep_dying_are_one_clear_error(bundle, monkeypatch):
    monkeypatch.setattr(pairs, "MAX_DEATHS", 1)

    def die_again_and_again():
        with PairProcesses(bundle, 1) as processes:
            for _ in processes.run(range(9), lambda: (SAME,)):
                for process in multiprocessing.active_children():
                    process.kill()

    with pytest.raises(XferError, match=r"died 2 times.*fewer --workers"):
        die_again_and_again()
    assert multiprocessing.active_children() == []


def test_a_variant_whose_files_were_damaged_meanwhile_is_rejected_with_what_is_wrong(bundle, tmp_path):
    copy = Bundle(shutil.copytree(bundle.path, tmp_path / "copy.bundle"))
    (copy.path / copy.builds[SAME].folder / "policy.pt").write_bytes(b"")
    found = gate(copy, [SAME], 10, 1)[SAME]
    assert (found.status, "truncated or exchanged" in found.reason) == ("rejected", True)
    assert multiprocessing.active_children() == []


def test_a_reference_whose_files_were_damaged_is_one_clear_error(bundle, tmp_path):
    copy = Bundle(shutil.copytree(bundle.path, tmp_path / "copy.bundle"))
    (copy.path / copy.builds["eager-fp32"].folder / "policy.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="truncated or exchanged"):
        gate(copy, [SAME], 10, 1)
    assert multiprocessing.active_children() == []


def test_an_environment_that_fails_is_one_clear_error(bundle, monkeypatch):
    class UnsendableError(Exception):
        def __init__(self, first, second):
            super().__init__(f"{first} {second}")

    def make():
        raise UnsendableError("the simulator", "crashed")

    monkeypatch.setattr(tasks, "load", lambda name: replace(TASK, make=make))
    with pytest.raises(XferError, match=r"make\(\) raised UnsendableError \(the simulator crashed\)") as caught:
        pairs._run_pair(bundle.path, (SAME,), bundle.spreads(), 2_000_007)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(("most_pairs", "workers"), [(-1, 1), (10, -2)])
def test_counts_below_one_are_refused(bundle, most_pairs, workers):
    with pytest.raises(UsageError, match="at least 1"):
        gate(bundle, [SAME], most_pairs, workers)


@pytest.mark.parametrize("how", ["Ctrl-C", pytest.param("killed", marks=pytest.mark.slow)])
def test_an_end_of_the_command_leaves_no_process_behind(bundle, how):
    words = ["verify", bundle.path, "--variants", SAME, "--full", "--workers", "2", "--task", TASK.name]
    command = processes.start(*words)
    parent = psutil.Process(command.pid)
    until = time.monotonic() + 240
    # Busy for more than their start takes: they are at their pairs.
    while sum(sum(child.cpu_times()[:2]) > 4 for child in parent.children()) < 2:
        assert command.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    children = parent.children(recursive=True)
    if how == "Ctrl-C":
        os.killpg(command.pid, signal.SIGINT)
    else:
        os.kill(command.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert command.wait(60) == (130 if how == "Ctrl-C" else -signal.SIGKILL)
    assert "Traceback" not in command.stderr


def test_a_compiler_s_progress_bars_leave_no_semaphore_behind(bundle):
    """Its processes end by SIGKILL, and Python complains at its end of what such a one did not give back."""
    lines = (
        "import sys",
        "from tqdm import tqdm",
        "from export import Bundle",
        "from export.verification.pairs import PairProcesses",
        "if __name__ == '__main__':",
        "    with PairProcesses(Bundle(sys.argv[1]), 1) as processes:",
        "        processes._pool.submit(tqdm.get_lock).exception()",
    )
    script = bundle.path.parent / "bars.py"
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script, bundle.path], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_margin_of_a_continuous_action_is_a_share_of_its_scale(policy):
    action = replace(policy.spec.action, kind="continuous", elements=("x", "y"), low=(-1.0, 0.0), high=(1.0, 4.0))
    spec = replace(policy.spec, action=action, score_kind="mean")
    fork = Fork(0, {}, np.zeros(2, np.float32), np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    assert pairs.margin(fork, Spreads((1.0, 1.0), (4.0, 1.0)), spec) == pytest.approx(0.25)  # of a range of 2
    assert pairs.margin(fork, Spreads((1.0, 1.0), (0.5, 1.0)), spec) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("order", "shape"), [("RGB", (4, 6, 3)), ("BGR", (4, 6, 3)), ("gray", (4, 6, 1)), ("gray", (4, 6))]
)
def test_a_picture_shows_the_colors_that_were_seen(policy, order, shape):
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    tensor = replace(policy.spec.observations[0], shape=shape, color_order=order)
    spec = replace(policy.spec, observations=(tensor,))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pairs.picture({"frame": frame}, spec)))))
    np.testing.assert_array_equal(shown, frame[..., ::-1] if order == "BGR" else frame.squeeze())


def test_a_task_without_images_has_no_picture(policy):
    tensor = replace(policy.spec.observations[0], name="joints", dtype="float32", color_order="")
    assert pairs.picture({"joints": np.zeros(3)}, replace(policy.spec, observations=(tensor,))) == ""
