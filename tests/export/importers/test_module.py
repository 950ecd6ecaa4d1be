"""Policies from elsewhere: what they must fulfill, where their observations come from, what becomes of them."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import Bundle, Deployable
from export.build import DEFAULT_TARGETS
from export.commands import export as export_command
from export.commands import verify
from export.importers import ImportOptions, _recordings, module
from export.importers._deployed import digest
from export.verification.held_out import held_out_observations
from xfer.errors import BundleError, RunError, UnavailableError, UsageError, XferError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

JOINTS = TensorSpec("joints", "float32", (4,))
MEMORY = TensorSpec("memory", "float32", (2,))
SPEC = PolicySpec("", 50.0, (JOINTS,), (MEMORY,), ActionSpec("discrete", ("left", "stay", "right")), "logits")
OWN = """\
import torch
from torch import nn
from export import Deployable
from tests.export.importers.test_module import SPEC, Leaky

def make():
    torch.manual_seed(0)
    return Deployable(Leaky(), SPEC)

def forgot():
    return Leaky()

def fails():
    raise ValueError("no weights here")

def lies():
    from dataclasses import replace
    return Deployable(Leaky(), replace(SPEC, score_kind="values", observations=SPEC.observations * 2))
"""


class Leaky(nn.Module):
    """A policy with a leaky memory, of somebody who has never heard of xfer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, joints, memory):
        scores = self.net(torch.cat([joints, memory], 1))
        return scores.argmax(1), scores, 0.9 * memory + joints[:, :2]


def met(steps: int = 200, seed: int = 0, every: int = 40) -> Trajectories:
    rng = np.random.default_rng(seed)
    return Trajectories({"joints": rng.normal(size=(steps, 4)).astype(np.float32)}, np.arange(steps) % every == 0)


@pytest.fixture(autouse=True)
def _own_task(monkeypatch, one_thread):
    monkeypatch.setenv("XFER_TASK", "")  # put back afterwards


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """The name of a module in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = f"policies_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    met().save(tmp_path / "met.safetensors.gz")
    return name


def export(source: str, targets: str = DEFAULT_TARGETS, **importing) -> dict:
    importing = ImportOptions(**importing)
    return export_command.main(export_command.Args(source=source, targets=targets, importing=importing))


def test_a_module_with_a_spec_is_exported_and_verified_from_recorded_observations(own, tmp_path):
    done = export(
        f"{own}:make", observations=Path("met.safetensors.gz"), targets="eager,torchscript,onnx-fp32,onnx-fp16"
    )
    assert done["bundle"] == "make.bundle"
    assert {row["status"] for row in done["variants"]} == {"built"}, done
    rows = {row["variant"]: row for row in verify.main(verify.Args(bundle=Path("make.bundle")))["variants"]}
    for row in rows.values():
        assert (row["status"], row["rung"]) == ("provisional", "recordings"), row
        assert "the spec names no task" in row["reason"]
        assert row["observations"] == 120, "those that were held out, not golden"
    bundle = Bundle("make.bundle")
    torch.manual_seed(0)
    plain, state = Leaky(), torch.zeros(1, 2)
    with bundle.runner("onnx-fp32") as runner:
        for row in met(seed=3).observations["joints"][:50]:
            wanted, scores, state = plain(torch.from_numpy(row[None]), state)
            action = runner.act({"joints": row})
            assert action.action == wanted.item()
            np.testing.assert_allclose(action.scores, scores[0].detach().numpy(), atol=1e-5)


def test_a_bundle_of_somebody_elses_policy_needs_none_of_their_code(own, tmp_path):
    export(f"{own}:make", observations=Path("met.safetensors.gz"), targets="eager")
    Path(f"{own}.py").unlink()
    program = (
        "import sys; from export import Bundle\n"
        "with Bundle('make.bundle').runner('eager-fp32') as runner:\n"
        "    print(runner.act({'joints': Bundle('make.bundle').golden().observations['joints'][0]}).action)\n"
        f"assert '{own}' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in "012"


def test_what_has_not_changed_is_not_built_again_and_other_code_is_another_policy(own, tmp_path):
    arguments = {"observations": Path("met.safetensors.gz"), "targets": "torchscript"}
    export(f"{own}:make", **arguments)
    assert export(f"{own}:make", **arguments)["variants"][0]["cached"]
    assert export(f"{own}:make", targets="torchscript")["variants"][0]["cached"], "what was recorded is kept"
    code = "from tests.export.importers.test_module import *\n"
    code += "class Other(Leaky):\n    def forward(self, joints, memory):\n"
    code += (
        "        action, scores, after = super().forward(joints, memory)\n        return action, scores * 2, after\n"
    )
    Path(f"{own}_2.py").write_text(
        f"{code}def make():\n    torch.manual_seed(0)\n    return Deployable(Other(), SPEC)\n"
    )
    with pytest.raises(BundleError, match="holds another policy"):
        export(f"{own}_2:make", **arguments)


def test_the_digest_follows_weights_and_code_and_nothing_else():
    torch.manual_seed(0)
    policy = Deployable(Leaky(), SPEC)
    before = digest(policy)
    assert digest(policy) == before, "PyTorch numbers classes as it meets them"
    with torch.no_grad():
        policy.module.net[0].bias[0] += 1
    assert digest(policy) != before


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("nothing", UsageError, "there is no such function"),
        ("forgot", UsageError, r"returns a Leaky. It must return an export.Deployable\(module, spec\)"),
        ("fails", XferError, r"failed \(ValueError: no weights here\)"),
        ("lies", UsageError, "names two tensors 'joints'"),
        ("make", UsageError, "its spec names no task. Give observations .*: --observations FILE"),
    ],
)
def test_a_function_that_gives_no_policy_is_refused_with_the_reason(own, function, error, message):
    with pytest.raises(error, match=message):
        export(f"{own}:{function}")


def test_module_and_spec_must_fit_each_other():
    from export.importers._deployed import check

    two = replace(SPEC, action=ActionSpec("discrete", ("a", "b")))
    with pytest.raises(UsageError, match=r"gives .* float32 \[2, 3\], .*; its spec says .* float32 \[2, 2\]"):
        check(Deployable(Leaky(), two).deploy(), two)
    wide = replace(SPEC, observations=(TensorSpec("joints", "float32", (5,)),))
    with pytest.raises(UsageError, match="fails on zeros of its spec's shapes"):
        check(Deployable(Leaky(), wide).deploy(), wide)


def test_a_module_that_mixes_types_has_no_half_precision():
    class Mixed(Leaky):
        def forward(self, joints, memory):
            return super().forward(joints + torch.tensor([1.0, 2.0, 3.0, 4.0]), memory)

    assert Deployable(Leaky(), SPEC).deploy("fp16")(torch.zeros(1, 4), torch.zeros(1, 2))[1].dtype == torch.float32
    with pytest.raises(UsageError, match=r"no fp16: .* Give the module a method cast\(dtype\)"):
        Deployable(Mixed(), SPEC).deploy("fp16")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"observations": {"angles": np.zeros((200, 4), np.float32)}},
            r"holds angles: .*; the policy sees joints: float32 \[4\]",
        ),
        ({"observations": {"joints": np.zeros((200, 4))}}, "holds joints: float64"),
        ({"observations": {"joints": np.zeros((99, 4), np.float32)}}, "one row a step"),
        ({"observations": {"joints": np.zeros((20, 4), np.float32)}, "resets": np.ones(20, bool)}, "at least 64"),
    ],
)
def test_observations_that_do_not_fit_are_refused_with_what_they_hold(own, tmp_path, changed, message):
    replace(met(), **changed).save(tmp_path / "bad.safetensors.gz")
    with pytest.raises(UsageError, match=message):
        export(f"{own}:make", observations=Path("bad.safetensors.gz"))
    (tmp_path / "torn.safetensors.gz").write_bytes((tmp_path / "met.safetensors.gz").read_bytes()[:100])
    with pytest.raises(RunError, match=r"torn.safetensors.gz is missing or damaged"):
        export(f"{own}:make", observations=Path("torn.safetensors.gz"))


def test_plain_safetensors_are_read_too(own, tmp_path):
    from safetensors.numpy import save_file

    save_file(
        {"observations.joints": met().observations["joints"], "resets": met().resets}, tmp_path / "met.safetensors"
    )
    done = export(f"{own}:make", observations=Path("met.safetensors"), targets="torchscript")
    assert done["variants"][0]["status"] == "built"


@pytest.mark.parametrize(("every", "cut"), [(40, 80), (7, 98), (1000, 100)])
def test_observations_are_cut_where_an_episode_begins(every, cut):
    whole = met(200, every=every)
    calibration, held_out = _recordings.split(whole, "x", SPEC)
    assert (len(calibration), len(held_out)) == (cut, 200 - cut)
    assert calibration.resets[0]
    assert held_out.resets[0]
    both = np.concatenate([calibration.observations["joints"], held_out.observations["joints"]])
    np.testing.assert_array_equal(both, whole.observations["joints"])


def test_another_run_folder_is_not_taken_for_the_bundles_own(own, tmp_path):
    export(f"{own}:make", observations=Path("met.safetensors.gz"), targets="eager")
    facts = json.loads(Path("make.run/source.json").read_text())
    shutil.copytree("make.run", "other.run")
    Path("other.run/source.json").write_text(json.dumps({**facts, "weights": "0" * 64}))
    with pytest.raises(RunError, match=r"other.run is not the run that make.bundle was made from"):
        verify.main(verify.Args(bundle=Path("make.bundle"), run=Path("other.run")))
    held_out, why = held_out_observations(Bundle("make.bundle"), Path("make.run"))
    assert (len(held_out), why) == (120, "")


def test_a_task_that_gives_something_else_is_refused_by_name():
    with pytest.raises(UsageError, match=r"env:CartPole-v1 gives observation: float32 \[4\]; the policy sees joints"):
        _recordings.environment(replace(SPEC, task="env:CartPole-v1"))
    assert _recordings.environment(replace(SPEC, task="no such place"))[1].startswith("there is no environment")
    task, why = _recordings.environment(replace(SPEC, task="somebody:task"))
    assert (task, "if you trust it, say so: --task somebody:task" in why) == (None, True)


def test_the_source_decides_which_options_fit(own, tmp_path):
    with pytest.raises(UsageError, match=r"--observations does not fit .*, the folder of an `xfer train`"):
        export(str(tmp_path), observations=Path("met.safetensors.gz"))
    with pytest.raises(UsageError, match="--trust needs --from sb3"):
        export(f"{own}:make", trust=True)
    with pytest.raises(UsageError, match="Name what to export"):
        export(None)


def test_a_policy_that_needs_a_missing_library_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wants_more.py").write_text("import no_such_library")
    with pytest.raises(UnavailableError, match="Policy wants_more:make needs no_such_library"):
        module.load("wants_more:make")
