"""A small run of the mutation test: harmful faults of each kind are refused, nothing else is, each gate is needed."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.claims import _faulty_modules, _planted_faults, verifier
from benchmarks.claims._cases import RIGHT, Case, Plan
from benchmarks.claims._examine import Bench, examine
from benchmarks.claims._random_policies import KINDS, make, steps_of, walk
from export.verification import parity

KIND = list(KINDS)
SMALL = Plan(
    dict.fromkeys((*_planted_faults.FAULTS, *_faulty_modules.FAULTS), 1),
    forms=("eager-fp32", "onnx-fp32"),
    observations=700,
    steps=300,
)


SMALLER = replace(
    SMALL,
    wanted={name: 1 for name in _planted_faults.FAULTS if "weight" not in name and "layer" not in name},
    forms=("eager-fp32", "torchscript-fp32"),
    planted_in="torchscript-fp32",
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with ExitStack() as stack:
        bench = Bench(make(0, KIND.index("continuous GRU")), (0, 0), SMALL, tmp_path_factory.mktemp("verifier"), stack)
        bench.cases = list(bench.right_exports())
        yield bench


@pytest.fixture(scope="module")
def cases(bench):
    """All kinds of faults in a policy that can have all of them, and in a masked one."""
    return [*bench.cases, *bench.faults(), *examine(0, KIND.index("masked"), SMALLER)]


def test_every_kind_of_fault_is_refused_where_it_does_harm(cases):
    harmful = [case for case in cases if case.is_harmful]
    assert {case.fault for case in harmful} == set(verifier.kinds()) - {RIGHT}
    assert [str(case) for case in harmful if not case.refused] == []


def test_right_exports_and_faults_without_effect_pass(cases):
    harmless = [case for case in cases if case.is_harmless]
    assert sum(case.fault == RIGHT for case in harmless) == 6
    assert len(harmless) > 10, "some faults are too weak to matter"
    assert [str(case) for case in harmless if case.refused] == []


def test_without_the_numbers_gate_a_harmful_case_passes(bench, monkeypatch):
    monkeypatch.setattr(parity, "numbers", lambda *args, **kwargs: parity.Numbers(0.0, None))
    assert any_passes(bench, "batch rows mixed")


def test_without_the_actions_gate_a_harmful_case_passes(bench, monkeypatch):
    monkeypatch.setattr(parity, "actions", lambda *args, **kwargs: parity.Actions(1.0, 0.0, 1, ()))
    assert any_passes(bench, "one step late")


def any_passes(bench, fault):
    cases = [bench.planted(fault, np.random.default_rng(seed)) for seed in range(8)]
    return any(case.is_harmful and not case.refused for case in cases)


def test_the_same_seed_gives_the_same_case(bench):
    one, other = (str(bench.planted("weight scaled", np.random.default_rng(5))) for _ in range(2))
    assert one == other
    assert one != str(bench.planted("weight scaled", np.random.default_rng(6)))


@pytest.mark.parametrize("index", range(len(KINDS)), ids=KIND)
def test_walks_have_the_types_of_the_spec_and_tell_the_step(index):
    policy = make(0, index)
    seen = walk(policy, (0, index), 300)
    assert {name: (str(a.dtype), a.shape) for name, a in seen.observations.items()} == {
        o.name: (o.dtype, (300, *o.shape)) for o in policy.spec.observations
    }
    assert 2 <= seen.resets.sum() <= 3
    since = np.arange(300) - np.maximum.accumulate(np.where(seen.resets, np.arange(300), 0))
    assert (steps_of(seen.observations) == since).all()


def case(fault, figure, refused="", **changes):
    return Case(fault, "MLP", "some", {"numbers": figure, "actions": (0.0, 0.1)}, refused, **changes)


def all_is_well():
    """As many cases of each kind as one policy of thirty has to give."""
    return [case(RIGHT, (0, 0.1))] * 10 + [case(kind, (2, 9), "numbers: no") for kind in verifier.kinds()[1:]]


def test_the_claim_holds_where_every_kind_is_refused():
    found = verifier.outcome(all_is_well(), policies=1)
    assert found.holds
    assert found.notes == ()
    assert [row["fault"] for row in found.rows] == [*verifier.kinds(), "all"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (
            case("weight scaled", (2, 3)),
            "Passed: weight scaled in MLP (some): numbers 2 to 3, actions 0 to 0.1 of the limit; passed",
        ),
        (case(RIGHT, (0, 0.5), "numbers: no"), "Refused: right export in MLP (some): numbers 0 to 0.5"),
    ],
)
def test_one_that_passes_or_too_many_that_are_refused_fail_the_claim_and_are_named(wrong, named):
    found = verifier.outcome([*all_is_well(), wrong], policies=1)
    assert not found.holds
    assert found.notes[0].startswith(named)


def test_too_few_harmful_cases_of_one_kind_fail_the_claim():
    few = [case for case in all_is_well() if case.fault != "state frozen"]
    found = verifier.outcome(few, policies=1)
    assert [row["fault"] for row in found.rows if not row["holds"]] == ["state frozen"]


def test_what_lies_between_is_reported_and_not_counted():
    between = [case("weight scaled", (0.5, 1.9), "numbers: no"), case("weight scaled", (1.9, 9))]
    found = verifier.outcome([*all_is_well(), *between], policies=1)
    assert found.holds
    assert {row["fault"]: row["between"] for row in found.rows}["weight scaled"] == 2


def test_a_module_that_breaks_the_contract_without_effect_is_neither_harmless_nor_counted():
    unseen = case("branch on a tensor's value", (0, 0), "fidelity: no", breaks_contract=True)
    found = verifier.outcome([*all_is_well(), unseen], policies=1)
    assert found.holds
    assert found.notes == ("Of 1 modules that break the contract with little effect, or none, 1 were refused.",)


def test_policies_that_can_have_a_fault_share_what_is_wanted_of_it():
    counts = verifier.wanted(0, 30)
    assert sum(count["weight scaled"] for count in counts) == 39
    frozen = {index: count["state frozen"] for index, count in enumerate(counts) if "state frozen" in count}
    assert sum(frozen.values()) == 39
    assert {KIND[index % len(KIND)] for index in frozen} == {"GRU", "continuous GRU"}
    assert [count["weight scaled"] for count in verifier.wanted(0, 2)] == [1, 2], "fewer policies, fewer cases"
