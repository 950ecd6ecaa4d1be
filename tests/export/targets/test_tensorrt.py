"""What is TensorRT's own, as far as it shows without a GPU: a stand-in plays the engine. The rest is marked ``gpu``."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from export import targets
from export.libraries import cuda
from export.targets import ExportOptions, Place
from xfer.errors import BundleError, ExecutionError, UnavailableError, UsageError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec

tensorrt = targets.load("tensorrt")
trt = pytest.importorskip("tensorrt_rtx", reason=tensorrt.no_library())
SPEC = PolicySpec(
    "",
    50.0,
    (TensorSpec("frame", "uint8", (4, 4, 3)),),
    (TensorSpec("memory", "float32", (2,)),),
    ActionSpec("discrete", ("left", "stay", "right")),
    "logits",
)
INPUT, OUTPUT = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
TENSORS = {
    "frame": (INPUT, trt.DataType.UINT8, (-1, 4, 4, 3), trt.TensorLocation.DEVICE),
    "memory": (INPUT, trt.DataType.FLOAT, (-1, 2), trt.TensorLocation.DEVICE),
    "action": (OUTPUT, trt.DataType.INT64, (-1,), trt.TensorLocation.DEVICE),
    "scores": (OUTPUT, trt.DataType.FLOAT, (-1, 3), trt.TensorLocation.DEVICE),
    "memory_out": (OUTPUT, trt.DataType.FLOAT, (-1, 2), trt.TensorLocation.DEVICE),
}


class Engine:
    """Says what an engine with these tensors, and a profile up to ``max_batch``, would say."""

    def __init__(self, tensors=TENSORS, max_batch=8, address=True):
        self.tensors, self.max_batch, self.address = tensors, max_batch, address
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.tensors[name][0]

    def get_tensor_dtype(self, name):
        return self.tensors[name][1]

    def get_tensor_shape(self, name):
        return trt.Dims(self.tensors[name][2])

    def get_tensor_location(self, name):
        return self.tensors[name][3]

    def create_execution_context(self):
        return SimpleNamespace(
            set_input_shape=lambda name, shape: shape[0] <= self.max_batch,
            set_tensor_address=lambda name, memory: self.address,
            execute_async_v3=lambda stream: True,
        )


def test_an_engine_of_this_contract_is_taken():
    tensorrt.check_engine(trt, Engine(), SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": None}, "'memory' is no such tensor, and the spec says INPUT float32"),
        ({"more": TENSORS["memory"]}, "'more' is INPUT float32 .*, and the spec says no such tensor"),
        ({"scores": (OUTPUT, trt.DataType.HALF, (-1, 3), trt.TensorLocation.DEVICE)}, "'scores' is OUTPUT None"),
        ({"scores": (OUTPUT, trt.DataType.FLOAT, (-1, 4), trt.TensorLocation.DEVICE)}, r"\(4,\), and .* \(3,\)"),
        ({"memory": (OUTPUT, *TENSORS["memory"][1:])}, "'memory' is OUTPUT .* says INPUT"),
        ({"frame": (*TENSORS["frame"][:3], trt.TensorLocation.HOST)}, "wants 'frame' in the host's memory"),
    ],
)
def test_an_engine_of_another_contract_is_refused_with_what_differs(change, message):
    tensors = {name: facts for name, facts in {**TENSORS, **change}.items() if facts}
    with pytest.raises(BundleError, match=rf"policy\.engine: .*{message}"):
        tensorrt.check_engine(trt, Engine(tensors), SPEC)


@pytest.fixture
def host_only(monkeypatch):
    """Buffers of the GPU that lie in the host's memory."""

    class Buffer:
        def __init__(self, shape, dtype):
            self.host, self.device = np.zeros(shape, dtype), 0

        upload = download = lambda self, stream: None

        def free(self):
            pass

    calls = ("cudaStreamCreate", "cudaStreamSynchronize", "cudaStreamDestroy")
    monkeypatch.setattr(cuda, "runtime", lambda: SimpleNamespace(**{call: lambda *_: (0, 0) for call in calls}))
    monkeypatch.setattr(cuda, "Buffer", Buffer)


def zeros(batch):
    return [{t.name: t.zeros(batch) for t in tensors} for tensors in (SPEC.observations, SPEC.states)]


@pytest.mark.usefixtures("host_only")
def test_a_batch_beyond_the_profile_is_refused_and_gives_no_memory_that_nobody_wrote():
    session = tensorrt.TensorRTSession(Engine(), SPEC)
    for _ in range(2):
        with pytest.raises(UsageError, match="A batch of 9 does not fit"):
            session.step(*zeros(9))
    assert session.step(*zeros(8)).scores.shape == (8, 3)


@pytest.mark.usefixtures("host_only")
def test_memory_that_is_refused_is_an_error():
    with pytest.raises(BundleError, match="TensorRT refuses the memory of 'frame'"):
        tensorrt.TensorRTSession(Engine(address=False), SPEC).step(*zeros(1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fp32_is_not_computed_in_tf32_and_the_engine_says_who_built_it(precision, tmp_path, monkeypatch):
    graph = "main (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {graph}'), tmp_path / tensorrt.ONNX)
    configurations = []

    class Builder(trt.Builder):
        def create_builder_config(self):
            configurations.append(super().create_builder_config())
            return configurations[-1]

    monkeypatch.setattr(trt, "Builder", Builder)
    monkeypatch.setattr(tensorrt, "library_name", lambda: "tensorrt_rtx")
    spec = PolicySpec("", 50.0, (TensorSpec("x", "float32", (2,)),), (), SPEC.action, "logits")
    tensorrt.build_engine(tmp_path, spec, precision, ExportOptions(compute_capabilities=("89",)))
    assert configurations[0].get_flag(trt.BuilderFlag.TF32) == (precision != "fp32")
    assert (tmp_path / tensorrt.LIBRARY).read_text() == "tensorrt_rtx"


def test_an_engine_of_the_other_library_is_not_given_to_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "runnable", lambda place: None)
    (tmp_path / tensorrt.LIBRARY).write_text("tensorrt")
    monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda name: None if name == "tensorrt" else name)
    message = "tensorrt built this engine, and is not installed. .* build one with tensorrt_rtx: xfer export"
    with pytest.raises(UnavailableError, match=message), tensorrt.load(tmp_path, SPEC, Place()):
        pass


def test_an_engine_of_another_gpu_or_version_is_not_run_here_and_not_rejected(tmp_path, monkeypatch):
    said = "The engine plan file is generated on an incompatible device, expecting compute 8.9 got compute 8.6"

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            self.logger.log(trt.ILogger.Severity.ERROR, said)

    monkeypatch.setattr(tensorrt, "runnable", lambda place: None)
    monkeypatch.setattr(trt, "Runtime", Runtime)
    (tmp_path / tensorrt.LIBRARY).write_text("tensorrt_rtx")
    (tmp_path / tensorrt.ENGINE).write_bytes(b"an engine")
    with pytest.raises(UnavailableError, match=r"incompatible device.*built for another GPU or version.*--into BUNDLE"):
        tensorrt.load(tmp_path, SPEC, Place()).__enter__()


@pytest.mark.usefixtures("host_only")
def test_a_gpu_whose_memory_is_full_or_whose_kernel_fails_is_no_fault_of_the_files():
    full = Engine()
    full.create_execution_context = lambda: None
    with pytest.raises(ExecutionError, match="memory may be full"):
        tensorrt.TensorRTSession(full, SPEC)
    failing = Engine()
    context = failing.create_execution_context()
    context.execute_async_v3 = lambda stream: False
    failing.create_execution_context = lambda: context
    with pytest.raises(ExecutionError, match="a kernel failed on the GPU"):
        tensorrt.TensorRTSession(failing, SPEC).step(*zeros(1))
