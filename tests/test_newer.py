"""Bundles that a newer xfer wrote: what this version does not know has a row that says so, and all others go on."""

import hashlib
import json
import shutil

import pytest

from benchmarks.bench import bench
from benchmarks.commands import recommend
from benchmarks.measure.protocol import Protocol
from export import Bundle, verify
from export.build import Builder
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.record import Latency, Verification
from export.formats import pack
from export.targets import ExportOptions, ExportRequest, expand
from tests.chance_task import REFERENCE, SAME, Sign, met, seeded, small_bundle
from xfer import cli, tasks
from xfer.errors import XferError

ENTRY = {"status": "built", "folder": "variants/tpu-fp32-123456", "key": "123456abcdef", "cores": [1, {"mesh": 4}]}
NEWER = {
    "tpu-fp32": (ENTRY, "target 'tpu'"),
    "onnx-fp4": (ENTRY, "precision 'fp4' of target onnx"),
    "openvino-fp32": ({**ENTRY, "status": "quarantined"}, "status 'quarantined'"),
    "wholly new": ({"status": "new"}, "target 'wholly new'"),
}
SHORT = Protocol(1, rounds=5, calls=70, seconds=0, quick=True, warmup_calls=5, warmup_seconds=0, pause_seconds=0)
LATENCY = Latency(4.0, 5.0, 5.0, 6.0, 7.0, 9.0, 2.0, (1.9, 2.1), 1024, True, False, 1.0, 10, 1)


def write(path, manifest):
    """Write a manifest with its digest, as whatever version."""
    data = json.dumps({**manifest, "digest": "0" * 64}, indent=2)
    path.write_text(data.replace("0" * 64, hashlib.sha256(data.encode()).hexdigest()))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tasks.TRUSTED, seeded().name)
        yield small_bundle(tmp_path_factory.mktemp("newer") / "original.bundle")


@pytest.fixture
def newer(original, tmp_path):
    path = shutil.copytree(original.path, tmp_path / "newer.bundle")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["builds"] += [{"variant": name, **entry} for name, (entry, _) in NEWER.items()]
    manifest["schema"][1] += 7
    write(path / "manifest.json", manifest)
    return path


def test_verify_gives_each_unknown_variant_a_row_of_its_own_and_judges_the_others(newer):
    found = verify(newer, pairs=0)
    assert [*found] == [REFERENCE, SAME, *NEWER]
    assert found[SAME].status == "provisional"
    for name, (_, what) in NEWER.items():
        assert found[name].status == "unavailable"
        assert found[name].reason.startswith("unknown to this version of xfer (")
        assert found[name].reason.endswith(what)
    assert [*records.load(Bundle(newer))] == [REFERENCE, SAME]


def test_bench_measures_the_others(newer, short_bench):
    rows = {row.variant: row for row in bench(newer, protocol=SHORT, whole_backbone=False).rows}
    assert rows[SAME].p50_ms > 0
    for name, (_, what) in NEWER.items():
        assert (rows[name].status, rows[name].p50_ms) == ("unavailable", None)
        assert what in rows[name].reason


def test_recommend_chooses_among_the_others_also_where_a_newer_xfer_left_records_here(newer, capsys):
    bundle = Bundle(newer)
    verdict = Verification("verified", "reward", reward_delta=0.0, reward_interval=(0.0, 0.0))
    records.save(bundle, SAME, verification=verdict, latency=LATENCY)
    path = newer / "records" / f"{this_machine().id}.json"
    known = json.loads(path.read_text())
    for name in ("tpu-fp32", "onnx-fp4@npu", f"{SAME}@npu"):
        known["records"][name] = {**known["records"][SAME], "variant": name}
    path.write_text(json.dumps(known))
    shutil.copy(path, path.with_name("another-machine.json"))
    known["records"][SAME]["verification"]["status"] = "certified"
    path.with_name("a-newer-one.json").write_text(json.dumps(known))
    assert recommend.main(recommend.Args(bundle=newer))["variant"] == SAME
    assert "unknown to this version of xfer" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["tpu-fp32", "tpu-fp32@pod", "onnx-fp4", "openvino-fp32"])
@pytest.mark.parametrize("command", ["verify", "bench", "run", "pack"])
def test_one_that_is_asked_for_by_name_is_refused_in_one_line(newer, capsys, command, name):
    option = "--variants" if command in ("verify", "bench") else "--variant"
    assert cli.main([command, str(newer), option, name]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    build = name.partition("@")[0]
    assert f"{build}, which is unknown to this version of xfer" in line
    assert "Install a newer xfer" in line


def test_a_target_that_is_unknown_may_be_asked_for_by_its_name_too(newer, capsys):
    assert cli.main(["bench", str(newer), "--variants", "tpu"]) == 1
    assert "tpu-fp32, which is unknown" in capsys.readouterr().err


def test_the_newer_entries_stay_in_the_manifest_when_a_variant_is_added_or_packed(newer, original, tmp_path):
    from export.importers.module import Deployable

    policy = Deployable(Sign(), original.spec)
    request = ExportRequest(policy, original.spec, met(4, 16), ExportOptions())
    Builder(request, lambda: met(4, 16), newer, run="nowhere").build(expand(SAME)[0])
    kept = {build.variant: build.status for build in Bundle(newer).manifest.builds}
    assert kept["tpu-fp32"] == "built"
    assert kept["openvino-fp32"] == "quarantined"
    assert [*Bundle(pack(Bundle(newer), SAME, tmp_path / "one.bundle")).builds] == [SAME]


def test_a_reference_that_is_unknown_is_what_the_others_cannot_be_compared_with(newer):
    manifest = json.loads((newer / "manifest.json").read_text())
    write(newer / "manifest.json", {**manifest, "reference": "tpu-fp32"})
    notes = []
    found = verify(newer, SAME, pairs=10, held_out=met(2), on_note=notes.append)[SAME]
    assert (found.status, found.rung) == ("provisional", "actions")
    assert "the bundle has no tpu-fp32 to compare with (unknown to this version of xfer" in found.reason
    assert "golden alone" in notes[0]


def test_without_eager_it_is_said_that_there_is_none_and_no_name_is_blamed(newer, short_bench):
    manifest = json.loads((newer / "manifest.json").read_text())
    builds = [build for build in manifest["builds"] if build["variant"] != REFERENCE]
    write(newer / "manifest.json", {**manifest, "builds": builds})
    notes = []
    found = verify(newer, held_out=met(2), pairs=10, on_note=notes.append)[SAME]
    assert (found.status, found.rung) == ("provisional", "actions")
    assert f"the bundle has no {REFERENCE} to compare with" in found.reason
    assert f"golden alone: the bundle has no {REFERENCE} to compare with." in notes[0]
    report = bench(newer, protocol=SHORT, whole_backbone=False)
    assert f"No speed-ups: the bundle has no {REFERENCE} to compare with." in report.notes


def test_where_nothing_can_run_each_variant_has_its_reason(newer, monkeypatch):
    from export.targets import eager, torchscript

    for module in (eager, torchscript):
        monkeypatch.setattr(module, "runnable", lambda place: "PyTorch is not installed")
    with pytest.raises(XferError, match=f"{SAME}: PyTorch is not installed.*tpu-fp32: unknown to this version"):
        bench(newer, protocol=SHORT)
