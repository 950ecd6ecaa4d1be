import msgspec

from export.bundle import Build
from export.records import MachineRecords, Record, Verification, as_row, this_machine
from xfer.files import from_json


def test_a_record_from_before_a_field_was_added_gives_a_whole_row():
    record = Record("onnx-fp32", "", {}, Verification("verified", "reward", pairs=160))
    plain = msgspec.to_builtins(MachineRecords(this_machine(), {"onnx-fp32": record}))
    for name in ("returns", "divergence", "worst"):
        del plain["records"]["onnx-fp32"]["verification"][name]
    read = from_json(msgspec.json.encode(plain), MachineRecords).records["onnx-fp32"]
    row = as_row("onnx-fp32", Build("onnx-fp32", "built"), read)
    assert (row["pairs"], row["returns"], row["divergence"], row["worst"]) == (160, (), None, ())
