"""Which importer a source needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from export.importers import ImportedPolicy, ImportOptions, check_memory
from export.importers._deployable import Deployable
from export.onnx_graph import GraphPolicy
from xfer.errors import UsageError
from xfer.trajectories import MEMORY

ELSEWHERE = ("observations", "task")
"""Options of every policy that was trained elsewhere."""
ONLY_SB3 = ("trust", "vecnormalize", "frame_stack")


def import_policy(
    source: str | Path | Deployable,
    options: ImportOptions,
    output: Path | None = None,
    memory: int = MEMORY,
    on_note: Callable[[str], None] = lambda text: None,
) -> tuple[ImportedPolicy, Path]:
    """Import a policy with its recorded observations.

    Args:
        source: A folder of a finished `xfer train`; module:function, which returns a ``Deployable``; a file; or a
            ``Deployable`` itself.
        options: How to import it.
        output: The bundle's folder; by default it has the source's name.
        memory: Bytes of observations that may be in memory at once.
        on_note: Called with what recording them will take, before it begins.

    Returns:
        The policy, and the bundle's folder.

    Raises:
        UsageError: If an option does not fit the source, or the source is refused.
        XferError: If it cannot be read.
    """
    with_observations = partial(_with_observations, options=options, memory=memory, on_note=on_note)
    if options.importer != "sb3":
        _refuse(options, ONLY_SB3, "needs --from sb3")
    if options.importer is None:
        _refuse(options, ("control_hz",), "needs --from")
    if isinstance(source, Deployable):
        _refuse(options, ("spec",), "is for an ONNX file")
        if output is None:
            raise UsageError("A Deployable has no name of its own: say where its bundle goes (output).")
        return with_observations(source, type(source.module).__name__, output), output
    path, name = Path(source), str(source)
    if options.spec is not None or path.suffix.lower() == ".onnx":
        output = output or path.with_suffix(".bundle")
        return with_observations(_graph(path, options), name, output), output
    if options.importer == "lerobot":
        from export.importers import lerobot

        policy = lerobot.load(path, task=options.task or "", control_hz=options.control_hz, on_note=on_note)
        named = path if path.name else path.absolute()
        output = output or named.with_name(named.name + ".bundle")
        return with_observations(policy, name, output), output
    if path.is_dir() or (options.importer is None and ":" not in name and not path.exists()):
        _refuse(options, ("importer", *ELSEWHERE), f"does not fit {name}, the folder of an `xfer train`")
        from export.importers import run

        imported = replace(run.load(path), memory=memory)
        check_memory(imported.policy.spec, memory)
        return imported, output or path.with_name(path.name + ".bundle")
    if options.importer == "sb3":
        from export.importers import sb3

        policy = sb3.load(
            path,
            trust=options.trust,
            vecnormalize=options.vecnormalize,
            frame_stack=options.frame_stack,
            task=options.task or "",
            control_hz=options.control_hz,
        )
        output = output or path.with_suffix(".bundle")
        return with_observations(policy, name, output), output
    if path.exists():
        raise UsageError(f"{name} is a file: say what wrote it, as in --from sb3.")
    from export.importers import module

    output = output or Path(name.partition(":")[2] + ".bundle")
    return with_observations(module.load(name), name, output), output


def _graph(path: Path, options: ImportOptions) -> GraphPolicy:
    """Return the policy in an ONNX file."""
    from export.importers import onnx

    _refuse(options, ("importer",), "does not fit an ONNX graph, which --spec describes")
    if not path.is_file():
        raise UsageError(f"{path} is no file. --spec is for an ONNX graph.")
    if options.spec is None:
        raise UsageError(
            f"{path} does not say what its inputs and outputs mean. xfer spec {path} writes a first spec.json: fill it"
            " in, and give it as --spec spec.json"
        )
    return onnx.load(path, options.spec)


def _with_observations(
    policy: Deployable | GraphPolicy,
    name: str,
    output: Path,
    options: ImportOptions,
    memory: int,
    on_note: Callable[[str], None],
) -> ImportedPolicy:
    from export.importers import _recordings
    from export.importers._deployed import check

    if isinstance(policy, Deployable):
        policy.live()
        check(policy.deploy(), policy.spec)
    if options.task:
        policy = replace(policy, spec=replace(policy.spec, task=options.task))
    check_memory(policy.spec, memory)
    return _recordings.gather(policy, name, output.with_suffix(".run"), options.observations, memory, on_note)


def _refuse(options: ImportOptions, names: tuple[str, ...], why: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        UsageError: With the first that was given.
    """
    for name in names:
        if getattr(options, name) != getattr(ImportOptions(), name):
            raise UsageError(f"--{ {'importer': 'from'}.get(name, name).replace('_', '-') } {why}.")
