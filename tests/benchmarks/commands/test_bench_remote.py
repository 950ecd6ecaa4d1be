import contextlib
import getpass
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import psutil
import pytest

from benchmarks.commands import bench, bench_options, bench_remote
from benchmarks.commands.ssh import Host
from benchmarks.report.data import Report
from export.bundle import records
from export.bundle.latencies import Latency
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle
from export.bundle.records import MachineRecords, Record
from export.bundle.verdicts import Verification
from tests.conftest import skip_without
from xfer.errors import UnavailableError, UsageError, XferError
from xfer.files import to_json

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
MISSING = [
    tool
    for tool, path in {"sshd": SSHD, "ssh": shutil.which("ssh"), "rsync": shutil.which("rsync")}.items()
    if not path
]
with_sshd = pytest.mark.usefixtures("sshd")

XFER = str(Path(sys.executable).with_name("xfer"))
SHORT = {"variants": "onnx-fp32", "threads": 1, "quick": True, "rounds": 5, "whole_backbone": False}


@dataclass(frozen=True)
class Robot:
    """An sshd on loopback, whose users come to lie in a home of the test's own."""

    process: subprocess.Popen
    home: Path
    config: Path

    def lose(self) -> None:
        """Cut all connections."""
        for session in psutil.Process(self.process.pid).children():
            session.kill()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    if MISSING:
        skip_without("ssh", f"needs {', '.join(MISSING)}: apt-get install openssh-client openssh-server rsync")
    folder = tmp_path_factory.mktemp("sshd")
    home = folder / "home with a space"
    home.mkdir()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # The home of the user who runs the tests is left alone.
    inside = f'export HOME={shlex.quote(str(home))}; cd; eval "$SSH_ORIGINAL_COMMAND"'
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nForceCommand {inside}\n"
    )
    host_key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "config").write_text(
        f"Host robot\n Port {port}\nHost closed\n Port 1\nHost stranger\n Port {port}\n UserKnownHostsFile /dev/null\n"
        f"Host locked\n Port {port}\n PubkeyAuthentication no\n"
        f"Host *\n HostName 127.0.0.1\n User {getpass.getuser()}\n IdentityFile {folder}/user\n IdentityAgent none\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n StrictHostKeyChecking yes\n"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        deadline = time.monotonic() + 10
        while "listening" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Robot(process, home, folder / "config")
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def robot(sshd, monkeypatch):
    monkeypatch.setenv("XFER_SSH", shlex.join(["ssh", "-F", str(sshd.config)]))
    yield sshd
    shutil.rmtree(sshd.home / ".cache", ignore_errors=True)


@pytest.fixture
def bundle(small_bundle, tmp_path):
    path = tmp_path / "it's here.bundle"
    shutil.copytree(small_bundle.path, path, ignore=shutil.ignore_patterns("records"))
    # Without the baseline no process there waits for torch.
    onnx = tuple(build for build in small_bundle.manifest.builds if build.variant.startswith("onnx"))
    (path / "manifest.json").write_bytes(replace(small_bundle.manifest, builds=onnx).encode())
    return Bundle(path)


def args(bundle, **changes):
    return bench_options.Args(bundle=bundle.path, **{"host": "robot", "remote_xfer": XFER, **SHORT, **changes})


@with_sshd
def test_a_bench_through_ssh_brings_report_and_records_home(robot, bundle, capsys):
    verdict = Verification("verified", "reward", pairs=200)
    records.save(bundle, "onnx-fp32", verification=verdict)
    result = bench.main(args(bundle))
    rows = {row["variant"]: row for row in result["variants"]}
    assert sorted(rows) == ["onnx-fp32"]
    folder = bundle.path.parent / "report"
    assert result["report"] == {kind: str(folder / f"report.{kind}") for kind in ("json", "md", "html")}
    report = read(folder)
    assert report.partial == ""
    assert "--host robot" in report.command
    assert [len(m.rounds) for m in report.measurements] == [5]
    assert report.measurements[0].threads == 1
    assert "--host robot" in (folder / "report.md").read_text()
    # The verdict was here only, the figures were there only; now both are here.
    saved = records.load(bundle)["onnx-fp32"]
    assert saved.latency.p50_ms == rows["onnx-fp32"]["p50_ms"]
    assert saved.verification == verdict
    said = capsys.readouterr()
    assert "robot: after round 1 of 5" in said.err
    assert "onnx-fp32" in said.out
    assert "verify .cache/xfer/bundles/" in said.err
    json.dumps(result)


def running(bundle) -> list[psutil.Process]:
    """The bench on the robot, and its workers."""
    folder, found = bench_remote.remote_folder(bundle), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            # Not the ssh here, which has all of it as one word.
            if "--stream" in words or ("benchmarks.measure.worker" in words and folder in words[-1]):
                found.append(process)
    return found


def wait_until(condition, seconds=120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read(folder: Path) -> Report:
    return msgspec.json.decode((folder / "report.json").read_bytes(), type=Report)


@with_sshd
def test_a_lost_connection_leaves_a_partial_report_and_ends_the_bench_there(robot, bundle, monkeypatch):
    take = bench_remote.Watch.take

    def take_then_lose(watch, line):
        take(watch, line)
        if watch.report is not None:
            robot.lose()

    monkeypatch.setattr(bench_remote.Watch, "take", take_then_lose)
    why = "connection to robot lost after round 1 of 5"
    with pytest.raises(XferError, match=rf"{why} \(.*closed.*\)\. The partial report: ") as caught:
        bench_remote.main(args(bundle))
    assert "\n" not in str(caught.value)
    folder = bundle.path.parent / "report"
    report = read(folder)
    assert report.partial == why
    assert report.measurements[0].rounds[0]
    for kind in ("md", "html"):
        assert why in (folder / f"report.{kind}").read_text()
    wait_until(lambda: not running(bundle))


@with_sshd
def test_a_connection_that_is_lost_before_the_first_round_leaves_no_report(robot, bundle):
    def lose():
        wait_until(lambda: running(bundle))
        robot.lose()

    thread = threading.Thread(target=lose)
    thread.start()
    with pytest.raises(XferError, match=r"connection to robot lost before the first round was over \(.*no report"):
        bench_remote.main(args(bundle))
    thread.join()
    assert list((bundle.path.parent / "report").iterdir()) == []
    wait_until(lambda: not running(bundle))


@with_sshd
def test_an_interrupted_bench_ends_there_too(robot, bundle):
    words = shlex.split(bench_options.command_line(args(bundle)))[1:]
    code = "import sys; from xfer.cli import main; sys.exit(main(sys.argv[1:]))"
    # In a session of its own: it alone gets the signal, not its ssh, as with `kill -INT`.
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert any("round 1 of 5" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert re.search(r"^interrupted after round \d+ of 5. The partial report: ", said, re.MULTILINE)
    assert read(bundle.path.parent / "report").partial.startswith("interrupted after round ")
    wait_until(lambda: not running(bundle))


@with_sshd
def test_what_fails_there_is_said_in_its_own_words(robot, bundle):
    with pytest.raises(
        XferError, match=r"the bench on robot failed before .* \(--rounds 4 is too few .*\): there is no"
    ):
        bench_remote.main(args(bundle, rounds=4))


@with_sshd
@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("closed", "Cannot reach closed: .*Connection refused"),
        ("locked", "Cannot reach locked: .*Permission denied"),
        ("stranger", "Cannot reach stranger: Host key verification failed"),
    ],
)
def test_a_machine_that_cannot_be_reached_is_named_with_what_ssh_says(robot, bundle, host, message):
    with pytest.raises(XferError, match=message) as caught:
        bench_remote.main(args(bundle, host=host))
    assert "\n" not in str(caught.value)
    assert not (bundle.path.parent / "report").exists()


@with_sshd
@pytest.mark.parametrize(
    ("xfer", "message"),
    [
        ("no-such-xfer", "'no-such-xfer' is not found on robot.*--remote-xfer PATH.*pip install"),
        ("~/bin/x'fer", "x'fer' is not found on robot"),
        ("false", "`false --version` fails on robot"),
    ],
)
def test_a_missing_xfer_is_named_with_what_to_do(robot, bundle, xfer, message):
    with pytest.raises(UnavailableError, match=message):
        bench_remote.main(args(bundle, remote_xfer=xfer))


@with_sshd
def test_a_missing_rsync_is_named_here_and_there(robot, bundle, tmp_path, monkeypatch):
    (robot.home / "tools").mkdir()
    for tool in ("mkdir", "sh"):
        (robot.home / "tools" / tool).symlink_to(shutil.which(tool))
    (robot.home / "xfer").write_text('#!/bin/sh\necho "xfer 0"\n')
    (robot.home / "xfer").chmod(0o755)
    plain = bench_remote.PROBE
    monkeypatch.setattr(bench_remote, "PROBE", f'PATH="$HOME/tools"; {plain}')
    with pytest.raises(UnavailableError, match="rsync is not installed on robot"):
        bench_remote.probe(Host("robot"), "./xfer")
    monkeypatch.setattr(bench_remote, "PROBE", plain)
    assert bench_remote.probe(Host("robot"), "./xfer") == "0"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="ssh and rsync is not installed here: sudo apt install"):
        Host("robot")


@with_sshd
def test_a_second_copy_moves_only_what_changed_and_leaves_the_records_there(robot, bundle):
    host = Host("robot")
    bench_remote.probe(host, XFER)
    bench_remote.copy_bundle(host, bundle)
    folder = robot.home / bench_remote.remote_folder(bundle)
    assert Bundle(folder).manifest == bundle.manifest
    Bundle(folder).golden()
    (folder / "records").mkdir()
    (folder / "records" / "robot.json").write_text("{}")
    (folder / "variants" / "old").mkdir()
    before = inodes(folder)
    # As after another export at once: a manifest of the same size and second, and a build of another key.
    manifest = bundle.path / "manifest.json"
    content, written = manifest.read_bytes(), manifest.stat().st_mtime_ns
    manifest.write_bytes(content[:-1] + b" ")
    os.utime(manifest, ns=(written, written))
    shutil.copytree(next(bundle.path.glob("variants/onnx-fp32-*")), bundle.path / "variants" / "new")
    bench_remote.copy_bundle(host, bundle)
    after = inodes(folder)
    # rsync writes under a temporary name: a new inode is a file that was sent.
    assert {name for name in before if before[name] != after.get(name)} == {"manifest.json", "variants/old"}
    assert {name for name in after if name not in before} == {"variants/new", "variants/new/policy.onnx"}


def inodes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["", "-oProxyCommand=x", "a b", "robot:22", "ssh://robot", "a;b"])
def test_a_host_that_is_no_name_is_refused(bundle, name):
    with pytest.raises(UsageError, match="USER@HOST"):
        Host(name)


FIGURES = Latency(1.0, 1.0, None, None, None, 1.0, None, None, 256, True, True, None, None, 1)
VERDICT = Verification("verified", "reward", pairs=200)
OTHER = Verification("provisional", "reward", pairs=20)
ROBOT = replace(this_machine(), processor="robot")


def test_records_from_there_never_lose_a_verdict_that_is_here(bundle):
    build = bundle.builds["onnx-fp32"]
    mine = Record("onnx-fp32", records.files_digest(build), {"onnxruntime": "1"}, VERDICT, FIGURES)

    def join(machine, theirs, *, ours=mine, measured=("onnx-fp32",)):
        path = bundle.path / "records" / f"{machine.id}.json"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if ours is not None:
            path.write_bytes(to_json(MachineRecords(machine, {"onnx-fp32": ours, "onnx-int8": mine})))
        bench_remote.join_records(bundle, MachineRecords(machine, {"onnx-fp32": theirs}), set(measured))
        joined = msgspec.json.decode(path.read_bytes(), type=MachineRecords).records
        if ours is not None:
            assert joined["onnx-int8"] == mine
        return joined.get("onnx-fp32")

    here, fresh = this_machine(), replace(FIGURES, p50_ms=2.0)
    timed = replace(mine, verification=None, latency=fresh)
    judged = replace(timed, verification=OTHER)
    for machine in (here, ROBOT):
        # New figures, the old verdict.
        assert join(machine, timed) == replace(mine, latency=fresh, latencies=(fresh,))
        assert join(machine, timed, ours=None) == timed
        assert join(machine, replace(timed, latency=None)) == mine
        # A record of files that the bundle does not have says nothing.
        assert join(machine, replace(judged, files="gone")) == mine
        assert join(machine, replace(judged, files="gone"), ours=None) is None
        assert join(machine, judged, ours=replace(mine, files="gone")) == judged
    # The robot knows best about itself, and this machine about itself.
    newer = replace(judged, libraries={"onnxruntime": "2"})
    both = replace(judged, latencies=(fresh,))
    assert join(ROBOT, judged) == both
    assert join(ROBOT, newer) == newer
    assert join(here, judged) == replace(both, verification=VERDICT)
    assert join(here, newer) == mine
    # What was not measured just now may be older than what is here.
    assert join(here, timed, measured=()) == replace(mine, latencies=(FIGURES,))
    # A quick bench there takes nothing from a strict one that is known here.
    strict = replace(FIGURES, quick=False, strict=True)
    for machine in (here, ROBOT):
        found = join(machine, timed, ours=replace(mine, latency=strict))
        assert (found.latency, found.latencies) == (strict, (strict, fresh))
