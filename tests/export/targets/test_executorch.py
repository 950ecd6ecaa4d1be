"""What is ExecuTorch's own; the contract that it shares with the other targets is in ``test_targets.py``."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from export import Deployable, targets
from export.bundle.spreads import measure_spreads
from export.targets import ExportOptions, ExportRequest, Place, Variant
from export.verification.parity import actions, numbers
from export.verification.tolerances import compare_scores
from tests.conftest import drive
from xfer.errors import BundleError, UnavailableError, UsageError
from xfer.models.torch_session import runner
from xfer.runner import Runner
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

executorch = targets.load("executorch")
if (reason := executorch.available()) is not None:
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def request_(policy, met):
    return ExportRequest(policy, policy.spec, met, ExportOptions())


@pytest.fixture(scope="module")
def fp32(exported):
    return exported(Variant("executorch", "fp32"))[0]


@pytest.fixture(scope="module")
def int8(exported):
    return exported(Variant("executorch", "int8"))[0]


def zeros(spec, batch):
    return {state.name: state.zeros(batch) for state in spec.states}


def plan(folder):
    """What the program does, outside and inside the delegate."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary((folder / executorch.FILE).read_bytes()).program.execution_plan[0]


def test_fp32_is_eager_over_steps_and_resets_with_batch_1_and_3(fp32, policy, golden):
    spec, wanted = policy.spec, golden.replay(runner(policy))
    with executorch.load(fp32, spec, Place()) as session:
        assert numbers(session, spec, wanted, "fp32", 8).failure == ""
        found = golden.replay(Runner(session, spec))
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_int8_stays_close_to_eager_on_observations_that_it_was_not_calibrated_on(int8, policy):
    spec, met = policy.spec, drive(seed=9, steps=80)
    wanted = met.replay(runner(policy))
    with executorch.load(int8, spec, Place()) as session:
        found = met.replay(Runner(session, spec))
    spreads = measure_spreads([wanted], spec)
    compared = compare_scores(wanted.scores, found.scores, spec, spreads, "int8")
    drift = compared.difference / np.array(spreads.scores)
    assert 1e-4 < drift.mean() < 0.1
    assert actions(wanted, found, spec, "int8").failure == ""


def size(folder):
    return (folder / executorch.FILE).stat().st_size


def test_xnnpack_runs_every_convolution_and_those_of_the_trunk_in_int8(fp32, int8, policy):
    for folder in (fp32, int8):
        program = plan(folder)
        assert {delegate.id for delegate in program.delegates} == {"XnnpackBackend"}
        assert not [operator.name for operator in program.operators if "conv" in operator.name]
    weights = sum(module.weight.numel() for module in policy.trunk.modules() if isinstance(module, nn.Conv2d))
    assert size(fp32) - size(int8) == pytest.approx(3 * weights, rel=0.02)  # bytes


def test_layers_that_were_named_stay_in_float(request_, int8, tmp_path):
    options = ExportOptions(float_layers=("policy.trunk.layer1.0.conv2",))
    facts = executorch.export(replace(request_, options=options), tmp_path, "int8")
    assert size(tmp_path) - size(int8) == pytest.approx(3 * 64 * 64 * 9, rel=0.02)
    assert "kept in float: policy.trunk.layer1.0.conv2" in facts.notes
    options = ExportOptions(float_layers=("policy.trunk.layer1.0.conv3",))
    with pytest.raises(UsageError, match=r"Did you mean 'policy\.trunk\.layer1\.0\.conv"):
        executorch.export(replace(request_, options=options), tmp_path, "int8")


def test_a_batch_that_is_too_large_is_refused(fp32, request_, policy, met, tmp_path):
    assert executorch.export(replace(request_, options=ExportOptions(max_batch=1)), tmp_path, "fp32").max_batch == 1
    for folder, largest in ((fp32, 8), (tmp_path, 1)):
        with executorch.load(folder, policy.spec, Place()) as session:
            few, many = ({"frame": met.observations["frame"][:batch]} for batch in (largest, largest + 1))
            assert session.step(few, zeros(policy.spec, largest)).scores.shape == (largest, 2)
            with pytest.raises(UsageError, match=f"A batch of {largest + 1} does not fit: .* takes {largest} at most"):
                session.step(many, zeros(policy.spec, largest + 1))


SMALL = PolicySpec(
    "",
    50.0,
    (TensorSpec("frame", "float32", (3, 6, 6)),),
    (TensorSpec("memory", "float32", (4,)),),
    ActionSpec("discrete", ("left", "stay", "right")),
    "logits",
)


class Copies(nn.Module):
    """Somebody's policy that orders memory itself, and writes to a copy of what it sees."""

    def __init__(self):
        super().__init__()
        self.look, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, frame, memory):
        copy = frame.clone(memory_format=torch.channels_last)
        copy.mul_(2)
        scores = self.head((self.look(frame) + self.look(copy)).relu().mean((2, 3)) + memory)
        return scores.argmax(1), scores, memory.clone()


class Recurrent(nn.Module):
    """One whose cell gives the program a batch of its own."""

    def __init__(self):
        super().__init__()
        self.look, self.cell, self.head = nn.Conv2d(3, 4, 6), nn.LSTMCell(4, 4), nn.Linear(4, 3)

    def forward(self, frame, memory):
        after, _ = self.cell(self.look(frame).flatten(1), (memory, memory))
        scores = self.head(after)
        return scores.argmax(1), scores, after


@pytest.mark.parametrize(("module", "largest"), [(Copies, 8), (Recurrent, 1)])
def test_what_was_built_runs_where_it_must_be_with_a_batch_of_1(module, largest, tmp_path, capfd):
    torch.manual_seed(0)
    policy, rng = Deployable(module(), SMALL), np.random.default_rng(0)
    frames, memory = rng.random((3, 3, 6, 6), np.float32), rng.random((3, 4), np.float32)
    request = ExportRequest(policy, SMALL, Trajectories({"frame": frames}, np.ones(3, bool)), ExportOptions())
    facts = executorch.export(request, tmp_path, "fp32")
    assert facts.max_batch == largest
    assert ("for a batch of 1, since with more: RuntimeError: a batch of 8" in facts.notes) == (largest == 1)
    with torch.inference_mode():
        wanted = policy.deploy()(torch.from_numpy(frames), torch.from_numpy(memory))[1]
    with executorch.load(tmp_path, SMALL, Place()) as session:
        for batch in (1, min(3, largest)):
            found = session.step({"frame": frames[:batch]}, {"memory": memory[:batch]})
            np.testing.assert_allclose(found.scores, wanted[:batch], atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_observations_that_are_not_contiguous_are_understood(fp32, policy, met):
    frame = met.observations["frame"][:1]
    mirrored = frame[:, :, ::-1]
    # As 4-dimensional data, this one looks like channels-last to PyTorch.
    turned = np.ascontiguousarray(frame.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with executorch.load(fp32, policy.spec, Place()) as session:

        def scores(form):
            return session.step({"frame": form}, zeros(policy.spec, 1)).scores

        np.testing.assert_array_equal(scores(mirrored.copy()), scores(np.ascontiguousarray(mirrored)))
        np.testing.assert_array_equal(scores(turned), scores(frame))


def test_it_has_the_threads_that_were_asked_for_and_one_number_of_them_at_a_time(fp32, policy):
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    for threads in (2, 1):
        with executorch.load(fp32, policy.spec, Place(threads=threads)):
            assert _threadpool_get_thread_count() == threads
            with executorch.load(fp32, policy.spec, Place(threads=threads)):
                pass
            with (
                pytest.raises(UsageError, match=f"a session with {threads} is open"),
                executorch.load(fp32, policy.spec, Place(threads=3)),
            ):
                pass


def test_the_library_says_nothing_on_the_terminal(fp32, policy, capfd):
    with executorch.load(fp32, policy.spec, Place(threads=2)):
        pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-1000], lambda data: b"x" * len(data)])
def test_a_damaged_file_is_refused_in_one_line_with_its_name(fp32, policy, tmp_path, damage):
    damaged = shutil.copytree(fp32, tmp_path / "damaged")
    (damaged / executorch.FILE).write_bytes(damage((fp32 / executorch.FILE).read_bytes()))
    with (
        pytest.raises(BundleError, match=r"policy\.pte: ExecuTorch cannot load it: [^\n]+$"),
        executorch.load(damaged, policy.spec, Place()),
    ):
        pass


@pytest.mark.parametrize("library", ["executorch", "torch"])
def test_without_its_libraries_it_says_what_to_install(fp32, policy, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert executorch.runnable("") == "ExecuTorch is not installed: pip install 'xfer-policy[executorch]'"
    with pytest.raises(UnavailableError, match="not installed"), executorch.load(fp32, policy.spec, Place()):
        pass
