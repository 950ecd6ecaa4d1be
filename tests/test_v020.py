"""What version 0.2.0 wrote is still read, verified, measured and continued; see tests/data/v020/README.md."""

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import msgspec
import pytest
from safetensors.numpy import load_file

from xfer.cli import main

SAMPLES = Path(__file__).parent / "data" / "v020"
TASK = "small_cartpole:task"
NETWORK = ["--weights", "none", "--tap", "stem", "--head", "flatten", "--train-from", "head", "--eval-episodes", "4"]
BUILDS = {"eager-fp32", "torchscript-fp32", "onnx-fp32", "onnx-int8"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A user's folder, in which their own task can be imported."""
    monkeypatch.setenv("XFER_TASK", "")  # commands set it
    monkeypatch.syspath_prepend(SAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unpacked(name: str) -> Path:
    with tarfile.open(SAMPLES / f"{name}.tar.gz") as archive:
        archive.extractall(filter="data")
    return Path(name)


@pytest.fixture
def answer(capsys):
    """Run a command that a user would type; return what it prints for programs."""

    def run(*words: str | Path):
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def belongs_to(bundle: Path, processor: str | None) -> None:
    """Make the bundle's records those of another machine; or, without a name, of this one and its libraries."""
    from export import targets
    from export.bundle.machine import this_machine
    from export.bundle.records import MachineRecords

    (path,) = (bundle / "records").glob("*.json")
    known = json.loads(path.read_bytes())
    path.unlink()
    if processor is None:
        known["machine"] = msgspec.to_builtins(this_machine())
        for name, record in known["records"].items():
            record["libraries"] = targets.load(name.partition("-")[0]).libraries()
    else:
        known["machine"]["processor"] = processor
    machine = msgspec.convert(known, MachineRecords).machine
    (bundle / "records" / f"{machine.id}.json").write_text(json.dumps(known))


def test_a_bundle_is_read():
    from export import Bundle

    bundle = Bundle(unpacked("finished.bundle"))  # checks the manifest's digest
    assert set(bundle.builds) == BUILDS
    assert bundle.reference == "eager-fp32"
    golden = bundle.golden()
    assert golden.observations["frame"].shape[1:] == (32, 48, 3)
    with bundle.runner("onnx-fp32", threads=1) as policy:  # checks the files' digests
        policy.reset()
        assert int(policy.act({"frame": golden.observations["frame"][0]}).action) in (0, 1)


def test_a_bundle_is_verified_on_the_observations_of_its_run(answer):
    run, bundle = unpacked("finished"), unpacked("finished.bundle")
    shutil.rmtree(bundle / "records")  # which may be of a machine like this one
    rows = answer("verify", bundle, "--run", run, "--pairs", "0", "--task", TASK)["variants"]
    assert {row["variant"] for row in rows} == BUILDS
    for row in rows:
        assert row["observations"] == 1000
        assert row["rung"] == "actions"
        assert row["status"] in ("verified", "provisional"), row


def test_a_bundle_is_verified_in_its_task_and_its_pairs_go_on(answer):
    run, bundle = unpacked("finished"), unpacked("finished.bundle")
    belongs_to(bundle, None)
    words = ["--variants", "onnx-fp32", "--pairs", "6", "--workers", "1"]
    (row,) = answer("verify", bundle, "--run", run, *words, "--task", TASK)["variants"]
    assert (row["status"], row["rung"], row["pairs"]) == ("provisional", "reward", 6)
    assert [seed for seed, _, _ in row["returns"]] == list(range(2_000_000, 2_000_006))


def test_a_bundle_is_measured(answer, short_bench):
    bundle = unpacked("finished.bundle")
    words = ["--quick", "--rounds", "5", "--threads", "1", "--no-whole-backbone", "--variants", "onnx-fp32"]
    rows = {row["variant"]: row for row in answer("bench", bundle, *words)["variants"]}
    assert rows["onnx-fp32"]["speedup"] > 0
    assert rows["eager-fp32"]["p50_ms"] > 0


def test_a_bundle_is_packed(answer):
    from export import Bundle

    answer("pack", unpacked("finished.bundle"), "--variant", "onnx-fp32", "--output", "packed.bundle")
    assert set(Bundle("packed.bundle").builds) == {"onnx-fp32"}


def test_records_of_another_machine_are_shown_as_inherited_and_not_believed(capsys):
    bundle = unpacked("finished.bundle")
    belongs_to(bundle, "Somebody else's processor")
    assert main(["recommend", str(bundle), "--deadline-ms", "1000", "--allow-provisional"]) == 1
    shown = capsys.readouterr()
    assert "inherited, not believed" in " ".join(shown.out.split())
    assert "inherited, not believed" in shown.err


def test_records_of_this_machine_count(answer):
    bundle = unpacked("finished.bundle")
    belongs_to(bundle, None)
    best = answer("recommend", bundle, "--deadline-ms", "1000", "--allow-provisional")
    (path,) = (bundle / "records").glob("*.json")
    latencies = {name: record["latency"] for name, record in json.loads(path.read_bytes())["records"].items()}
    measured = [name for name, latency in latencies.items() if latency is not None]
    fastest = min(measured, key=lambda name: latencies[name]["p50_ms"])
    assert (best["variant"], best["p50_ms"]) == (fastest, latencies[fastest]["p50_ms"])


CONTINUED = {
    "imitation": (["--rounds", "2", "--frames", "200", "--steps", "40"], 400),
    "ppo": (
        [
            *("--algorithm", "ppo", "--rounds", "2", "--total-frames", "2048", "--environments", "4"),
            *("--rollout-steps", "64", "--vectorize", "sync"),
        ],
        2048,
    ),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_an_interrupted_run_goes_on_to_its_end_and_is_exported(name, answer):
    run, (words, frames) = unpacked(name), CONTINUED[name]
    (first,) = json.loads((run / "progress.json").read_bytes())["rounds"]
    weights = (run / "rounds" / "000-weights.safetensors").read_bytes()
    done = answer("train", TASK, *NETWORK, *words, "--output", run)
    assert (done["frames"], done["eval_episodes"]) == (frames, 4)
    rounds = json.loads((run / "progress.json").read_bytes())["rounds"]
    assert len(rounds) == 2
    assert {key: rounds[0][key] for key in first} == first
    assert (run / "rounds" / "000-weights.safetensors").read_bytes() == weights
    builds = answer("export", run, "--targets", "eager,onnx-fp32")["variants"]
    assert [build["status"] for build in builds] == ["built", "built"]


def test_a_finished_run_gives_its_weights_to_another(answer):
    source = unpacked("finished")
    words = [*NETWORK, "--weights", source, "--rounds", "1", "--frames", "40", "--steps", "5"]
    answer("train", TASK, *words, "--output", "another")
    old, new = (load_file(path / "policy.safetensors") for path in (source, Path("another")))
    frozen = [name for name in old if name.startswith("trunk.")]
    assert frozen
    for name in frozen:
        assert (old[name] == new[name]).all(), name


def test_a_report_is_read_and_drawn(folder):
    from benchmarks.commands.compare import read
    from benchmarks.report.conclusion import conclude
    from benchmarks.report.write import write

    path = folder / "old.json"
    path.write_bytes(gzip.decompress((SAMPLES / "report.json.gz").read_bytes()))
    plain, report = json.loads(path.read_bytes()), read(path)
    assert [m.name for m in report.measurements] == [m["name"] for m in plain["measurements"]]
    assert json.loads(msgspec.json.encode(report.measurements[0].rounds)) == plain["measurements"][0]["rounds"]
    paths = write(report, conclude(report), folder)
    for kind in ("html", "md"):
        text = Path(paths[kind]).read_text()
        assert "onnx-int8" in text
        assert plain["command"] in text


def test_a_report_of_one_start_is_refused_by_compare_in_one_line(folder, capsys):
    path = folder / "old.json"
    path.write_bytes(gzip.decompress((SAMPLES / "report.json.gz").read_bytes()))
    assert main(["compare", str(path), str(path)]) == 2
    quick = capsys.readouterr().err
    path.write_text(
        json.dumps({**(plain := json.loads(path.read_bytes())), "protocol": plain["protocol"] | {"quick": False}})
    )
    assert main(["compare", str(path), str(path)]) == 2
    one_start = capsys.readouterr().err
    assert [len(said.splitlines()) for said in (quick, one_start)] == [1, 1]
    assert "is of a quick bench" in quick
    assert "1 and 1 starts of each process are too few" in one_start
