from dataclasses import replace

import msgspec

from export.bundle.machine import this_machine
from export.bundle.manifest import Build
from export.bundle.records import Divergence, MachineRecords, Record, Verification, as_row, printed, stronger
from xfer.files import from_json


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
