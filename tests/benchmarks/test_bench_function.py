"""``bench`` as a user's Python calls it: no command, no options."""

import shutil
from dataclasses import replace

import msgspec
import pytest

from benchmarks.bench import bench
from benchmarks.commands import recommend
from benchmarks.measure.messages import Pace
from benchmarks.measure.protocol import Protocol
from benchmarks.report import write
from benchmarks.report.conclusion import conclude
from benchmarks.report.data import Report
from benchmarks.report.decision import Limits
from export.bundle import records
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from tests.benchmarks.report.sample_report import sample_report
from xfer.errors import UsageError, XferError

SHORT = Protocol(1, rounds=5, calls=70, seconds=0, quick=True, warmup_calls=5, warmup_seconds=0, pause_seconds=0.01)
VERIFIED = Verification("verified", "reward", reward_delta=0.0, reward_interval=(-1.0, 1.0))
PROVISIONAL = replace(VERIFIED, status="provisional", reason="130 pairs more")


@pytest.fixture
def bundle(small_bundle, tmp_path):
    """Two variants and no eager, for whose process torch would have to be imported."""
    path = tmp_path / "copy.bundle"
    shutil.copytree(small_bundle.path, path, ignore=shutil.ignore_patterns("records"))
    onnx = tuple(build for build in small_bundle.manifest.builds if build.variant.startswith("onnx"))
    manifest = replace(small_bundle.manifest, builds=onnx, reference="onnx-fp32")
    (path / "manifest.json").write_bytes(manifest.encode())
    return Bundle(path)


def recommended(bundle, limits):
    names = ("deadline_ms", "allow_provisional", "max_miss_rate")
    options = {name: getattr(limits, name) for name in names}
    try:
        return recommend.main(recommend.Args(bundle=bundle.path, **options))["variant"]
    except XferError:
        return ""


def test_the_report_and_recommend_agree_on_a_real_bundle(bundle, capsys):
    records.save(bundle, "onnx-fp32", verification=VERIFIED)
    records.save(bundle, "onnx-int8", verification=PROVISIONAL)
    shares, so_far = [], []
    report = bench(
        bundle,
        protocol=SHORT,
        loop=Pace(50.0, 0.2),
        limits=Limits(1000.0, max_miss_rate=0.3),
        on_step=lambda name, stage, done: shares.append(done),
        on_report=lambda report: so_far.append(report()),
    )
    # Speed-ups are against the bundle's own reference.
    assert next((row.variant, row.speedup_spread) for row in report.rows) == ("onnx-fp32", (1.0, 1.0))
    assert report.rows[1].speedup > 0
    assert report.command == ""
    assert [loop.missed for loop in report.loops] == [0, 0]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1] < 1) == (0.0, True)
    assert next(one.partial for one in so_far) == "after round 1 of 5"
    assert "xfer recommend" in report.commands[-1]
    # 70 calls are too few for p99: the deadline is judged by the control loop. Its 10 ticks prove little: at most 26 %.
    fastest = min(report.rows, key=lambda row: row.p50_ms).variant
    for limits, ship in (
        (Limits(1000.0, max_miss_rate=0.3), "onnx-fp32"),
        (Limits(1000.0, allow_provisional=True, max_miss_rate=0.3), fastest),
        (Limits(999.0, max_miss_rate=0.3), "onnx-fp32"),
        (Limits(1000.0), ""),
        (Limits(0.001, max_miss_rate=0.3), ""),
        (Limits(), "onnx-fp32"),
    ):
        assert conclude(replace(report, limits=limits)).ship == ship
        assert recommended(bundle, limits) == ship
    # A later bench in which a variant fails leaves nothing that could be recommended of it.
    next(bundle.path.glob("variants/onnx-fp32-*/policy.onnx")).write_bytes(b"")
    again = bench(bundle.path, "onnx", SHORT)
    assert "truncated or exchanged" in again.rows[0].reason
    assert records.load(bundle)["onnx-fp32"].latency is None
    assert records.load(bundle)["onnx-int8"].loop.ticks == 10  # nothing later says otherwise
    assert conclude(again).ship == recommended(bundle, Limits()) == ""


def test_what_does_not_fit_is_refused_before_anything_runs(bundle):
    with pytest.raises(UsageError, match="use 5 rounds or more"):
        bench(bundle, protocol=replace(SHORT, rounds=4))
    with pytest.raises(UsageError, match="Did you mean"):
        bench(bundle, ["onnx-int9"], SHORT)
    with pytest.raises(UsageError, match="--deadline-ms 0"):
        bench(bundle, protocol=SHORT, limits=Limits(0.0))


def test_a_report_of_version_0_2_0_is_read_and_written_whole():
    report = sample_report()
    today = msgspec.json.decode(write.to_json(report, conclude(report)))
    old = {key: value for key, value in today.items() if key not in ("limits", "reference")}
    rows = [{key: value for key, value in row.items() if key != "divergence"} for row in old["rows"]]
    read = msgspec.json.decode(msgspec.json.encode({**old, "schema": [1, 1], "rows": rows}), type=Report)
    assert (read.limits, read.reference) == (Limits(), "eager-fp32")
    assert read.rows[0] == report.rows[0]
    again = msgspec.json.decode(write.to_json(read, conclude(read)))
    assert set(again) == set(today)
    assert set(again["rows"][0]) == set(today["rows"][0])
