import contextlib
import json
from dataclasses import replace

import msgspec
import pytest

from benchmarks.measure import worker_process
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.manifest import MANIFEST, RECORDS, Build
from export.bundle.precedence import stronger
from export.bundle.reader import Bundle
from export.bundle.record import Divergence, Latency, Record, Verification, as_row, printed
from export.bundle.records import MachineRecords
from export.verification.ledger import Ledger
from export.verification.pairs import Outcome
from tests.permissions import read_only
from xfer import cli
from xfer.errors import BundleError
from xfer.files import from_json, write_atomically

VERIFIED = Verification("verified", "reward", pairs=160)


def test_a_record_from_before_a_field_was_added_gives_a_whole_row():
    record = Record("onnx-fp32", "", {}, Verification("verified", "reward", pairs=160))
    plain = msgspec.to_builtins(MachineRecords(this_machine(), {"onnx-fp32": record}))
    for name in ("returns", "divergence", "worst"):
        del plain["records"]["onnx-fp32"]["verification"][name]
    read = from_json(msgspec.json.encode(plain), MachineRecords).records["onnx-fp32"]
    row = as_row("onnx-fp32", Build("onnx-fp32", "built"), read)
    assert (row["pairs"], row["returns"], row["divergence"], row["worst"]) == (160, (), None, ())


def test_what_is_printed_leaves_the_picture_out_and_nothing_else():
    verification = Verification("verified", "reward", divergence=Divergence(3, 7, (1.0,), (0.0,), 0.5, "iVBORw0KGgo="))
    row = as_row("onnx-int8", Build("onnx-int8", "built"), Record("onnx-int8", "", {}, verification))
    shown = printed(row)
    assert row["divergence"] == {**shown["divergence"], "picture": "iVBORw0KGgo="}
    assert {**shown, "divergence": row["divergence"]} == row


def test_a_verdict_whose_pairs_were_run_anew_replaces_the_one_before():
    before = Verification("verified", "reward", pairs=2, returns=((7, 1.0, 1.0), (8, 1.0, 1.0)))
    anew = Verification("provisional", "reward", pairs=1, returns=((7, 1.0, 0.5),))
    assert stronger(before, anew) == anew
    assert stronger(before, replace(anew, returns=before.returns[:1])) == before
    assert stronger(before, replace(anew, returns=((9, 1.0, 0.5),))) == before


def test_a_rejection_gives_way_only_to_a_verdict_that_looked_as_closely():
    rejected = Verification("rejected", "actions", observations=1000)
    assert stronger(rejected, Verification("provisional", "reward", pairs=20, observations=64)) == rejected
    assert stronger(Verification("verified", "reward", pairs=160), rejected) == rejected
    closer = Verification("provisional", "actions", observations=1000)
    assert stronger(rejected, closer) == closer
    lost = Verification("rejected", "reward", pairs=60)
    assert stronger(lost, closer) == lost


def test_the_actions_gate_that_saw_more_is_kept_beside_more_pairs():
    before = Verification("provisional", "reward", pairs=20, observations=1000, regret=0.1, agreement=0.9)
    more = Verification("verified", "reward", pairs=160, observations=64, regret=0.0, agreement=1.0)
    assert stronger(before, more) == replace(more, observations=1000, regret=0.1, agreement=0.9)


@pytest.fixture
def bundle(bundle_path):
    return Bundle(bundle_path)


def test_records_of_a_read_only_bundle_go_elsewhere_and_those_in_it_are_read_too(bundle, tmp_path):
    records.save(bundle, "onnx-fp32", verification=VERIFIED)
    records.save(bundle, "onnx-int8", verification=VERIFIED)
    before = sorted(bundle.path.rglob("*"))
    elsewhere = Bundle(bundle.path, tmp_path / "far" / "records")
    with read_only(bundle.path):
        records.check_writable(elsewhere)
        kept = records.save(elsewhere, "onnx-fp32", verification=replace(VERIFIED, pairs=300))
        assert kept.pairs == 300
        weaker = records.save(elsewhere, "onnx-int8", verification=Verification("provisional", "actions"))
    assert weaker == VERIFIED, "which is in the bundle"
    assert {name: record.verification.pairs for name, record in records.load(elsewhere).items()} == {
        "onnx-fp32": 300,
        "onnx-int8": 160,
    }
    assert records.load(bundle)["onnx-fp32"].verification == VERIFIED
    assert sorted(bundle.path.rglob("*")) == before
    names = {path.name for path in elsewhere.records.iterdir()}
    assert names == {".lock", records.POLICY, f"{this_machine().id}.json"}


@pytest.mark.parametrize("case", ["read-only", "a file in the place of the folder", "a link", "a linked lock"])
def test_records_that_cannot_be_written_say_so_in_one_line_before_and_after(bundle, tmp_path, case):
    wanted, taken = "--records DIR", bundle.path / RECORDS
    with contextlib.ExitStack() as stack:
        if case == "read-only":
            stack.enter_context(read_only(bundle.path))
        elif case == "a file in the place of the folder":
            taken.write_text("what records?", encoding="utf-8")
        else:
            taken, wanted = bundle.path / (RECORDS if case == "a link" else ".lock"), "is a symbolic link"
            taken.unlink(missing_ok=True)
            (tmp_path / "theirs").write_text("a thesis", encoding="utf-8")
            taken.symlink_to(tmp_path / "theirs")
        for act in (records.check_writable, lambda b: records.save(b, "onnx-fp32", verification=VERIFIED)):
            with pytest.raises(BundleError, match=wanted) as caught:
                act(bundle)
            assert "\n" not in str(caught.value)
    if case.startswith("a link"):
        assert (tmp_path / "theirs").read_text(encoding="utf-8") == "a thesis"


def test_a_folder_of_records_is_of_one_policy(bundle, tmp_path):
    elsewhere = Bundle(bundle.path, tmp_path / "records")
    records.save(elsewhere, "onnx-fp32", verification=VERIFIED)
    provenance = replace(bundle.manifest.provenance, weights="f" * 64)
    write_atomically(bundle.path / MANIFEST, replace(bundle.manifest, provenance=provenance).encode())
    other = Bundle(bundle.path, tmp_path / "records")
    for act in (records.load, records.check_writable):
        with pytest.raises(BundleError, match=r"has records of another policy\. Choose another folder: --records DIR"):
            act(other)


def test_a_folder_of_records_that_is_none_is_named(bundle, tmp_path):
    (tmp_path / "records").write_text("", encoding="utf-8")
    with pytest.raises(BundleError, match=r"records cannot be written to: .*Choose another folder: --records DIR"):
        records.check_writable(Bundle(bundle.path, tmp_path / "records"))


def test_the_ledger_of_a_read_only_bundle_goes_on_elsewhere(bundle, tmp_path):
    pair = Outcome(7, 1.0, 1.0, None)
    ledger = Ledger(bundle)
    ledger.save(replace(entry, outcomes=(pair,)) for entry in ledger.enter(["onnx-fp32"]).values())
    elsewhere = Ledger(Bundle(bundle.path, tmp_path / "records"))
    with read_only(bundle.path):
        (entry,) = elsewhere.enter(["onnx-fp32"]).values()
        assert entry.outcomes == (pair,)
        elsewhere.save([replace(entry, outcomes=(pair, replace(pair, seed=8)))])
        assert len(elsewhere.enter(["onnx-fp32"])["onnx-fp32"].outcomes) == 2
    assert elsewhere.path.parent == tmp_path / "records" / "pairs"
    assert Ledger(bundle).enter(["onnx-fp32"])["onnx-fp32"].outcomes == (pair,)


def test_the_commands_verify_and_recommend_a_read_only_bundle_and_refuse_it_before_any_work(
    bundle, tmp_path, capsys, monkeypatch
):
    words = [str(bundle.path), "--records", str(tmp_path / "records")]
    begun = []
    monkeypatch.setattr(worker_process, "Popen", lambda *words, **options: begun.append(words))
    with read_only(bundle.path):
        for command in (["verify", "--pairs", "0"], ["bench", "--quick", "--output", str(tmp_path / "report")]):
            assert cli.main([command[0], str(bundle.path), *command[1:]]) == 1
            captured = capsys.readouterr()
            assert len(captured.err.splitlines()) == 1
            assert "If it is read-only, name a folder that its records go to: --records DIR" in captured.err
            assert captured.out.strip() == ""
        assert cli.main(["recommend", *words]) == 2
        assert "xfer verify and xfer bench make it" in capsys.readouterr().err
        assert cli.main(["verify", *words, "--variants", "onnx-fp32", "--pairs", "0"]) == 0
        elsewhere = Bundle(bundle.path, tmp_path / "records")
        latency = Latency(4.0, 5.0, 5.0, 6.0, 7.0, 9.0, 2.0, (1.9, 2.1), 1024, True, False, 1.0, 10, 2)
        proven = replace(VERIFIED, reward_delta=0.0, reward_interval=(-0.1, 0.1))
        records.save(elsewhere, "onnx-fp32", verification=proven, latency=latency)
        assert cli.main(["recommend", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["variant"] == "onnx-fp32"
    assert begun == []
