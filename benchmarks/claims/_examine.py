"""One random policy with its right exports and its faults: the harm that each does, and what the gates say of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims import _faulty_modules, _planted_faults
from benchmarks.claims._cases import RIGHT, Case, Plan
from benchmarks.claims._harm import Alone, Walks, harm, play
from benchmarks.claims._planted import Right
from benchmarks.claims._random_policies import RandomNet, RandomPolicy, make, walk
from export import Deployable
from export.build import export
from export.bundle.reader import Bundle
from export.importers import ImportOptions
from export.libraries.pytorch import trace
from export.targets import Variant
from export.targets.onnx import FILE as GRAPH
from export.verification.held_out import held_out_observations
from export.verification.parity import first_gates
from xfer.errors import FidelityError, XferError
from xfer.models.torch_session import TorchSession, set_threads
from xfer.runner import Arrays, Session, Step
from xfer.spec import PolicySpec


def examine(seed: int, index: int, plan: Plan) -> list[Case]:
    """Export random policy number ``index``, plant faults, and ask the gates.

    Args:
        seed: Of all that is random.
        index: Which policy.
        plan: How much is done.
    """
    set_threads(1)
    with tempfile.TemporaryDirectory(prefix="xfer-verifier-") as folder, ExitStack() as stack:
        bench = Bench(make(seed, index), (seed, index), plan, Path(folder), stack)
        try:
            return [*bench.right_exports(), *bench.faults()]
        except FidelityError as error:
            return [Case(RIGHT, bench.policy.kind, "all forms", {"fidelity": (0.0, 0.0)}, f"fidelity: {error}")]


def drawn(plan: Plan, name: str, draw: Callable[[], Case]) -> Iterator[Case]:
    """Yield cases of one kind until enough of them are harmful, or the tries are used up."""
    harmful = 0
    for _ in range(plan.tries * plan.wanted[name]):
        if harmful == plan.wanted[name]:
            return
        case = draw()
        harmful += case.is_harmful
        yield case


def can_have(spec: PolicySpec, form: str) -> bool:
    """Whether a policy has a form: int8 is for convolutions, and OpenVINO 2026.4.1 dies of a mask behind a tanh."""
    names = {tensor.name for tensor in spec.observations}
    if form.startswith("openvino"):
        return "mask" not in names
    return "frame" in names or not form.endswith("int8")


class Crowded:
    """A session in a larger batch: other rows stand beside those that are asked for."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the session on the rows and on seven others, and give the answers of the former."""
        count = len(next(iter(observations.values())))
        several = (
            {name: np.resize(a, (count + 7, *a.shape[1:])) for name, a in x.items()} for x in (observations, states)
        )
        step = self.session.step(*several)
        return Step(step.action[:count], step.scores[:count], {name: a[:count] for name, a in step.states.items()})


class Exchanged(Bundle):
    """A bundle in which a session stands in the place of a variant's files."""

    def __init__(self, path: Path, variant: str, session: Session) -> None:
        super().__init__(path)
        self.variant, self.exchanged = variant, session

    @contextmanager
    def session(self, variant: str, *, threads: int = 1, spin: bool = False) -> Iterator[Session]:
        """Open a variant, or give the session in the place of one."""
        if variant == self.variant:
            yield self.exchanged
        else:
            with super().session(variant, threads=threads, spin=spin) as session:
                yield session


class Bench:
    """A policy's right exports, and what the live policy does on the observations that harm is measured on."""

    def __init__(self, policy: RandomPolicy, seed: tuple[int, int], plan: Plan, folder: Path, stack: ExitStack) -> None:
        self.policy, self.seed, self.plan, self.folder, self.stack = policy, seed, plan, folder, stack
        self.recorded = folder / "recorded.safetensors.gz"
        walk(policy, (*seed, 0), plan.observations).save(self.recorded)
        self.walks = Walks.of(policy, (*seed, 1), plan.rows, plan.steps)
        self.live = play(TorchSession(policy.deployable.deploy(), policy.spec), policy.spec, self.walks)
        self.number = 0

    def faults(self) -> Iterator[Case]:
        """Yield cases of every kind of fault that the policy can have."""
        draws: dict[str, Callable[[str, np.random.Generator], Case]] = {
            name: self.planted for name, fault in _planted_faults.FAULTS.items() if fault.fits(self.policy.spec)
        }
        draws |= dict.fromkeys(_faulty_modules.FAULTS, self.exported)
        for number, (name, draw) in enumerate(draws.items()):
            if self.plan.wanted.get(name):
                yield from drawn(self.plan, name, partial(draw, name, np.random.default_rng((*self.seed, 2, number))))

    def export(self, deployable: Deployable, forms: tuple[str, ...]) -> Bundle:
        """Export a policy with the recorded observations.

        Raises:
            XferError: If it is refused.
        """
        self.number += 1
        path = self.folder / f"{self.number}.bundle"
        return export(deployable, forms, path, importing=ImportOptions(observations=self.recorded)).bundle

    def right_exports(self) -> Iterator[Case]:
        """Yield a case for each form of the untouched policy, and for it in a larger batch."""
        forms = tuple(form for form in self.plan.forms if can_have(self.policy.spec, form))
        self.bundle = self.export(self.policy.deployable, forms)
        self.held_out = held_out_observations(self.bundle)[0]
        for form, build in self.bundle.builds.items():
            if build.status == "built":
                session = self.stack.enter_context(self.bundle.session(form))
                yield self.judged(RIGHT, form, form, session)
        session = self.stack.enter_context(self.bundle.session(self.plan.planted_in))
        yield self.judged(RIGHT, "among seven rows", self.plan.planted_in, Crowded(session))
        graph = self.bundle.path / self.bundle.builds[self.plan.planted_in].folder / GRAPH
        scores, actions = (np.concatenate([getattr(one, name) for one in self.live]) for name in ("scores", "actions"))
        self.right = Right(
            self.policy.spec,
            session,
            graph.read_bytes() if graph.exists() else b"",
            np.subtract(*np.percentile(scores, [75, 25], axis=0)),
            actions.min(axis=0),
            actions.max(axis=0),
            self.stack,
        )

    def planted(self, fault: str, rng: np.random.Generator) -> Case:
        """Plant a fault in the session or graph of a right export."""
        planted = _planted_faults.FAULTS[fault].plant(self.right, rng)
        return self.judged(fault, planted.strength, self.plan.planted_in, planted.session)

    def judged(self, fault: str, strength: str, variant: str, session: Session) -> Case:
        """Measure the harm of a session that is given out for a variant, and ask the gates."""
        found = harm(self.bundle, self.live, session, self.walks, Variant.parse(variant).precision)
        exchanged = Exchanged(self.bundle.path, variant, session)
        verdict = first_gates(exchanged, [variant], self.held_out, lambda name: None)[variant]
        refused = verdict.reason or verdict.status if verdict.status != "provisional" else ""
        return Case(fault, self.policy.kind, strength, found, refused)

    def exported(self, fault: str, rng: np.random.Generator) -> Case:
        """Make the module itself a faulty one, and export that."""
        inner, spec = self.policy.deployable.module, self.policy.spec
        assert isinstance(inner, RandomNet)
        seed = int(rng.integers(2**31))
        module = _faulty_modules.FAULTS[fault](inner, np.random.default_rng(seed))
        faulty = Deployable(module, spec)
        torch.manual_seed(int(rng.integers(2**31)))
        np.random.seed(int(rng.integers(2**31)))
        # What it does live, against its trace in a batch, and against what it does in one when it has acted before.
        session, traced = TorchSession(faulty.deploy(), spec), TorchSession(trace(faulty.deploy(), spec), spec)
        live = play(Alone(session), spec, self.walks)
        found = harm(self.bundle, live, traced, self.walks, "fp32")
        for gate, figure in harm(self.bundle, live, session, self.walks, "fp32").items():
            found[gate] = max(found.get(gate, figure), figure)
        # A new one that has not acted yet: what a closure counts, copies share.
        said = self._refusal(Deployable(_faulty_modules.FAULTS[fault](inner, np.random.default_rng(seed)), spec))
        return Case(fault, self.policy.kind, module.strength, found, said, breaks_contract=True)

    def _refusal(self, faulty: Deployable) -> str:
        """Return what export, or else a gate, says of a faulty module; empty if all let it pass."""
        try:
            bundle = self.export(faulty, ("eager-fp32",))
        except XferError as error:
            return f"fidelity: {error}"
        verdict = first_gates(bundle, ["eager-fp32"], held_out_observations(bundle)[0], lambda name: None)["eager-fp32"]
        return verdict.reason or verdict.status if verdict.status != "provisional" else ""
