import msgspec

from export.bundle.machine import this_machine
from export.bundle.manifest import Build
from export.bundle.records import Divergence, MachineRecords, Record, Verification, as_row, printed
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
