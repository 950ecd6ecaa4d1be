"""The runtime on the chip that robots have: cross-compiled, and run under an emulator with ONNX Runtime for aarch64.

It needs Debian's g++-aarch64-linux-gnu, and three environment variables: XFER_AARCH64_SYSROOT (folder with libssl-dev,
zlib1g-dev, nlohmann-json3-dev and the C and C++ libraries for arm64), XFER_AARCH64_QEMU (qemu-aarch64, version 10 or
newer) and XFER_AARCH64_ONNXRUNTIME (the library out of ONNX Runtime's aarch64 wheel). The slow test also needs
XFER_CARTPOLE_BUNDLE, a bundle of a trained cartpole policy, and leaves what it found in a copy of it.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.bundle import records
from export.bundle.machine import Machine, this_machine
from export.bundle.reader import Bundle
from export.bundle.record import Record, Verification
from export.bundle.records import MachineRecords
from tests.conftest import skip_without
from tests.export.runtime.conftest import RUNTIME, build_project, header_options, run
from xfer.files import to_json
from xfer.trajectories import Trajectories

NEEDED = ("XFER_AARCH64_SYSROOT", "XFER_AARCH64_QEMU", "XFER_AARCH64_ONNXRUNTIME")


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    missing = [name for name in NEEDED if name not in os.environ]
    if missing or not shutil.which("aarch64-linux-gnu-g++"):
        what = ", ".join(missing) or "g++-aarch64-linux-gnu"
        skip_without("runtime", f"needs {what}: .ci/runtime-tools installs and prints them")
    folder = tmp_path_factory.mktemp("aarch64")
    toolchain = RUNTIME / "cmake" / "aarch64-linux-gnu.cmake"
    options = [o for o in header_options() if "ONNX" in o]
    options += [f"-DXFER_SYSROOT={os.environ[NEEDED[0]]}", "-DXFER_TESTS=OFF"]
    used = ("xfer_onnx", "xfer-run", "xfer-verify")
    return build_project(RUNTIME, folder, "--toolchain", toolchain, *options, targets=used)


def emulate(program: Path, *words: object, **options) -> bytes:
    sysroot, qemu, library = (os.environ[name] for name in NEEDED)
    emulator = [qemu, "-L", sysroot, "-E", f"XFER_ONNXRUNTIME_LIBRARY={library}"]
    return run(*emulator, program, *words, **options).stdout


def verify(programs: Path, bundle: Path, variant: str) -> dict:
    said = emulate(programs / "xfer-verify", bundle, "--variant", variant, "--json")
    return json.loads(said.splitlines()[-1])


def beginnings(bundle: Bundle) -> Trajectories:
    """Golden's stretches from the beginnings of episodes: xfer-run starts from zeros."""
    golden = bundle.golden()
    late = [any(start[i].any() for start in golden.starts.values()) for i in range(len(golden.episodes()))]
    return golden.take([part for part, is_late in zip(golden.episodes(), late, strict=True) if not is_late])


def acted_there(programs: Path, bundle: Bundle, variant: str) -> Trajectories:
    """Golden's beginnings with what the emulated processor does."""
    golden, rows = beginnings(bundle), []
    row = np.dtype([("action", np.int64), ("scores", np.float32, bundle.spec.scores.shape)])
    for episode in golden.episodes():
        frames = golden.observations["frame"][episode].tobytes()
        words = [bundle.path, "--variant", variant, "--scores", "--binary"]
        rows.append(np.frombuffer(emulate(programs / "xfer-run", *words, input=frames), row))
    done = np.concatenate(rows)
    return Trajectories(golden.observations, golden.resets, done["action"], done["scores"])


def record_drift(bundle: Bundle, variant: str, row: dict, here: Trajectories, there: Trajectories) -> Path:
    """Keep what xfer-verify said there, and how it differs from here, as the record of another machine."""
    drift = np.abs(here.scores - there.scores)
    differs = int((here.actions != there.actions).sum())
    sentence = (
        f"scores differ by at most {drift.max():.3g} from those of {this_machine().processor}"
        f" ({(drift > 0).any(axis=1).sum()} of {len(drift)} steps differ), and {differs} actions do"
    )
    machine = Machine("aarch64 (qemu-user)", 1, "asimddp", 0, "Linux", "")
    verification = Verification(
        row["status"],
        row["rung"],
        row["reason"],
        max_abs_diff=row["max_abs_diff"],
        agreement=row["agreement"],
        regret=row["regret"],
        observations=row["observations"],
        worst=(sentence,),
    )
    library, version = row["library"].split()
    record = Record(variant, records.files_digest(bundle.build(variant)), {library: version}, verification)
    path = bundle.path / records.RECORDS / f"{machine.id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(to_json(MachineRecords(machine, {variant: record})))
    return path


@pytest.mark.parametrize("name", ["two", "recurrent"])
def test_golden_is_played_alike_on_aarch64(programs, bundles, name):
    row = verify(programs, bundles / f"{name}.bundle", "onnx-fp32")
    assert row["status"] == "provisional"
    assert row["max_abs_diff"] < 1e-5
    assert row["agreement"] == 1


def test_int8_acts_alike_on_aarch64(programs, bundles):
    row = verify(programs, bundles / "cartpole.bundle", "onnx-int8")
    assert row["status"] == "provisional", row["reason"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cartpole_in_int8_passes_on_aarch64_and_its_drift_is_recorded(programs, tmp_path):
    if "XFER_CARTPOLE_BUNDLE" not in os.environ:
        pytest.skip("needs XFER_CARTPOLE_BUNDLE: make demo writes runs/cartpole.bundle")
    bundle = Bundle(shutil.copytree(os.environ["XFER_CARTPOLE_BUNDLE"], tmp_path / "cartpole.bundle"))
    row = verify(programs, bundle.path, "onnx-int8")
    assert row["status"] == "provisional", row["reason"]
    with bundle.runner("onnx-int8") as runner:
        here = beginnings(bundle).replay(runner)
    there = acted_there(programs, bundle, "onnx-int8")
    print(record_drift(bundle, "onnx-int8", row, here, there).read_text())
    found = next(found for found in records.inherited(bundle) if found.machine.processor.startswith("aarch64"))
    assert found.records["onnx-int8"].verification.agreement == row["agreement"]
    assert (here.actions == there.actions).mean() > 0.99
