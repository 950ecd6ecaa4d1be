"""Does the verifier itself work? Of random policies with random faults it refuses what does harm, and nothing else."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from benchmarks.claims import Options, Outcome
from benchmarks.claims._cases import HARMFUL, HARMLESS, RIGHT, Case, Plan
from export.libraries.cores import processes
from xfer import user_code
from xfer.errors import UnavailableError

SHOWS_PROGRESS = True
POLICIES = 30
EACH = 30
"""Harmful cases of each kind of fault at least."""
SPARE = 1.3
"""How many times as many are tried for, since not every draw is harmful."""
MIN_HARMFUL, MIN_HARMLESS, MAX_REFUSED = 300, 200, 0.02
CLAIM = (
    f"Of {POLICIES} random policies, none of at least {MIN_HARMFUL} faults that do harm ({HARMFUL:g} times a gate's"
    f" limit, measured live; at least {EACH} of each kind) passes fidelity, numbers and actions, and of at"
    f" least {MIN_HARMLESS} that do none ({HARMLESS:g} of every limit at most) at most {MAX_REFUSED:.0%} are refused."
)


@user_code.starting_processes()
def reproduce(options: Options) -> Outcome:
    """Examine the policies, on all cores."""
    check_libraries()
    from rich.progress import Progress

    from benchmarks.claims._examine import examine

    policies = options.runs or POLICIES
    plans = [Plan(counts) for counts in wanted(options.seed, policies)]
    cases: dict[int, list[Case]] = {}
    context = multiprocessing.get_context("spawn")
    with Progress(transient=True) as progress, ProcessPoolExecutor(processes(), context) as executor:
        bar = progress.add_task("policies", total=policies)
        futures = {executor.submit(examine, options.seed, index, plan): index for index, plan in enumerate(plans)}
        for future in as_completed(futures):
            cases[futures[future]] = future.result()
            progress.advance(bar)
    return outcome([case for index in range(policies) for case in cases[index]], policies)


def check_libraries() -> None:
    """Say what is missing of what policies are exported with.

    Raises:
        UnavailableError: If something is.
    """
    from export.targets import onnx

    if missing := onnx.available():
        raise UnavailableError(missing)


def wanted(seed: int, policies: int) -> list[dict[str, int]]:
    """Return how many harmful cases of each fault each policy has to give: those that can have it share them."""
    from benchmarks.claims import _faulty_modules as modules
    from benchmarks.claims import _planted_faults as planted
    from benchmarks.claims._random_policies import make

    specs = [make(seed, index).spec for index in range(policies)]
    able = {
        name: [index for index, spec in enumerate(specs) if fault.fits(spec)] for name, fault in planted.FAULTS.items()
    }
    able |= {name: list(range(policies)) for name in modules.FAULTS}
    total = math.ceil(SPARE * EACH * policies / POLICIES)
    counts: list[dict[str, int]] = [{} for _ in specs]
    for name, indices in able.items():
        for rank, index in enumerate(indices):
            counts[index][name] = total * (rank + 1) // len(indices) - total * rank // len(indices)
    return counts


def outcome(cases: Iterable[Case], policies: int) -> Outcome:
    """Return the table, and in words what should not have happened.

    Args:
        cases: All of them.
        policies: How many policies they are of; with fewer than ``POLICIES``, fewer of them are asked for.
    """
    cases = list(cases)
    part = min(policies / POLICIES, 1.0)
    rows = [row(name, [case for case in cases if case.fault == name], part * EACH) for name in kinds()]
    total = row("all", cases, part * MIN_HARMFUL)
    enough = total["harmless"] >= part * MIN_HARMLESS
    total["holds"] = total["holds"] and enough and total["harmless_refused"] <= MAX_REFUSED * total["harmless"]
    wrong = [f"Passed: {case}" for case in cases if case.is_harmful and not case.refused]
    wrong += [f"Refused: {case}" for case in cases if case.is_harmless and case.refused]
    breaking = [bool(case.refused) for case in cases if case.breaks_contract and not case.is_harmful]
    if breaking:
        wrong.append(
            f"Of {len(breaking)} modules that break the contract with little effect, or none, {sum(breaking)} were"
            " refused."
        )
    return Outcome((*rows, total), tuple(wrong))


def kinds() -> list[str]:
    """Return the kinds of cases, the right exports first."""
    from benchmarks.claims import _faulty_modules as modules
    from benchmarks.claims import _planted_faults as planted

    return [RIGHT, *planted.FAULTS, *modules.FAULTS]


def row(name: str, cases: list[Case], least: float) -> dict[str, Any]:
    """Return one line of the table, which holds if no harmful case passed and there were enough of them."""
    harmful = [case for case in cases if case.is_harmful]
    harmless = [case for case in cases if case.is_harmless]
    passed = sum(not case.refused for case in harmful)
    return {
        "fault": name,
        "harmful": len(harmful),
        "harmful_passed": passed,
        "harmless": len(harmless),
        "harmless_refused": sum(bool(case.refused) for case in harmless),
        "between": len(cases) - len(harmful) - len(harmless),
        "holds": passed == 0 and (name == RIGHT or len(harmful) >= least),
    }
