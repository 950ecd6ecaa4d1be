"""A policy with a GRU beside its history keeps its state right, in every target: over 200 steps, with two resets."""

import numpy as np
import pytest
import torch

from export import targets
from export.targets import ExportOptions, ExportRequest, Place, Variant
from export.verification.fault_injection import graphs as faulty_graphs
from xfer.models.config import PolicyConfig
from xfer.models.policy import Policy
from xfer.runner import Runner
from xfer.spec import ActionSpec, ImageConfig, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

VARIANTS = [
    pytest.param(
        Variant(name, precision), marks=[pytest.mark.slow] if precision == "bf16" else [], id=f"{name}-{precision}"
    )
    for name in targets.names()
    for precision in targets.load(name).PRECISIONS
]
"""bf16 is slow: it is for compilers that take long, and there fp32 has the same states."""
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.06}
"""How far scores may be off, as a share of their own spread; int8's are another network's."""

IMAGE = ImageConfig((0, 32, 0, 32), shrink=2)
SPEC = PolicySpec(
    "no-such-task",
    20.0,
    (
        TensorSpec("joints", "float32", (3,), ("a", "b", "c"), "rad"),
        TensorSpec("frame", "uint8", (32, 32, 3), color_order="RGB", value_range=(0, 255)),
    ),
    (TensorSpec("history", "float32", (2, 16, 16)), TensorSpec("memory", "float32", (12,))),
    ActionSpec("discrete", ("left", "stay", "right")),
    "logits",
)
STEPS, ROWS = 200, 3
RESETS = np.zeros((STEPS, ROWS), bool)
RESETS[[60, 150], 0] = RESETS[[60, 110], 1] = RESETS[[85, 150], 2] = True
"""Two a row; some of one row alone, so that the others must go on."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def policy():
    """Random weights, with a memory that is larger than life: what it holds decides as much as what is seen."""
    torch.manual_seed(0)
    policy = Policy(PolicyConfig("resnet18", "stem", "average", 8, IMAGE, (16,), "gru", 12), SPEC).eval()
    policy.fit_standardize("all", torch.zeros(1), torch.from_numpy(seen()["joints"]).flatten(0, 1))
    with torch.no_grad():
        policy.head.memory.weight_hh.mul_(3)
        policy.head.memory.weight_ih.mul_(3)
    return policy


def seen(seed=0):
    """Observations [STEPS, ROWS, ...] in which neighboring steps are alike."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (STEPS // 5, ROWS, 32, 32, 3), np.uint8).repeat(5, axis=0)
    joints = np.cumsum(rng.standard_normal((STEPS, ROWS, 3)) / 3, axis=0).astype(np.float32)
    return {"joints": joints, "frame": frames}


def by_hand(policy, observations, resets, *, kept=("history", "memory")):
    """Scores of the deployed module, in eager PyTorch; states that are not ``kept`` are cleared before every step."""
    module = policy.deploy()
    states = [torch.from_numpy(state.zeros(ROWS)) for state in SPEC.states]
    scores = []
    for step in range(len(resets)):
        for spec, state in zip(SPEC.states, states, strict=True):
            state[torch.from_numpy(resets[step]) if spec.name in kept else slice(None)] = 0
        with torch.no_grad():
            _, score, *states = module(*(torch.from_numpy(o[step]) for o in observations.values()), *states)
        scores.append(score)
    return torch.stack(scores).numpy()


def play(session, observations, resets, batch):
    """Scores of a runner on the first rows of the batch."""
    runner, scores = Runner(session, SPEC, batch), []
    for step in range(len(resets)):
        if resets[step, :batch].any():
            runner.reset(resets[step, :batch])
        scores.append(runner.act({name: array[step, :batch] for name, array in observations.items()}).scores)
    return np.stack(scores)


def test_what_is_remembered_decides(policy):
    observations = seen()
    whole = by_hand(policy, observations, RESETS)
    for kept in ("history", "memory"):
        without = by_hand(policy, observations, RESETS, kept=(kept,))
        assert np.abs(without - whole)[1:].mean() > 0.05 * whole.std()
        assert (without.argmax(2) != whole.argmax(2)).any()
    unreset = by_hand(policy, observations, np.zeros_like(RESETS))
    assert np.abs(unreset - whole)[62:, 0].max() > 0.05 * whole.std()  # the history has forgotten by then


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_are_right_over_200_steps_and_two_resets(variant, policy, tmp_path):
    module, observations = targets.load(variant.target), seen()
    if (reason := module.available()) is not None:
        pytest.skip(reason)
    calibration = Trajectories({name: array[:64, 0] for name, array in observations.items()}, np.arange(64) % 16 == 0)
    facts = module.export(ExportRequest(policy, SPEC, calibration, ExportOptions()), tmp_path, variant.precision)
    if (reason := module.runnable("")) is not None:
        pytest.skip(f"{variant} was built. {reason}")
    batch = min(ROWS, facts.max_batch or ROWS)
    with module.load(tmp_path, SPEC, Place()) as session:
        scores = play(session, observations, RESETS, batch)
        begun = [np.flatnonzero(RESETS[:, row]) for row in range(batch)]
        for row, (first, last) in enumerate(begun):
            untouched = play(session, observations, np.zeros_like(RESETS[:first]), batch)
            np.testing.assert_array_equal(scores[:first, row], untouched[:, row])
            later = {name: array[last:] for name, array in observations.items()}
            fresh = play(session, later, np.zeros_like(RESETS[last:]), batch)
            np.testing.assert_array_equal(scores[last:, row], fresh[:, row])
    if variant.precision in TOLERANCE:
        wanted = by_hand(policy, observations, RESETS)[:, :batch]
        atol = TOLERANCE[variant.precision] * float(wanted.std())
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "mistake",
    [
        faulty_graphs.HistoryStale,
        faulty_graphs.HistoryLate,
        faulty_graphs.HistoryNewestFirst,
        faulty_graphs.HistoryKept,
        faulty_graphs.RowsMixed,
    ],
)
def test_mistakes_with_the_history_can_be_planted_beside_a_memory(mistake, policy):
    wrong, right = mistake(policy, torch.float32).eval(), policy.deploy()
    inputs = [torch.from_numpy(array[0]) for array in seen().values()]
    states = [torch.rand(ROWS, *state.shape) for state in SPEC.states]
    with torch.no_grad():
        found, wanted = (module(*inputs, *states) for module in (wrong, right))
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in wanted]
    assert not all(map(torch.equal, found, wanted))
