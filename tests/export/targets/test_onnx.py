"""What is ONNX Runtime's own; the contract that it shares with the other targets is in ``test_targets.py``."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from export import targets
from export.targets import Variant

OLDEST = "1.16.3"
"""The oldest that export/runtime/README.md names."""
WITHOUT = (
    f"needs ONNX Runtime {OLDEST}, which has no wheel for every Python: pip install --target FOLDER"
    f" onnxruntime=={OLDEST} 'numpy<2', and XFER_OLD_ONNXRUNTIME=FOLDER"
)
PROGRAM = """\
import sys
from pathlib import Path
import onnxruntime
from export.targets import Place, onnx
from xfer.errors import BundleError
from xfer.files import from_json
from xfer.spec import PolicySpec
spec = from_json(Path(sys.argv[1]).read_bytes(), PolicySpec)
print(onnxruntime.__version__)
for folder in sys.argv[2:]:
    try:
        with onnx.load(Path(folder), spec, Place()) as session:
            inputs = [{tensor.name: tensor.zeros(2) for tensor in part} for part in (spec.observations, spec.states)]
            print(session.step(*inputs).scores.shape)
    except BundleError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            "Load model from x failed:model.cc:149 Unsupported model IR version: 10, max supported IR version: 9",
            "this is 1.16.3, and it needs 1.18; or export with a lower --opset",
        ),
        (
            "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions."
            " Opset 20 is under development and support for this is limited. Current support is till opset 19.",
            "this is 1.16.3, and it needs 1.17; or export with a lower --opset",
        ),
        ("Protobuf parsing failed.", ""),
    ],
)
def test_a_runtime_that_is_too_old_is_told_which_it_should_be(message, why):
    assert targets.load("onnx").too_old(message, "1.16.3") == why


def test_the_oldest_runtime_that_the_readme_names_loads_every_graph(exported, policy, tmp_path):
    from xfer.files import to_json

    folder = os.environ.get("XFER_OLD_ONNXRUNTIME", "")
    if not Path(folder or "-", "onnxruntime").is_dir():
        pytest.skip(WITHOUT)
    folders = [exported(Variant.parse(name))[0] for name in ("onnx-fp32", "onnx-fp16", "onnx-int8", "tensorrt-int8")]
    newer = onnx.load(folders[0] / "policy.onnx")
    newer.ir_version, newer.opset_import[0].version = 10, 21
    (tmp_path / "newer").mkdir()
    onnx.save(newer, tmp_path / "newer" / "policy.onnx")
    (tmp_path / "spec.json").write_bytes(to_json(policy.spec))
    path = os.pathsep.join([folder, str(Path(__file__).parents[3])])
    command = [sys.executable, "-c", PROGRAM, tmp_path / "spec.json", *folders, tmp_path / "newer"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    version, *shapes, refusal = done.stdout.splitlines() or [done.stderr]
    assert (version, shapes) == (OLDEST, ["(2, 2)"] * 4)
    assert refusal.endswith(
        "ONNX Runtime cannot load it: this is 1.16.3, and it needs 1.18; or export with a lower --opset"
    )
    assert OLDEST.rpartition(".")[0] in (Path(__file__).parents[3] / "export" / "runtime" / "README.md").read_text()
