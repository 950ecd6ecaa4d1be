"""Policies that are more than their inputs and weights are refused with the true cause, and right ones are not."""

import itertools
import random
import shutil
import threading
import warnings
from collections import deque
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from export import Bundle, Deployable, export
from export.importers import ImportOptions
from export.verification.held_out import held_out_observations
from export.verification.verify import verify
from xfer.errors import FidelityError, RunError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

INPUT, HIDDEN = TensorSpec("x", "float32", (6,)), TensorSpec("hidden", "float32", (8,))
DISCRETE = ActionSpec("discrete", ("a", "b", "c"))
CONTINUOUS = ActionSpec("continuous", ("a", "b"), low=(-1.0, -1.0), high=(1.0, 1.0))
SPEC = PolicySpec("", 20.0, (INPUT,), (), DISCRETE, "logits")


def met(steps: int = 120, every: int = 30, actions=None) -> Trajectories:
    """Noise, but x[:, 3], which rises slowly within an episode."""
    x = np.random.default_rng(0).normal(size=(steps, 6)).astype(np.float32)
    x[:, 3] = np.arange(steps) % every / every
    return Trajectories({"x": x}, np.arange(steps) % every == 0, actions)


class Net(nn.Module):
    """The part that all policies here have in common: change ``scores``, ``see`` or ``act``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def see(self, x):
        return x

    def scores(self, x):
        return self.net(x)

    def act(self, x, scores):
        return scores.argmax(1)

    def forward(self, x):
        x = self.see(x)
        scores = self.scores(x)
        return self.act(x, scores), scores


@pytest.fixture
def exported(tmp_path, monkeypatch, one_thread):
    """Exports a module's eager form; the files that it leaves are in the current folder."""
    monkeypatch.chdir(tmp_path)

    def run(module: nn.Module, spec: PolicySpec = SPEC, recorded: Trajectories | None = None, targets="eager", **seed):
        (met() if recorded is None else recorded).save(tmp_path / "met.safetensors.gz")
        importing = ImportOptions(observations=tmp_path / "met.safetensors.gz")
        return export(Deployable(module, spec), targets, tmp_path / "made.bundle", importing=importing).bundle

    torch.manual_seed(0)
    run.path = tmp_path / "made.bundle"
    return run


def refusal(exported, module, *arguments, **given) -> str:
    with pytest.raises(FidelityError) as caught:
        exported(module, *arguments, **given)
    assert not exported.path.exists(), "nothing of a bundle is left behind"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def line_of(marked: str) -> str:
    """Return this file's name with the line that ends in a comment of this text."""
    lines = Path(__file__).read_text().splitlines()
    (line,) = (number for number, text in enumerate(lines, 1) if text.endswith(f"# {marked}"))
    return f"test_fidelity.py:{line}."


# Python values that a trace would hold.


class BranchInScores(Net):
    def scores(self, x):
        scores = self.net(x)
        if bool((x[:, 3] > 0.5).any()):  # branch
            scores = -scores
        return scores


class BranchInAction(Net):
    def act(self, x, scores):
        return scores.argmin(1) if (x[:, 3] > 0.5).any() else scores.argmax(1)  # action


class NeverTaken(Net):
    def scores(self, x):
        scores = self.net(x)
        while x.max() > 1e6:  # never
            scores, x = -scores, x / 2
        return scores


class Exponent(Net):
    def scores(self, x):
        return self.net(x) ** int(x.max().item())  # exponent


class Clipped(Net):
    def see(self, x):
        return torch.from_numpy(np.clip(x.numpy(), -1, 1))  # clip


class Asarray(Net):
    def see(self, x):
        return x + float(np.asarray(x).mean() > 2)  # asarray


class FromDlpack(Net):
    def see(self, x):
        return x * float(np.from_dlpack(x).max() > 0)  # dlpack


class Listed(Net):
    def see(self, x):
        return x - torch.tensor(x[:, :1].tolist())  # list


class MadeATensor(Net):
    def see(self, x):
        return x + torch.tensor([x[0, 0], 1.0]).sum()  # tensor


class IndexOfAList(Net):
    def scores(self, x):
        return self.net(x) * [1.0, -1.0][(x[:, 3].max() > 0.5).long()]  # index


class InATry(Net):
    def scores(self, x):
        try:
            if (x[:, 3] > 0.5).any():  # try
                raise ValueError
        except ValueError:
            return -self.net(x)
        return self.net(x)


class NotOnlyACheck(Net):
    def scores(self, x):
        if (high := bool((x[:, 3] > 0.5).any())) and x.shape[1] != 6:  # walrus
            raise ValueError
        return -self.net(x) if high else self.net(x)


class LoopOverWhatIsHigh(Net):
    def scores(self, x):
        scores = self.net(x)
        for row in (x[:, 3] > 2).nonzero()[:, 0]:  # high
            scores = scores * row
        return scores


class SizeOfWhatIsHigh(Net):
    def scores(self, x):
        return -self.net(x) if x[x > 9].numel() > 0 else self.net(x)  # size


class LoopOverRows(Net):
    def scores(self, x):
        return torch.stack([self.net(row) for row in x])  # rows


@pytest.mark.parametrize(
    ("module", "what", "mark"),
    [
        (BranchInScores, "branch on a tensor's value", "branch"),
        (BranchInAction, "branch on a tensor's value", "action"),
        (NeverTaken, "branch on a tensor's value", "never"),
        (Exponent, "Python value made of a tensor", "exponent"),
        (Clipped, "NumPy array made of a tensor", "clip"),
        (Asarray, "NumPy array made of a tensor", "asarray"),
        (FromDlpack, "NumPy array made of a tensor", "dlpack"),
        (Listed, "Python value made of a tensor", "list"),
        (MadeATensor, "Python value made of a tensor", "tensor"),
        (IndexOfAList, "Python value made of a tensor", "index"),
        (InATry, "branch on a tensor's value", "try"),
        (NotOnlyACheck, "branch on a tensor's value", "walrus"),
        (LoopOverWhatIsHigh, "Python value made of a tensor", "high"),
        (SizeOfWhatIsHigh, "Python value made of a tensor", "size"),
        (LoopOverRows, "loop over the rows of a batch", "rows"),
    ],
)
def test_a_branch_on_a_tensors_value_is_refused_with_its_line(exported, module, what, mark):
    assert f"{what} at tests/export/verification/{line_of(mark)}" in refusal(exported, module()).replace(
        str(__file__).removesuffix("tests/export/verification/test_fidelity.py"), ""
    )


# Modules that remember.


class CountsSteps(Net):
    def __init__(self):
        super().__init__()
        self.steps = 0

    def scores(self, x):
        self.steps += 1
        return self.net(x) * (-1 if self.steps > 50 else 1)


class CountsInABuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def scores(self, x):
        self.steps += 1
        return self.net(x) * torch.where(self.steps > 50, -1.0, 1.0)


class Queue(Net):
    def __init__(self):
        super().__init__()
        self.queue = deque(maxlen=4)

    def see(self, x):
        self.queue.append(x)
        return torch.stack(list(self.queue)).mean(0)


class RunningMean(Net):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(6)

    def see(self, x):
        self.mean = 0.99 * self.mean + 0.01 * x.mean(0)
        return x - self.mean


class Statistics:
    def __init__(self):
        self.count = itertools.count()


class HelperCounts(Net):
    def __init__(self):
        super().__init__()
        self.helpers = {"statistics": Statistics()}

    def scores(self, x):
        return self.net(x) * (-1 if next(self.helpers["statistics"].count) > 50 else 1)


class OfTheClass(Net):
    seen: ClassVar = []

    def scores(self, x):
        self.seen.append(1)
        return self.net(x)


class OwnGenerator(Net):
    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)

    def act(self, x, scores):
        return (scores.argmax(1) + (self.rng.random() < 0.01)) % 3


class InASubmodule(Net):
    def __init__(self):
        super().__init__()
        self.counts = CountsSteps()

    def scores(self, x):
        return self.counts.scores(x)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (CountsSteps, "steps"),
        (CountsInABuffer, "steps"),
        (Queue, "queue"),
        (RunningMean, "mean"),
        (HelperCounts, "helpers"),
        (OfTheClass, "seen"),
        (OwnGenerator, "rng"),
        (InASubmodule, "counts.steps"),
    ],
)
def test_a_module_that_remembers_is_refused_with_the_attributes_name(exported, module, name):
    assert f"remembers between calls: attribute `{name}` changed" in refusal(exported, module())


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ["steps", "count"])
def test_a_scripted_module_that_remembers_is_refused_with_the_attributes_name(exported, name):
    class Scripted(nn.Module):
        count: int

        def __init__(self, counts: bool):
            super().__init__()
            self.net = nn.Linear(6, 3)
            self.register_buffer("steps", torch.zeros(1))
            self.count, self.counts = 0, counts

        def forward(self, x):
            if self.counts:
                self.count += 1
            else:
                self.steps += 1
            scores = self.net(x) + self.steps + self.count
            return scores.argmax(1), scores

    assert f"attribute `{name}` changed" in refusal(exported, torch.jit.script(Scripted(name == "count")))


def test_what_the_first_call_fixes_is_remembered_too(exported):
    class FirstMean(Net):
        mean = None

        def see(self, x):
            if self.mean is None:
                self.mean = x.mean()
            return x - self.mean

    assert "remembers between calls" in refusal(exported, FirstMean())


def test_a_counter_outside_of_the_module_is_seen_by_its_answers(exported):
    counter = []

    class Closure(Net):
        def scores(self, x):
            counter.append(1)
            return -self.net(x) if len(counter) % 50 == 0 else self.net(x)

    said = refusal(exported, Closure())
    assert "gives two answers to one input, as at step" in said
    assert "observations" in said


# Noise.


class TorchNoise(Net):
    def scores(self, x):
        return self.net(x) + 0.1 * torch.randn(len(x), 3)


class NumPyNoise(Net):
    def scores(self, x):
        return self.net(x) + float(np.random.normal())


class DropoutLeftOn(Net):
    def see(self, x):
        return functional.dropout(x, 0.1, training=True)


class Explores(Net):
    def act(self, x, scores):
        return scores.argmax(1) if random.random() > 0.01 else scores.argmin(1)


@pytest.mark.parametrize("module", [TorchNoise, NumPyNoise, DropoutLeftOn, Explores])
def test_noise_is_called_noise(exported, module):
    assert "draws random numbers" in refusal(exported, module())


def test_noise_of_an_unknown_source_is_two_answers(exported):
    entropy = random.SystemRandom()

    class Unseeded(Net):
        def act(self, x, scores):
            return (scores.argmax(1) + (entropy.random() < 0.1)) % 3

    assert "gives two answers to one input" in refusal(exported, Unseeded())


# Batches, inputs, others' actions.


class Centered(Net):
    def see(self, x):
        return x - x.mean(0)


class FirstRow(Net):
    def scores(self, x):
        return self.net(x) + 0.1 * x[:1, :3]


@pytest.mark.parametrize("module", [Centered, FirstRow])
def test_a_row_that_depends_on_its_batch_is_refused(exported, module):
    assert "depends on the other rows of its batch, as at step" in refusal(exported, module())


def test_a_module_that_writes_into_its_observation_is_refused(exported):
    class InPlace(Net):
        def see(self, x):
            return x.sub_(1)

    assert "writes into its observation 'x'" in refusal(exported, InPlace())


def test_a_module_that_fails_on_what_was_recorded_is_refused_with_the_reason(exported):
    class Fails(Net):
        def see(self, x):
            if (x[:, 3] > 0.5).any():
                raise ValueError("too high")
            return x

    assert "fails on a recorded observation (ValueError: too high (test_fidelity.py:" in refusal(exported, Fails())


def test_what_only_the_recordings_show_is_refused_with_its_step(exported):
    """A size is a number already, so no line converts it."""

    class Counted(Net):
        def scores(self, x):
            high = x[x > 0.9].numel()
            return -self.net(x) if high > 0 else self.net(x)  # count

    rising = met()
    rising.observations["x"][:, :3] = rising.observations["x"][:, 4:] = 0
    said = refusal(exported, Counted(), recorded=rising)
    assert "its trace acts differently from the module at step 28 of episode 1 of the calibration observations" in said
    assert "score off by" in said
    assert line_of("count") in said


def test_a_state_that_the_trace_changes_differently_is_refused(exported):
    class Leaks(Net):
        def forward(self, x, hidden):
            scores = self.net(x)
            high = x[x > 0.9].numel()
            return scores.argmax(1), scores, hidden + (1 if high > 0 else 0)

    spec = PolicySpec("", 20.0, (INPUT,), (HIDDEN,), DISCRETE, "logits")
    rising = met()
    rising.observations["x"][:, :3] = rising.observations["x"][:, 4:] = 0
    assert "acts differently from the module at step 28 of episode 1" in refusal(exported, Leaks(), spec, rising)


def acted(module, recorded: Trajectories) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(recorded.observations["x"]))[0].numpy()


def test_actions_of_another_runtime_are_compared_with_the_modules(exported):
    module = Net()
    actions = acted(module, met())
    exported(module, recorded=met(actions=actions))
    shutil.rmtree(exported.path)
    actions[100] = (actions[100] + 1) % 3
    said = refusal(exported, module, recorded=met(actions=actions))
    assert "the recorded actions are not the module's at step 10 of episode 2 of the held-out observations" in said
    assert f"action {actions[100]} instead of" in said


# And the opposite: what is right is exported.


class WithChecks(Net):
    def finite(self, x):
        return bool(torch.isfinite(x).all())

    def see(self, x):
        assert torch.isfinite(x).all(), "not finite"
        assert self.finite(x)
        if not self.finite(x):
            raise ValueError(f"not finite: {x.max().item()}")
        if (x.abs() > 100).any():
            warnings.warn(f"large: {x.abs().max().item()}", stacklevel=2)
        return torch.distributions.Normal(x, torch.ones_like(x)).mean


class Constants(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.lock, self.generator = threading.Lock(), (one for one in "ab")  # which cannot be copied

    def see(self, x):
        with self.lock:
            low, high = self.scale.tolist()
            return x.clamp(-high, high) * float(self.scale[0]) / low if self.scale.max() > 1 else x


class LazyCache(Net):
    table = None

    def see(self, x):
        if self.table is None:
            self.table = torch.linspace(0, 1, 6)
        return x + self.table


class Chosen(Net):
    def scores(self, x):
        scores = torch.where(x[:, 3:4] > 0.5, -self.net(x), self.net(x))
        first, *others = scores.unbind(1)
        return torch.stack([first, *others], 1)


class Attends(Net):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

    def see(self, x):
        tokens = torch.stack([x, -x, x.flip(1)], 1)
        return self.encoder(self.attention(tokens, tokens, tokens)[0])[:, 0]


class Normalized(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.norm(torch.randn(50, 6))
        self.drop = nn.Dropout(0.5)

    def see(self, x):
        return self.drop(self.norm(x))


class KeptInTrace(Net):
    """A tensor that is handed on as a number stays one in a trace."""

    def see(self, x):
        return x + torch.full((), x[0].mul(0).sum() + 2)


class Picks(Net):
    """What is picked by a mask has a size that a trace keeps."""

    def see(self, x):
        picked = x[x > 0.5]
        return x + torch.zeros(picked.shape[0]).sum() + picked.new_zeros(x.shape[0], 1)


class RightWithAGeneratorThatIsNotUsed(Net):
    def __init__(self):
        super().__init__()
        self.rng, self.generator = np.random.default_rng(0), torch.Generator()


@pytest.mark.parametrize(
    "module",
    [
        Net,
        WithChecks,
        Constants,
        LazyCache,
        Chosen,
        Attends,
        Normalized,
        KeptInTrace,
        Picks,
        RightWithAGeneratorThatIsNotUsed,
    ],
)
def test_right_policies_are_exported(exported, module):
    bundle = exported(module())
    found = verify(bundle, pairs=0)["eager-fp32"]
    assert (found.status, found.observations) == ("provisional", 60), found


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_control_flow_in_torchscript_is_kept(exported):
    @torch.jit.script
    def flipped(x):
        if bool((x[0, 3] > 0.5).any()):
            return -x
        return x

    class Rows(nn.Module):
        def forward(self, x):
            result = torch.empty(0, 6)
            for i in range(x.shape[0]):
                row = x[i : i + 1]
                result = torch.cat([result, -row if bool(row[0, 3] > 0.5) else row])
            return result

    class WithScript(Net):
        def __init__(self):
            super().__init__()
            self.rows = torch.jit.script(Rows())

        def see(self, x):
            return self.rows(x)

    assert verify(exported(WithScript()), pairs=0)["eager-fp32"].status == "provisional"
    shutil.rmtree(exported.path)

    class OneRowDecides(Net):
        def see(self, x):
            return flipped(x)

    assert "depends on the other rows of its batch" in refusal(exported, OneRowDecides())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 8), nn.Linear(8, 2)

    def forward(self, x, hidden):
        hidden = self.cell(x, hidden)
        scores = self.head(hidden)
        return scores.tanh(), scores, hidden


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x, hidden, cell):
        out, (hidden, cell) = self.lstm(x[:, None], (hidden[None], cell[None]))
        scores = self.head(out[:, 0])
        return scores.tanh(), scores, hidden[0], cell[0]


RECURRENT = PolicySpec("", 20.0, (INPUT,), (HIDDEN,), CONTINUOUS, "mean")


@pytest.mark.parametrize("module", [Recurrent, Lstm])
def test_recurrent_policies_are_exported_and_golden_holds_late_steps_with_their_states(exported, module):
    states = (HIDDEN,) if module is Recurrent else (HIDDEN, TensorSpec("cell", "float32", (8,)))
    spec = PolicySpec("", 20.0, (INPUT,), states, CONTINUOUS, "mean")
    bundle = exported(module(), spec, met(400, every=100))
    golden = bundle.golden()
    assert len(golden.episodes()) == 4, "beginning and end of two held-out episodes"
    assert len(golden) == 64
    for name, start in golden.starts.items():
        assert (start[[0, 2]] == 0).all(), name
        assert (np.abs(start[[1, 3]]).max(1) > 0.01).all(), name
    with bundle.runner("eager-fp32") as runner:
        again = golden.replay(runner)
    np.testing.assert_allclose(again.scores, golden.scores, atol=1e-6)
    assert verify(bundle, pairs=0)["eager-fp32"].status == "provisional"


# What the bundle keeps of it.


def test_the_live_policys_actions_are_the_reference_of_the_actions_gate(exported):
    """A bundle without eager is verified in full, on observations that stay with the run."""
    module = Net()
    bundle = exported(module, targets="torchscript")
    assert set(bundle.builds) == {"torchscript-fp32"}
    held_out, why = held_out_observations(bundle)
    assert why == ""
    np.testing.assert_array_equal(held_out.actions, acted(module, held_out))
    assert bundle.spreads() == bundle.manifest.spreads
    found = verify(bundle, pairs=0)["torchscript-fp32"]
    assert (found.status, found.rung, found.observations) == ("provisional", "actions", 60)


def test_other_observations_than_the_bundles_are_said_in_one_line(exported):
    bundle = exported(Net())
    file = exported.path.with_suffix(".run") / "observations" / "held-out.safetensors.gz"
    met(70).save(file)
    held_out, why = held_out_observations(bundle)
    assert held_out is None
    assert "are not those that the bundle was made with; export into a new bundle" in why
    with pytest.raises(RunError, match="are not those that the bundle was made with"):
        held_out_observations(bundle, exported.path.with_suffix(".run"))


def test_the_policy_is_checked_once_and_again_with_other_observations(exported):
    calls = []

    class Calls(Net):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    exported(module := Calls())
    first = len(calls)
    importing = ImportOptions()
    calls.clear()
    export(Deployable(module, SPEC), "eager", exported.path, importing=importing)
    assert len(calls) < 10 < first
    bundle = exported(module, recorded=met(160))
    assert len(held_out_observations(bundle)[0]) == 70


def test_a_bundle_of_before_gets_its_references_when_it_is_exported_again(exported):
    from dataclasses import replace

    from export.bundle.manifest import HELD_OUT, MANIFEST

    module = Net()
    bundle = exported(module)
    golden = bundle.golden().digest()
    (exported.path / HELD_OUT).unlink()
    older = replace(bundle.manifest, schema=(1, 1), spreads=None, held_out=None)
    (exported.path / MANIFEST).write_bytes(older.encode())
    held_out, why = held_out_observations(Bundle(exported.path))
    assert (why, held_out.actions) == ("", None)
    assert len(Bundle(exported.path).spreads().scores) == 3
    bundle = exported(module)
    assert bundle.manifest.schema == (1, 2)
    assert held_out_observations(bundle)[0].actions is not None
    assert bundle.golden().digest() == golden


# With an environment.


class Rising(gymnasium.Env):
    """Shows a number that rises; it rises further in an episode than where observations are recorded."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t / 100, np.float32), float(action), self.t >= 300, False, {}


class Beyond(nn.Module):
    """Its shape-dependent branch is reached after 2.6 s, when recording has stopped."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 2)

    def forward(self, x):
        scores = self.net(x)
        high = x[x > 2.6].numel()
        if high > 0:
            scores = scores.flip(1)
        return scores.argmax(1), scores


def test_live_and_deployed_form_run_the_same_episodes(exported):
    gymnasium.register("Rising-v0", Rising)
    try:
        spec = PolicySpec(
            "env:Rising-v0",
            20.0,
            (TensorSpec("observation", "float32", (1,)),),
            (),
            ActionSpec("discrete", ("0", "1")),
            "logits",
        )
        with pytest.raises(
            FidelityError, match=r"acts differently from the module in env:Rising-v0, seed 5000000: .* at step 261"
        ):
            export(Deployable(Beyond(), spec), "eager", exported.path)
        assert not exported.path.exists()
    finally:
        del gymnasium.registry["Rising-v0"]
