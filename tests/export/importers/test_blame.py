"""What somebody's own module or function can do wrong is said in one line that names it, on the real command line."""

import json
import sys
import threading
import weakref
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from export import Deployable, export
from export.importers import ImportOptions
from export.importers._copied import copied
from export.importers._layers import batch_norms, not_finite
from xfer import cli
from xfer.errors import FidelityError, ObservationError, ScoresError, UsageError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

SPEC = PolicySpec("", 20.0, (TensorSpec("x", "float32", (6,)),), (), ActionSpec("discrete", ("a", "b", "c")), "logits")
OLD_NORMS = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`", "ignore:.*weight_norm.*deprecated")


def met(**changed) -> Trajectories:
    x = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    for row, value in changed.items():
        x[int(row[1:]), 2] = value
    return Trajectories({"x": x}, np.arange(80) % 20 == 0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def scores(self, x):
        return self.net(x)

    def forward(self, x):
        scores = self.scores(x)
        return scores.argmax(1), scores


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XFER_TASK", "")
    torch.manual_seed(0)


def exported(module: nn.Module, recorded: Trajectories | None = None, spec: PolicySpec = SPEC, targets="eager"):
    (met() if recorded is None else recorded).save(Path("met.safetensors"))
    importing = ImportOptions(observations=Path("met.safetensors"))
    return export(Deployable(module, spec), targets, Path("made.bundle"), importing=importing)


# The command line: a function, and the module that it returns.

HEAD = """\
import sys
import torch
from torch import nn
from export import Deployable
from tests.export.importers.test_blame import Net, SPEC

def make(): return Deployable(Policy(), SPEC)
"""
FORWARDS = {
    "returns a dict": ("return {'action': x}", "The module's forward returns a dict. It must return a tuple of"),
    "returns a tensor": ("return self.net(x)", "returns a Tensor. It must return a tuple of tensors: (action, scores)"),
    "returns nothing": ("self.net(x)", "The module's forward returns a NoneType"),
    "returns a nested tuple": ("return (x, (x, x))", "The module's forward returns (Tensor, tuple)"),
    "returns too much": (
        "s = self.net(x); return s.argmax(1), s, s",
        "gives int64 [2], float32 [2, 3], float32 [2, 3]",
    ),
    "returns another type": (
        "s = self.net(x).double(); return s.argmax(1), s",
        "gives int64 [2], float64 [2, 3] for a",
    ),
    "loses the batch": ("s = self.net(x).squeeze(); return s.argmax(-1), s", "float32 [3] for a batch of 1; its spec"),
    "fails": ("return self.net(x[:, :5])", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    "moves to cuda": (
        "return super().forward(x.to('meta'))",
        "fails on zeros of its spec's shapes, called as forward(x)",
    ),
    "exits": (
        "sys.exit('bye')",
        "shapes, called as forward(x) (SystemExit: bye",
    ),
    "raises many lines": ("raise ValueError('one\\n\\ntwo')", "(ValueError: one two (policies_"),
    "fails for a batch of 1": ("assert len(x) > 1, 'too few'", "takes a batch of 2, and fails on one of 1"),
    "writes into what it sees": ("return super().forward(x.sub_(1))", "writes into its observation 'x'"),
    "has noise": ("return super().forward(nn.functional.dropout(x, 0.5))", "draws random numbers"),
}


def refusal(name: str, code: str, capsys) -> str:
    """Return the one line that the command says of ``NAME:make``."""
    Path(f"{name}.py").write_text(code)
    met().save(Path("met.safetensors"))
    words = ["export", f"{name}:make", "--observations", "met.safetensors", "--targets", "eager"]
    assert cli.main(words) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("xfer: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not Path("make.bundle").exists()
    return said


@pytest.mark.parametrize("what", FORWARDS)
def test_a_forward_pass_that_does_not_fit_is_refused_in_one_line(what, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    body, said = FORWARDS[what]
    body += "; return super().forward(x)" if body.startswith("assert") else ""
    name = f"policies_{tmp_path.name}"
    found = refusal(name, f"{HEAD}\nclass Policy(Net):\n    def forward(self, x):\n        {body}\n", capsys)
    assert said in found


def test_a_forward_pass_with_named_arguments_is_refused_with_how_it_is_called(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    code = f"{HEAD}\nclass Policy(Net):\n    def forward(self, *, x):\n        return super().forward(x)\n"
    found = refusal(f"policies_{tmp_path.name}", code, capsys)
    assert "called as forward(x) (TypeError: Policy.forward() takes 1 positional argument but 2 were given" in found


FUNCTIONS = {
    "returns nothing": ("def make(): pass", "make returns nothing. It must return an export.Deployable(module, spec)"),
    "takes arguments": ("def make(path): pass", "failed (TypeError: make() missing 1 required positional argument"),
    "raises": ("def make():\n    raise ValueError('no file')", "make failed (ValueError: no file) at {name}.py:2."),
    "exits": ("def make():\n    raise SystemExit('done')", "make failed (SystemExit: done) at {name}.py:2."),
    "exits when imported": ("import sys\nsys.exit(3)", "importing {name} failed (SystemExit: 3) at {name}.py:2."),
    "is no Python": ("def make(:", "importing {name} failed (SyntaxError: invalid syntax ({name}.py, line 1))"),
    "fails when imported": ("x = {}['key']", "importing {name} failed (KeyError: 'key') at {name}.py:1."),
    "imports what is not there": ("from math import no", "failed (ImportError: cannot import name 'no' from 'math'"),
}


@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_function_that_goes_wrong_is_blamed_with_its_file_and_line(what, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    code, said = FUNCTIONS[what]
    name = f"policies_{tmp_path.name}"
    assert said.format(name=name) in refusal(name, code, capsys)


def test_a_module_that_prints_does_not_spoil_the_json(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"policies_{tmp_path.name}"
    body = "class Policy(Net):\n    def forward(self, x):\n        print('x')\n        return super().forward(x)\n"
    Path(f"{name}.py").write_text(f"{HEAD}\n{body}")
    met().save(Path("met.safetensors"))
    words = ["export", f"{name}:make", "--observations", "met.safetensors", "--targets", "eager", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["variants"][0]["status"] == "built"


# What is at fault for numbers that are none.


def test_an_observation_that_is_nan_is_blamed_with_its_file_and_row():
    with pytest.raises(
        ObservationError, match=r"met\.safetensors, row 27: Observation 'x' holds nan \(element \[2\]\), of which"
    ):
        exported(Net(), met(r27=np.nan))
    without = Net()
    without.net[1] = nn.Identity()  # which would make a finite number of it
    with pytest.raises(ObservationError, match=r"row 3: Observation 'x' holds -inf"):
        exported(without, met(r3=-np.inf))


def test_a_policy_that_knows_what_to_make_of_nan_is_exported():
    class Careful(Net):
        def scores(self, x):
            return self.net(x.nan_to_num(0))

    assert exported(Careful(), met(r27=np.nan, r60=np.nan)).builds[0][0].status == "built"


def test_what_only_some_nans_spoil_is_blamed_with_its_step():
    class Half(Net):
        def scores(self, x):
            return self.net(torch.where(x.isnan() & (x[:, :1] > 0), 0.0, x))

    bad = met(r25=np.nan, r45=np.nan)
    bad.observations["x"][[25, 45], 0] = 1.0, -1.0
    with pytest.raises(ObservationError, match=r"At step 5 of episode 1 of the held-out observations: Observation 'x'"):
        exported(Half(), bad)


def test_masks_of_minus_infinity_are_called_masks():
    class Masked(Net):
        def scores(self, x):
            return torch.where(x[:, :3] > 0.5, -torch.inf, self.net(x))

    with pytest.raises(ScoresError, match=r"that of '[abc]' is -inf\. Is that a mask\? Let it be a finite number"):
        exported(Masked())


def test_a_weight_that_is_nan_is_named():
    module = Net()
    with torch.no_grad():
        module.net[2].weight[0, 0] = torch.nan
    with pytest.raises(
        ScoresError, match=r"that of 'a' is nan, of finite inputs.* Its weight `net\.2\.weight` holds NaN"
    ):
        exported(module)


def test_the_layer_that_makes_nan_is_named_and_so_is_the_policys_own_forward():
    class Roots(nn.Module):
        def forward(self, x):
            return x.sqrt()

    class InALayer(Net):
        def __init__(self):
            super().__init__()
            self.roots = Roots()

        def scores(self, x):
            return self.net(self.roots(x - 5))

    class InItself(Net):
        def scores(self, x):
            return self.net(x).sub(50).log()

    with pytest.raises(ScoresError, match=r"No weight is NaN\. It begins in `roots` \(Roots\)"):
        exported(InALayer())
    assert not_finite(InItself(), [torch.zeros(1, 6)]) == "No weight is NaN. It begins in its own forward."


class Sensor(gymnasium.Env):
    """Its sensor fails at step 4."""

    observation_space = gymnasium.spaces.Box(-10, 10, (6,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(6, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(6, np.nan if self.steps == 4 else 0.1, np.float32), 0.0, False, self.steps > 8, {}


@pytest.fixture
def sensor():
    gymnasium.register("Sensor-v0", Sensor)
    yield replace(SPEC, task="env:Sensor-v0", observations=(TensorSpec("observation", "float32", (6,)),))
    del gymnasium.registry["Sensor-v0"]


def test_an_environment_whose_observation_is_nan_is_blamed_with_the_step(sensor):
    said = r"env:Sensor-v0, step 4 of an episode: Observation 'observation' holds nan \(element \[0\]\)"
    with pytest.raises(ObservationError, match=said):
        export(Deployable(Net(), sensor), "eager", Path("made.bundle"))


def test_a_module_that_fails_in_its_environment_is_blamed_with_the_step(sensor):
    class Fails(Net):
        def scores(self, x):
            assert not (x > 0).any(), "positive"
            return self.net(x)

    with pytest.raises(UsageError, match=r"step 1 of an episode: the module fails .*\(Assert.* positive"):
        export(Deployable(Fails(), sensor), "eager", Path("made.bundle"))


# Batches.


class OverItsBatch(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def scores(self, x):
        return self.net(self.norm(x))


class OverItsBatchAndTime(OverItsBatch):
    def scores(self, x):
        return self.net(self.norm(x[:, :, None].expand(-1, -1, 4) * torch.arange(4.0))[:, :, 2])


class StaysInTraining(OverItsBatch):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def train(self, mode=True):
        return super().train(True)


def test_a_normalization_over_the_batch_is_named():
    for module, said in (
        (OverItsBatch(), r"fails on one of 1 .*: `norm` \(BatchNorm1d without running statistics\)"),
        (StaysInTraining(), r"fails on one of 1 .*: `norm` \(BatchNorm1d in training mode\)"),
    ):
        with pytest.raises(UsageError, match=said):
            exported(module)
    assert batch_norms(Net()) == ""
    said = r"depends on the other rows of its batch.* mixes them is `norm` \(BatchNorm1d without running statistics\)"
    with pytest.raises(FidelityError, match=said):
        exported(OverItsBatchAndTime())


def test_a_layer_of_ones_own_that_mixes_rows_is_named():
    class Centers(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    class Inside(Net):
        def __init__(self):
            super().__init__()
            self.before = nn.Sequential(nn.Linear(6, 6), Centers())

        def scores(self, x):
            return self.net(self.before(x))

    with pytest.raises(FidelityError, match=r"The first layer that mixes them is `before\.1` \(Centers\)"):
        exported(Inside())


# Copies.


class Slotted(nn.Identity):
    __slots__ = ("factor", "lock")

    def __init__(self):
        super().__init__()
        self.factor, self.lock = 2.0, threading.Lock()

    def forward(self, x):
        return x * self.factor


class Refuses(nn.Linear):
    def __init__(self):
        super().__init__(6, 6)

    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")


class Itself(Refuses):
    def __deepcopy__(self, memo):
        return self


class Helper:
    """Holds what holds it, beside a lock."""

    def __init__(self, owner):
        self.owner, self.more = owner, {"locks": [threading.Lock()], "table": torch.zeros(6)}


def keep(module):
    module.kept = torch.distributions.Normal(module.net[0](torch.zeros(1, 6)), 1.0)
    module.register_buffer("mean", module.net[0](torch.zeros(1, 6)) * 2)


def hooks(module):
    lock = threading.Lock()

    class Hook:
        def __init__(self):
            self.lock = lock

        def __call__(self, module, given, made):
            return made * 1

    module.net[0].register_forward_hook(Hook())
    module.net[0].register_forward_pre_hook(lambda module, given: given)


CANNOT_BE_COPIED = {
    "lock": lambda m: setattr(m, "lock", threading.Lock()),
    "locks in containers": lambda m: setattr(m, "all", OrderedDict(a=[({"b": threading.RLock()},)])),
    "helper that holds its owner": lambda m: setattr(m, "helper", Helper(m)),
    "tensors of a graph": keep,
    "generator": lambda m: setattr(m, "rows", (i for i in range(3))),
    "torch generator": lambda m: setattr(m, "rng", torch.Generator()),
    "file": lambda m: setattr(m, "file", sys.__stderr__),
    "hook with a lock": hooks,
    "weak reference": lambda m: setattr(m, "first", weakref.ref(m.net[0])),
    "module of Python": lambda m: setattr(m, "numpy", np),
    "old weight norm": lambda m: weight_norm(m.net[0]),
    "old spectral norm": lambda m: spectral_norm(m.net[0]),
    "parametrized": lambda m: parametrizations.weight_norm(m.net[0]),
    "slots": lambda m: m.net.insert(0, Slotted()),
    "shared submodule": lambda m: setattr(m, "again", m.net),
}


@OLD_NORMS
@pytest.mark.parametrize("what", CANNOT_BE_COPIED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_modules_that_cannot_be_copied_whole_are_deployed_in_every_precision(what, precision):
    module = Net()
    CANNOT_BE_COPIED[what](module)
    x = torch.randn(4, 6)
    wanted = module.eval()(x)[1]
    with torch.no_grad():
        found = Deployable(module, SPEC).deploy(precision)(x)[1]
    torch.testing.assert_close(found, wanted.detach(), atol=1e-6 if precision == "fp32" else 0.05, rtol=0.01)
    assert next(module.parameters()).dtype == torch.float32
    assert next(module.parameters()).requires_grad


@OLD_NORMS
@pytest.mark.parametrize("what", ["old weight norm", "helper that holds its owner", "tensors of a graph"])
def test_modules_that_cannot_be_copied_whole_are_exported(what):
    module = Net()
    CANNOT_BE_COPIED[what](module)
    module(torch.zeros(1, 6))
    built = exported(module, targets="eager,torchscript").builds
    assert [build.status for build, _ in built] == ["built", "built"], built


def test_only_what_cannot_be_copied_is_shared():
    module = Net()
    module.helper = Helper(module)
    duplicate = copied(module)
    assert duplicate.helper.owner is duplicate
    assert duplicate.helper.more["table"] is not module.helper.more["table"]
    assert duplicate.helper.more["locks"][0] is module.helper.more["locks"][0]


def test_what_has_a_destructor_is_not_copied():
    closed = []

    class Camera:
        def __del__(self):
            closed.append(self)

    module = Net()
    module.camera = Camera()
    assert Deployable(module, SPEC).deploy().module.camera is module.camera
    assert not closed


def test_a_module_that_cannot_be_looked_through_is_refused(tmp_path):
    module = Net()
    module.first = weakref.proxy(module.net[0])  # PyTorch takes it for a submodule
    with pytest.raises(UsageError, match=r"The module cannot be put into eval mode \(TypeError: unhash"):
        exported(module)


class Whole(Net):
    def __reduce_ex__(self, protocol):
        raise TypeError("not this one")


def test_a_module_that_cannot_be_copied_at_all_is_exported_as_it_is():
    module = Whole()
    assert exported(module).builds[0][0].status == "built"
    with pytest.raises(UsageError, match=r"no bf16: a Whole cannot be copied \(TypeError: not this one\)"):
        Deployable(module, SPEC).deploy("bf16")
    assert module.net[0].weight.dtype == torch.float32


def test_a_distribution_that_is_kept_from_a_forward_pass_is_named():
    class Keeps(Net):
        def scores(self, x):
            scores = self.net(x)
            self.distribution = torch.distributions.Categorical(logits=scores)
            return scores

    module = Keeps()
    module(torch.zeros(1, 6))
    with pytest.raises(FidelityError, match=r"attribute `distribution` changed\. .*, or do not keep it"):
        exported(module)


@pytest.mark.parametrize(
    ("part", "why"),
    [(Refuses, "RuntimeError: one of a kind"), (Itself, "its copy is itself")],
)
def test_a_submodule_that_cannot_be_copied_is_exported_as_it_is_and_never_cast(part, why):
    class Policy(Net):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(part())

        def scores(self, x):
            return self.net(self.encoder(x))

    module = Policy()
    policy = Deployable(module, SPEC)
    assert policy.deploy().module.encoder[0] is module.encoder[0]
    assert module.encoder[0].weight.requires_grad
    with pytest.raises(UsageError, match=rf"no fp16: `encoder\.0` cannot be copied \(({why})"):
        policy.deploy("fp16")
    assert module.encoder[0].weight.dtype == torch.float32
    assert exported(module).builds[0][0].status == "built"


def test_a_weight_without_a_value_is_named():
    lazy = Net()
    lazy.net[2] = nn.LazyLinear(3)
    with pytest.raises(UsageError, match=r"The module's weight `net\.2\.weight` has no value yet"):
        exported(lazy)
    with pytest.raises(UsageError, match=r"The module's weight `net\.0\.weight` has no value yet"):
        exported(Net().to("meta"))


def test_what_else_a_state_dict_holds_does_not_matter():
    class Extra(Net):
        def get_extra_state(self):
            return {"version": 3}

        def set_extra_state(self, state):
            pass

    assert exported(Extra()).builds[0][0].status == "built"
