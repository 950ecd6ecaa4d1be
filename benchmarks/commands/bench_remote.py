"""What ``xfer bench --host`` does: copy the bundle to a robot, measure there, bring the figures back.

    bundle ──rsync──► ~/.cache/xfer/bundles/DIGEST.bundle ──ssh──► xfer bench --stream
    report.json      ◄── the report so far, a line after each round ─┘
    report, records  ◄──rsync── when it is done

A second bench copies only what changed. Nothing from here overwrites the records there.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.bench import check_libraries
from benchmarks.commands import bench_options, ci
from benchmarks.commands.deadline import judged
from benchmarks.commands.ssh import NOT_FOUND, Host, LostError, last_line
from benchmarks.report import write
from benchmarks.report.conclusion import conclude
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.manifest import RECORDS
from export.bundle.reader import Bundle
from export.bundle.records import MachineRecords, Record, with_all_figures
from xfer import __version__
from xfer.errors import BundleError, UnavailableError, UsageError, XferError
from xfer.files import from_json, to_json, write_atomically

if TYPE_CHECKING:
    from benchmarks.report.data import Report

CACHE = ".cache/xfer/bundles"
"""Folder on the robot. Relative: ssh and rsync both begin in the user's home."""

PROBE = 'command -v rsync >/dev/null || echo "no rsync"; mkdir -p "$2" && exec "$1" --version'


def main(args: bench_options.Args) -> dict[str, Any]:
    """Run ``xfer bench`` on ``args.host``.

    Returns:
        What ``--json`` prints, with the paths of the report here.

    Raises:
        UsageError: On a host that is no name, or an output that cannot be written to.
        UnavailableError: If something is not installed, here or there.
        BundleError: If the bundle is damaged.
        XferError: If the machine cannot be reached, the bench fails there, or the connection is lost.
    """
    check_libraries()
    from benchmarks.report import terminal

    assert args.host is not None
    assert args.bundle is not None
    host = Host(args.host)
    bundle = Bundle(args.bundle, args.records)
    records.check_writable(bundle)
    output = args.output or bundle.path.resolve().parent / "report"
    # ssh begins in the home, and quotes keep the shell there from reading a tilde.
    xfer = re.sub(r"^~/", "./", args.remote_xfer)
    version = probe(host, xfer)
    if version != __version__:
        _say(f"{host.name} has xfer {version}, here is {__version__}: the one there measures.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output} {error.strerror}. Choose another --output.") from error

    folder = remote_folder(bundle)
    watch = Watch(host.name, output, bench_options.command_line(args))
    try:
        _say(f"{host.name}: copying {bundle.path}")
        copy_bundle(host, bundle)
        _say(f"{host.name}: measuring")
        try:
            host.stream([xfer, *remote_words(args, folder)], watch.take)
        except LostError:
            raise
        except XferError:
            if watch.result is None:
                raise
            # It ended with a result all the same: a deadline was missed there, which is told below.
        if watch.result is None:
            raise XferError(f"it gave no result: install xfer {__version__} there")
        host.rsync(f"{host.name}:{folder}.report/", f"{output}/")
    except KeyboardInterrupt:
        _say(watch.give_up("interrupted"))
        raise
    except LostError as error:
        raise XferError(watch.give_up(f"connection to {host.name} lost", str(error))) from error
    except XferError as error:
        raise XferError(watch.give_up(f"the bench on {host.name} failed", str(error))) from error
    whole = watch.localized((output / "report.json").read_bytes())
    findings = conclude(whole)
    paths = write.write(whole, findings, output)
    rows = watch.result["variants"]
    bring_records(host, bundle, {row["variant"] for row in rows if row["p50_ms"] is not None})
    terminal.show(whole, findings, paths)
    if not any(row["status"] in ("verified", "provisional") for row in rows):
        _say(f"Nothing is verified there yet: ssh {host.name} {args.remote_xfer} verify {folder}")
    ci.write(whole, args.variants, args.junit, args.benchmark_json)
    return judged(whole, {**watch.result, "report": paths}, args.variants)


def probe(host: Host, xfer: str) -> str:
    """Make the cache folder there, and return the version of xfer.

    Raises:
        XferError: If the machine cannot be reached.
        UnavailableError: If rsync or xfer is missing there.
    """
    done = host.ask(PROBE, xfer, CACHE)
    if "no rsync" in done.stdout.splitlines():
        raise UnavailableError(f"rsync is not installed on {host.name}: sudo apt install rsync there.")
    if done.returncode == NOT_FOUND:
        raise UnavailableError(
            f"'{xfer}' is not found on {host.name}. Say where it is with --remote-xfer PATH, or install it there:"
            " pip install 'xfer-policy[bench,onnx]'"
        )
    found = re.search(r"^xfer (\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        raise UnavailableError(f"`{xfer} --version` fails on {host.name}: {last_line(done.stderr or done.stdout)}")
    return found[1]


def remote_folder(bundle: Bundle) -> str:
    """Return the bundle's folder on the robot: the same one when other builds of that policy come to it."""
    digest = hashlib.sha256(bundle.manifest.provenance.weights.encode()).hexdigest()
    return f"{CACHE}/{digest[:16]}.bundle"


def remote_words(args: bench_options.Args, folder: str) -> list[str]:
    """Return what follows ``xfer`` on the robot: the options that were given here, with the folders there."""
    there = replace(
        args, bundle=Path(folder), output=Path(f"{folder}.report"), records=None, host=None, remote_xfer="xfer"
    )
    return [*shlex.split(bench_options.command_line(there))[1:], "--stream", "--json"]


def copy_bundle(host: Host, bundle: Bundle) -> None:
    """Make the folder there like the bundle here; records, locks and temporary files stay where they are.

    Raises:
        LostError: If it cannot be copied.
    """
    apart = (f"--exclude=/{RECORDS}/", "--exclude=/.*")
    # By content: rsync's quick look would miss a manifest of the same size that was written within the same second.
    host.rsync("--checksum", "--delete", *apart, f"{bundle.path.resolve()}/", f"{host.name}:{remote_folder(bundle)}/")


class Watch:
    """Takes what a bench says, and keeps the report so far for the case that no more comes.

    Args:
        host: Name of the machine that measures.
        output: Folder of the report here.
        said: The command that was given here.

    Attributes:
        report: The report so far, once a round is whole.
        result: What the bench gave in the end.
    """

    def __init__(self, host: str, output: Path, said: str) -> None:
        self.host, self.output, self.said = host, output, said
        self.report: Report | None = None
        self.result: dict[str, Any] | None = None

    def take(self, line: bytes) -> None:
        """Take a line of stdout: a report so far, the result, or a piece of the table that is shown there.

        Raises:
            XferError: If the report is of a version that cannot be read here.
            UsageError: If it cannot be written.
        """
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError:  # the table, or a line that was cut off with the connection
            return
        if not isinstance(value, dict):
            return
        if "measurements" not in value:
            self.result = value
            return
        self.report = self.localized(line)
        try:
            write_atomically(self.output / "report.json", line)
        except OSError as error:
            raise UsageError(f"{self.output} {error.strerror}. Choose another --output.") from error
        _say(f"{self.host}: {self.report.partial}")

    def localized(self, data: bytes) -> Report:
        """Decode a report from there, and let it name the command that was given here.

        Raises:
            XferError: If it is of a version that cannot be read here.
        """
        from benchmarks.report.data import Report

        try:
            report = from_json(data, Report)
        except msgspec.DecodeError as error:
            why = f"The report from {self.host} cannot be read here ({error}). Install xfer {__version__} there."
            raise XferError(why) from error
        note = f"Measured on {self.host}, where the bundle is {report.bundle} in the user's home; verify it there."
        return replace(report, command=self.said, notes=(*report.notes, note))

    def give_up(self, why: str, cause: str = "") -> str:
        """Write the report so far as a partial one, if there is any.

        Args:
            why: What happened; it goes into the report.
            cause: What somebody said about it.

        Returns:
            One line on what happened and what there is.
        """
        said = f" ({cause})" if cause else ""
        if self.report is None:
            return f"{why} before the first round was over{said}: there is no report."
        why = f"{why} {self.report.partial}"
        partial = replace(self.report, partial=why)
        paths = write.write(partial, conclude(partial), self.output)
        return f"{why}{said}. The partial report: {paths['html']}"


def bring_records(host: Host, bundle: Bundle, measured: set[str]) -> None:
    """Join the records that were made there with those in the bundle here.

    Args:
        host: Where they are.
        bundle: Where they go.
        measured: Variants that were measured there just now.

    Raises:
        LostError: If they cannot be copied.
        BundleError: If they cannot be read, or the bundle cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix="xfer-records-") as temporary:
        host.rsync(f"{host.name}:{remote_folder(bundle)}/{RECORDS}/", f"{temporary}/")
        for path in sorted(Path(temporary).glob("*.json")):
            join_records(bundle, _read(path), measured)


def join_records(bundle: Bundle, theirs: MachineRecords, measured: set[str]) -> None:
    """Take what a machine knows of itself into the bundle, and lose no verdict that is here already.

    Only that machine writes the records that come from there, so they win over a copy here. But of a machine of this
    one's kind, all that is here wins except for what was measured just now.

    Args:
        bundle: Where they go.
        theirs: What was made there.
        measured: Variants that were measured there just now.

    Raises:
        BundleError: If the bundle cannot be written to, or its own record is damaged.
    """
    here = theirs.machine.id == this_machine().id
    with records.writing(bundle, f"{theirs.machine.id}.json") as path:
        joined = dict(_read(path).records) if path.exists() else {}
        for name, record in theirs.records.items():
            build = bundle.builds.get(name.partition("@")[0])
            if build is not None and build.status == "built" and records.files_digest(build) == record.files:
                joined[name] = _join(joined.get(name), record, here=here, fresh=name in measured)
        write_atomically(path, to_json(MachineRecords(theirs.machine, joined)))


def _join(ours: Record | None, theirs: Record, *, here: bool, fresh: bool) -> Record:
    if ours is None or ours.files != theirs.files:  # theirs is of today's build
        return theirs
    if ours.libraries != theirs.libraries:
        return ours if here else theirs
    first, second = (ours, theirs) if here else (theirs, ours)
    older, newer = (ours, theirs) if fresh or not here else (theirs, ours)
    timed = with_all_figures(older, newer)  # a quick bench there takes nothing from a longer one that is known here
    return replace(
        theirs,
        verification=first.verification or second.verification,
        latency=timed.latency,
        loop=timed.loop,
        latencies=timed.latencies,
        loops=timed.loops,
    )


def _read(path: Path) -> MachineRecords:
    try:
        return from_json(path.read_bytes(), MachineRecords)
    except msgspec.DecodeError as error:
        raise BundleError(f"{RECORDS}/{path.name} cannot be read ({error}). Is xfer the same there?") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
