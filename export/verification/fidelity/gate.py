"""What the fidelity gate looks at, in which order, and what it says.

The live module, of which everything else is a copy or a trace, acts on all recorded observations, episode by episode.
What it does there is the reference of golden and of the gates that variants go through. A module that is more than its
inputs and its weights is refused, with the true cause:

1. a Python value is made of a tensor's: a trace would hold the one that it met (``python_values.py``);
2. random numbers are drawn;
3. something in the module changes: it remembers (``remembered.py``);
4. the same input gives two answers, or a row depends on the others of its batch;
5. the deployed eager form, loaded from its file, acts differently at some step;
6. a recording holds actions of somebody's own runtime, or the library that trained the policy acts, and the actions are
   others;
7. in the policy's environment, live and deployed form do not run the same episodes.

Of xfer's own networks, whose eager form is their code, only 2 and 3 are looked at.
"""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.bundle.golden import stretches
from export.bundle.manifest import Spreads
from export.bundle.spreads import measure_spreads
from export.bundle.writer import References
from export.importers._copied import copied
from export.importers._deployable import Deployable
from export.importers._layers import mixes_rows, not_finite
from export.libraries.causes import reason
from export.libraries.pytorch import load_eager, save_eager
from export.targets import ExportRequest
from export.verification.fidelity.answers import SHARE, difference
from export.verification.fidelity.live import LiveSession, Moment, Recordings, alone, in_batches, place, refused
from export.verification.fidelity.python_values import python_values, shown
from export.verification.fidelity.remembered import changed, fingerprint
from xfer import tasks
from xfer.errors import ScoresError, UnavailableError, UsageError, XferError
from xfer.models.torch_session import TorchSession
from xfer.runner import Runner, Session
from xfer.spec import PolicySpec
from xfer.tasks import Task
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import acted as through_queue
from xfer.trajectories.chunks import stacked

OTHERS_SHARE = 0.005
"""The share of the spread by which the actions of somebody's own runtime may differ."""
ANSWERS = 512
"""Fewest second answers: few recorded observations are shown several times."""
EPISODES, SEED = 5, 5_000_000
"""Pairs of episodes in the environment, and the seed of the first."""


def act_live(request: ExportRequest, held_out: Trajectories, on_step: Callable[[str], None]) -> References:
    """Let the live policy act on everything recorded, and see whether it can be exported unchanged.

    Args:
        request: The policy and its calibration observations.
        held_out: Its held-out observations.
        on_step: Called with the name of each step.

    Raises:
        FidelityError: If it cannot, with the cause.
        ScoresError: If its scores are not finite.
    """
    policy, spec = request.policy, request.spec
    recordings = {"calibration": request.calibration, "held-out": held_out}
    on_step("checking that the policy can be exported unchanged")
    if isinstance(policy, Deployable):
        live = policy.live()
        with tempfile.TemporaryDirectory() as folder:
            doubts: list[tuple[str, int]] = []
            save_eager(policy, Path(folder), doubts)
            deployed = TorchSession(load_eager(Path(folder)), spec)
        untouched = copied(live)
        _refuse_python_values(live, spec, held_out, doubts)
        acted = _act(LiveSession(live, spec), live, spec, recordings, deployed, doubts)
        _refuse_memory_of_the_first_call(untouched, spec, acted)
        _refuse_another_trace(acted, spec, recordings)
        _refuse_others_actions(acted, spec, recordings)
        _refuse_another_original(policy.original, acted, spec, recordings)
        if (task := _environment(spec)) is not None:
            on_step(f"acting in {task.name} beside its deployed form")
            _refuse_other_episodes(task, LiveSession(live, spec), deployed, spec, acted.spreads)
    else:
        live = policy.deploy()
        acted = _act(LiveSession(live, spec), live, spec, recordings, None)
    made = acted.live["held-out"]
    golden = replace(held_out, actions=made.actions, scores=made.scores)
    return References(golden.take(stretches(held_out, spec), acted.starts), made, held_out.digest(), acted.spreads)


@dataclass(frozen=True)
class _Acted:
    """What was done on the recordings.

    Attributes:
        live: The live module's actions and scores, by recording, without observations; of one that plans ahead, what
            it plans at every step.
        spreads: Of these.
        starts: What golden's stretches start from, by name: states, and the frames before.
        last: The last step.
        deployed: The deployed form's actions and scores, up to where it failed.
        apart: How far the next states of both are apart, for each row and state, by recording.
        sizes: Largest absolute value of each state.
        failure: Why the deployed form went no further, or empty.
        doubts: Lines of which PyTorch warned when it traced the module.
    """

    live: dict[str, Trajectories]
    spreads: Spreads
    starts: dict[str, np.ndarray]
    last: Moment
    deployed: dict[str, Trajectories]
    apart: dict[str, np.ndarray]
    sizes: np.ndarray
    failure: str
    doubts: Sequence[tuple[str, int]] = ()


def _act(
    session: LiveSession,
    live: nn.Module,
    spec: PolicySpec,
    recordings: Recordings,
    deployed: Session | None,
    doubts: Sequence[tuple[str, int]] = (),
) -> _Acted:
    """Let the live module act, and refuse it if it draws random numbers, remembers, or gives two answers."""
    generators = _generators()
    try:
        next(alone(session, spec, recordings))  # what is made once, at the first call, is not remembered
        before = fingerprint(live)
        acted = replace(_play(session, spec, recordings, deployed), doubts=doubts)
    except ScoresError as error:
        raise ScoresError(f"{error} {not_finite(live, session.inputs)}".strip()) from error
    if _generators() != generators:
        raise refused("it draws random numbers. Let it take the mode or the mean of what it draws from.")
    _refuse_changes(before, live)
    for _ in range(0 if deployed is None else -(-ANSWERS // sum(map(len, recordings.values())))):
        mixed = in_batches(session, spec, recordings)
        for name, wanted in acted.live.items():
            if (found := difference(wanted, mixed[name], spec, acted.spreads)) is not None:
                _refuse_changes(before, live)
                _refuse_second_answers(session, spec, recordings, acted, mixed, name, *found)
    return acted


def _play(session: LiveSession, spec: PolicySpec, recordings: Recordings, deployed: Session | None) -> _Acted:
    """Act on every row alone, the deployed form beside the live module."""
    begins = {part.start for part in stretches(recordings["held-out"], spec)}
    starts: dict[str, list[np.ndarray]] = {start.name: [] for start in spec.starts}
    rows: dict[str, list[Moment]] = {name: [] for name in recordings}
    others: dict[str, list[Moment]] = {name: [] for name in recordings}
    apart: dict[str, list[list[float]]] = {name: [] for name in recordings}
    sizes, failure = np.zeros(len(spec.states)), ""
    beside = None if deployed is None else alone(deployed, spec, recordings)
    for moment in alone(session, spec, recordings):
        name, after = moment.recording, [moment.made.states[state.name] for state in spec.states]
        rows[name].append(_without_arrays(moment))
        sizes = np.maximum(sizes, [np.abs(array).max(initial=0) for array in after])
        if name == "held-out" and moment.t in begins:
            for start, kept in starts.items():
                before = moment.states.get(start)
                kept.append(np.array(moment.observations[start][0, :-1] if before is None else before[0]))
        if beside is not None:
            try:
                other = next(beside)
            except Exception as error:  # whatever PyTorch raises of a trace
                beside, failure = None, " ".join(str(error).split())[-300:]
                continue
            others[name].append(_without_arrays(other))
            theirs = [other.made.states[state.name] for state in spec.states]
            apart[name].append([float(np.abs(a - b).max(initial=0)) for a, b in zip(after, theirs, strict=True)])
    live = {name: _trajectories(recordings[name], moments) for name, moments in rows.items()}
    return _Acted(
        live,
        measure_spreads([*live.values()], spec),
        {name: np.stack(kept) for name, kept in starts.items()},
        moment,
        {name: _trajectories(recordings[name], moments) for name, moments in others.items() if moments},
        {name: np.array(each).reshape(len(each), len(spec.states)) for name, each in apart.items()},
        sizes,
        failure,
    )


def _without_arrays(moment: Moment) -> Moment:
    """Return a moment without what is large."""
    return moment._replace(observations={}, states={}, made=moment.made._replace(states={}))


def _trajectories(recorded: Trajectories, moments: Sequence[Moment]) -> Trajectories:
    actions = np.concatenate([moment.made.action for moment in moments])
    return Trajectories({}, recorded.resets, actions, np.concatenate([moment.made.scores for moment in moments]))


def _generators() -> bytes:
    """Return the states of the generators that a module may draw from without owning one."""
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()))


def _refuse_changes(before: Mapping[str, bytes], live: nn.Module) -> None:
    """Refuse a module that is not what it was."""
    if name := changed(before, fingerprint(live)):
        raise refused(
            f"it remembers between calls: attribute `{name}` changed. Hand it on as a state (PolicySpec.states), or do"
            " not keep it."
        )


def _refuse_second_answers(
    session: LiveSession,
    spec: PolicySpec,
    recordings: Recordings,
    acted: _Acted,
    mixed: Recordings,
    name: str,
    t: int,
    said: str,
) -> None:
    """Say whether a row's second answer differs for itself, or by the batch that it is in."""
    where = place(recordings, name, t)
    next(alone(session, spec, recordings))  # so that what counts calls is at another count than before
    again = _play(session, spec, recordings, None).live
    batch = in_batches(session, spec, recordings)
    for first, second in ((acted.live, again), (mixed, batch)):
        if any(difference(first[key], second[key], spec, acted.spreads) is not None for key in recordings):
            raise refused(
                f"it gives two answers to one input, as at {where} ({said}). What it acts from besides its inputs must"
                " become a state (PolicySpec.states)."
            )
    _refuse_another_trace(acted, spec, recordings)
    rows = np.array([t, len(recordings[name]) // 2, 0])
    inputs = [torch.from_numpy(np.array(stacked(recordings[name], tensor, rows))) for tensor in spec.observations]
    inputs += [torch.from_numpy(state.zeros(len(rows))) for state in spec.states]
    layer = mixes_rows(session.module, inputs)
    by = f" The first layer that mixes them is {layer}." if layer else ""
    raise refused(f"its answer depends on the other rows of its batch, as at {where} ({said}).{by}")


def _refuse_python_values(
    live: nn.Module, spec: PolicySpec, recorded: Trajectories, doubts: Sequence[tuple[str, int]]
) -> None:
    """Refuse a module that leaves a value in Python. It is called in batches of 1 and of 3."""
    last, calls = len(recorded) - 1, []
    for rows in ([0], [last], [0, last // 2, last]):
        arrays = [stacked(recorded, tensor, np.array(rows)) for tensor in spec.observations]
        arrays += [state.zeros(len(rows)) for state in spec.states]
        calls.append([torch.from_numpy(np.array(array)) for array in arrays])
    found = python_values(copied(live), calls)
    # An index or a number that is a tensor is kept by a trace, unless PyTorch, tracing it, says otherwise.
    sites = [*found.baked, *(site for site in found.implied if (site.file, site.line) in doubts)]
    if sites:
        raise refused(
            f"{sites[0]}. A trace would hold the value that it met: compute with tensors (torch.where), or script it"
            " (torch.jit.script)."
        )


def _refuse_memory_of_the_first_call(untouched: nn.Module, spec: PolicySpec, acted: _Acted) -> None:
    """Refuse a module that answers otherwise where its first call was another one."""
    made = LiveSession(untouched, spec).step(acted.last.observations, acted.last.states)
    first = Trajectories({}, np.ones(1, bool), acted.last.made.action, acted.last.made.scores)
    second = Trajectories({}, np.ones(1, bool), made.action, made.scores)
    if (found := difference(first, second, spec, acted.spreads)) is not None:
        raise refused(f"it remembers between calls: what its first call was decides later answers ({found[1]}).")


def _refuse_another_trace(acted: _Acted, spec: PolicySpec, recordings: Recordings) -> None:
    """Refuse a module whose deployed form acts, or changes its states, differently at any row."""
    hint = "What its Python decides must be decided by tensors (torch.where), or be scripted (torch.jit.script)."
    if acted.doubts:
        file, line = acted.doubts[0]
        hint += f" PyTorch, tracing it, warned of {shown(file)}:{line}."
    for name, deployed in acted.deployed.items():
        found = difference(acted.live[name], deployed, spec, acted.spreads)
        apart = acted.apart[name]
        far = ~(apart <= SHARE * acted.sizes + 1e-6)
        t = int(far.any(axis=1).argmax())
        if far.any() and (found is None or t < found[0]):
            index = int(far[t].argmax())
            found = t, f"state '{spec.states[index].name}' off by {apart[t, index]:.3g}"
        if found is not None:
            where = place(recordings, name, found[0])
            raise refused(f"its trace acts differently from the module at {where}: {found[1]}. {hint}")
    if acted.failure:
        raise refused(f"its trace fails where the module acts ({acted.failure}). {hint}")


def _refuse_others_actions(acted: _Acted, spec: PolicySpec, recordings: Recordings) -> None:
    """Refuse a module that acts otherwise than the runtime whose actions were recorded."""
    for name, recorded in recordings.items():
        if recorded.actions is None:
            continue
        given, own = Trajectories({}, recorded.resets, recorded.actions), through_queue(acted.live[name], spec)
        if (found := difference(own, given, spec, acted.spreads, OTHERS_SHARE)) is not None:
            raise refused(
                f"the recorded actions are not the module's at {place(recordings, name, found[0])}: {found[1]}."
                " Find out why; if they are another policy's, leave `actions` out of the file."
            )


def _refuse_another_original(original: Session | None, acted: _Acted, spec: PolicySpec, recordings: Recordings) -> None:
    """Refuse a module that acts otherwise than the library that trained it."""
    if original is None:
        return
    try:
        found = in_batches(original, spec, recordings)
    except XferError:
        raise
    except Exception as error:  # whatever somebody's library raises
        raise refused(f"the library that trained it fails on a recorded observation ({reason(error)}).") from error
    for name, wanted in found.items():
        if (apart := difference(acted.live[name], wanted, spec, acted.spreads)) is not None:
            raise refused(
                f"the library that trained it acts differently at {place(recordings, name, apart[0])}: {apart[1]}."
                " Export it as module:function, with all that it computes."
            )


def _environment(spec: PolicySpec) -> Task | None:
    try:
        return tasks.load_recorded(spec.task) if spec.task else None
    except (UsageError, UnavailableError):
        return None


def _refuse_other_episodes(task: Task, live: Session, deployed: Session, spec: PolicySpec, spreads: Spreads) -> None:
    """Refuse a module whose deployed form leaves its episodes."""
    from xfer.evaluate import paired_episode

    one = np.ones(1, bool)
    for seed in range(SEED, SEED + EPISODES):
        pair = paired_episode(task, Runner(live, spec), {"deployed": Runner(deployed, spec)}, seed)["deployed"]
        said = pair.error
        if pair.fork is not None:
            wanted = Trajectories({}, one, np.array(pair.fork.reference_action)[None], pair.fork.scores[None])
            found = difference(wanted, Trajectories({}, one, np.array(pair.fork.variant_action)[None]), spec, spreads)
            said = said or (f"{found[1]} at step {pair.fork.step}" if found else "")
        elif pair.reference != pair.variant:
            said = said or f"return {pair.variant:g} instead of {pair.reference:g}"
        if said:
            raise refused(f"its trace acts differently from the module in {task.name}, seed {seed}: {said}.")
