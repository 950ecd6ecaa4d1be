"""What is ONNX Runtime's own; the contract that it shares with the other targets is in ``test_targets.py``."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from export import targets
from export.libraries import cuda
from export.targets import Place, Variant
from xfer.errors import BundleError, ExecutionError, UnavailableError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec

SPEC = PolicySpec(
    "",
    50.0,
    (TensorSpec("frame", "uint8", (4, 4, 3)),),
    (TensorSpec("memory", "float32", (2,)),),
    ActionSpec("discrete", ("left", "right")),
    "logits",
)
module = targets.load("onnx")

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
from xfer.errors import XferError
from xfer.files import from_json
from xfer.spec import PolicySpec
spec = from_json(Path(sys.argv[1]).read_bytes(), PolicySpec)
print(onnxruntime.__version__)
for folder in sys.argv[2:]:
    try:
        with onnx.load(Path(folder), spec, Place()) as session:
            inputs = [{tensor.name: tensor.zeros(2) for tensor in part} for part in (spec.observations, spec.states)]
            print(session.step(*inputs).scores.shape)
    except XferError as error:
        print(type(error).__name__, error)
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
        (
            "Unsupported model IR version: 99, max supported IR version: 13",
            "this is 1.16.3, and it needs one that knows IR version 99; or export with a lower --opset",
        ),
        ("Protobuf parsing failed.", ""),
    ],
)
def test_a_runtime_that_is_too_old_is_told_which_it_should_be(message, why):
    assert module.too_old(message, "1.16.3") == why


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
    assert refusal.startswith("UnavailableError")
    assert refusal.endswith(
        "ONNX Runtime cannot load it: this is 1.16.3, and it needs 1.18; or export with a lower --opset"
    )
    assert OLDEST.rpartition(".")[0] in (Path(__file__).parents[3] / "export" / "runtime" / "README.md").read_text()


class Library:
    """ONNX Runtime as it would be on a machine with a GPU: it keeps what a session is asked for, and may refuse it."""

    __version__ = "1.32.0"
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, refuse=lambda options: None):
        self.asked, self.refuse = [], refuse

    def get_available_providers(self):
        return [provider.name for provider in module.PROVIDERS.values()]

    def InferenceSession(self, graph, options, providers, enable_fallback):  # noqa: N802 - the library's name for it
        self.asked.append(providers)
        if (message := self.refuse(providers[0][1])) is not None:
            raise RuntimeError(message)
        return SimpleNamespace(get_providers=lambda: [name for name, _ in providers])


@pytest.fixture
def with_gpu(tmp_path, monkeypatch):
    """Gives the stand-in a place, beside a user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    monkeypatch.setattr(cuda, "compute_capability", lambda: "89")
    (tmp_path / module.FILE).write_bytes(module.ONE_NODE)

    def use(library):
        monkeypatch.setattr(module, "onnxruntime", lambda: library)
        return library

    return use


def opened(folder, library, place):
    with module.load(folder, SPEC, place):
        (first, options), *others = library.asked[-1]
    return first, options, others


def test_tensorrt_is_told_its_precision_its_batches_and_where_to_keep_engines(with_gpu, tmp_path):
    library = with_gpu(Library())
    provider, options, others = opened(tmp_path, library, Place("tensorrt", precision="fp32", max_batch=8))
    assert provider == "TensorrtExecutionProvider"
    assert others == [("CUDAExecutionProvider", {"use_tf32": "0"})]
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("0", "0")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert options["trt_profile_min_shapes"] == "frame:1x4x4x3,memory:1x2"
    assert options["trt_profile_opt_shapes"] == "frame:1x4x4x3,memory:1x2"
    assert options["trt_profile_max_shapes"] == "frame:8x4x4x3,memory:8x2"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path / "cache" / "xfer")
    for place, enabled in ((Place("tensorrt", precision="fp16"), "10"), (Place("tensorrt", precision="int8"), "01")):
        other = opened(tmp_path, library, place)[1]
        assert other["trt_fp16_enable"] + other["trt_int8_enable"] == enabled
        assert other["trt_engine_cache_path"] != str(folder), "an engine of another precision"


def test_an_engine_is_kept_for_this_graph_these_batches_and_this_version(with_gpu, tmp_path, monkeypatch):
    library, place = with_gpu(Library()), Place("tensorrt")
    folders = [opened(tmp_path, library, place)[1]["trt_engine_cache_path"] for _ in range(2)]
    folders.append(opened(tmp_path, library, Place("tensorrt", max_batch=16))[1]["trt_engine_cache_path"])
    (tmp_path / module.FILE).write_bytes(module.ONE_NODE + b" ")
    folders.append(opened(tmp_path, library, place)[1]["trt_engine_cache_path"])
    monkeypatch.setattr(module, "libraries", lambda: {"onnxruntime-gpu": "1.33.0"})
    folders.append(opened(tmp_path, library, place)[1]["trt_engine_cache_path"])
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_without_a_cache_that_can_be_written_to_engines_are_built_anew(with_gpu, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert opened(tmp_path, with_gpu(Library()), Place("tensorrt"))[1]["trt_engine_cache_enable"] == "0"


def test_where_tensorrt_runs_a_part_of_the_graph_it_finds_out_the_shapes_itself(with_gpu, tmp_path):
    said = "Following input(s) has no associated shape profiles provided: /model/crop"
    library = with_gpu(Library(lambda options: said if "trt_profile_min_shapes" in options else None))
    options = opened(tmp_path, library, Place("tensorrt"))[1]
    assert len(library.asked) == 2
    assert not [name for name in options if "profile" in name]


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=robot", ExecutionError, "out of memory"),
        ("CUDA failure 100: no CUDA-capable device is detected", UnavailableError, "there is no NVIDIA GPU"),
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", UnavailableError, "too old"),
        ("CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", ExecutionError, "the GPU failed"),
        ("This session contains graph nodes that are assigned to the default CPU EP", UnavailableError, "run all of"),
        ("Unsupported model IR version: 12, max supported IR version: 10", UnavailableError, "this is 1.32.0"),
    ],
)
def test_what_a_provider_cannot_do_is_told_apart(with_gpu, tmp_path, message, kind, said):
    library = with_gpu(Library(lambda options: message))
    with pytest.raises(kind, match=said):
        opened(tmp_path, library, Place("cuda"))


def test_a_graph_that_is_none_is_the_bundles_fault(tmp_path):
    (tmp_path / module.FILE).write_bytes(b"no graph")
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it"), module.load(tmp_path, SPEC, Place()):
        pass


def test_what_was_compiled_in_does_not_run_without_a_gpu(with_gpu, monkeypatch):
    with_gpu(Library())
    assert module.runnable("cuda") is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "onnxruntime", Library)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        for place in ("cuda", "tensorrt"):
            assert "no NVIDIA GPU with a driver" in module.runnable(place)
    else:
        pytest.skip("this machine has an NVIDIA driver")


def test_one_node_is_run_to_find_out_whether_a_provider_works(with_gpu, monkeypatch):
    graph = onnx.load_from_string(module.ONE_NODE)
    onnx.checker.check_model(graph, full_check=True)
    assert module.try_out("") is None
    said = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    with_gpu(Library(lambda options: said))
    assert module.try_out("cuda").startswith("onnx: CUDAExecutionProvider: NVIDIA's driver is too old")
    wrong = SimpleNamespace(run=lambda names, inputs: [np.zeros((1, 1), np.float32)])
    monkeypatch.setattr(module, "_open", lambda *args: wrong)
    assert "wrongly" in module.try_out("")
