"""The contract that every target keeps, over the folder's listing."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from export import targets
from export.targets import Place, Variant, expand
from xfer.errors import UnavailableError, UsageError
from xfer.runner import Runner

# PyTorch's compiler takes half a minute, and what it does in bf16 is what it does in fp32.
VARIANTS = [
    pytest.param(variant, marks=[pytest.mark.slow] if variant.precision == "bf16" else [])
    for variant in expand(",".join(targets.names()))
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_export_writes_files_and_facts(exported, variant):
    folder, facts = exported(variant)
    assert any(folder.iterdir())
    assert facts.max_batch is None or facts.max_batch >= 1
    assert targets.load(variant.target).libraries()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_session_keeps_the_contract(exported, variant, policy, met):
    folder, facts = exported(variant)
    module, spec = targets.load(variant.target), policy.spec
    if (reason := module.runnable("")) is not None:
        with pytest.raises(UnavailableError, match=re.escape(reason)), module.load(folder, spec, Place()):
            pass
        pytest.skip(reason)
    with module.load(folder, spec, Place(threads=2)) as session:
        batches = (1, 2, 5) if facts.max_batch is None else (1, min(3, facts.max_batch))
        for batch in batches[:2] if variant.target == "compile" else batches:  # it compiles for each
            observations = {"frame": met.observations["frame"][:batch]}
            states = {state.name: state.zeros(batch) for state in spec.states}
            step = session.step(observations, states)
            assert step.action.shape == (batch,)
            assert step.action.dtype == np.int64
            assert step.scores.shape == (batch, 2)
            assert step.scores.dtype == np.float32
            assert {name: state.shape for name, state in step.states.items()} == {
                name: state.shape for name, state in states.items()
            }
            np.testing.assert_array_equal(step.action, step.scores.argmax(axis=1))
            kept = step.scores.copy()
            session.step({"frame": 255 - observations["frame"]}, step.states)
            np.testing.assert_array_equal(step.scores, kept)  # the caller owns what it got


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.values[0].precision == "fp32"], ids=str)
def test_fp32_scores_equal_the_policy_in_training(exported, variant, policy, met):
    import torch

    folder, _ = exported(variant)
    module, spec = targets.load(variant.target), policy.spec
    if (reason := module.runnable("")) is not None:
        pytest.skip(reason)
    with module.load(folder, spec, Place()) as session:
        runner, history = Runner(session, spec), torch.zeros(1, *spec.states[0].shape)
        for frame in met.observations["frame"][:9]:
            with torch.inference_mode():
                seen, history = policy.see({"frame": torch.from_numpy(frame[None])}, history)
                wanted = policy.scores(seen)[0].numpy()
            np.testing.assert_allclose(runner.act({"frame": frame}).scores, wanted, atol=1e-4)


def unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    memory[...] = np.frombuffer(array.tobytes(), np.uint8)
    return memory.view(array.dtype).reshape(array.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "reversed": lambda array: array[..., ::-1].copy()[..., ::-1],
    "one reversed row": lambda array: array[::-1],
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "Fortran-ordered": np.asfortranarray,
    "read-only": read_only,
    "unaligned": unaligned,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.values[0].precision == "fp32"], ids=str)
def test_arrays_act_the_same_however_they_lie_in_memory(exported, variant, policy, met):
    folder, _ = exported(variant)
    module, spec = targets.load(variant.target), policy.spec
    if (reason := module.runnable("")) is not None:
        pytest.skip(reason)
    observations = {"frame": met.observations["frame"][40:41]}
    states = {s.name: np.random.default_rng(0).random((1, *s.shape), np.float32) for s in spec.states}
    with module.load(folder, spec, Place()) as session:
        wanted = session.step(observations, states)
        for name, form in FORMS.items():  # of both inputs, so that one's memory may be given to the other
            found = session.step(*({n: form(array) for n, array in given.items()} for given in (observations, states)))
            np.testing.assert_array_equal(found.scores, wanted.scores, err_msg=name)
            np.testing.assert_array_equal(found.states["history"], wanted.states["history"], err_msg=name)


@pytest.mark.parametrize(
    ("place", "provider", "extra"),
    [
        ("cuda", "CUDAExecutionProvider", "onnx-gpu"),
        ("tensorrt", "TensorrtExecutionProvider", "onnx-gpu"),
        ("openvino", "OpenVINOExecutionProvider", "onnx-openvino"),
    ],
)
def test_a_provider_that_was_asked_for_and_is_missing_is_an_error_not_a_fallback(
    exported, policy, place, provider, extra
):
    import onnxruntime

    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"this machine has the {provider}")
    folder, _ = exported(Variant("onnx", "fp32"))
    module = targets.load("onnx")
    install = rf"has no {provider}: pip uninstall onnxruntime.* && pip install 'xfer-policy\[{extra}\]'"
    with pytest.raises(UnavailableError, match=install), module.load(folder, policy.spec, Place(place)):
        pass


def test_the_spec_travels_in_the_graph(exported, policy):
    import onnx

    from xfer.files import from_json
    from xfer.spec import PolicySpec

    for variant in ("onnx-fp32", "onnx-int8"):
        folder, _ = exported(Variant.parse(variant))
        model = onnx.load(folder / "policy.onnx")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert from_json(metadata["xfer.spec"].encode(), PolicySpec) == policy.spec
        assert [tensor.name for tensor in model.graph.input] == ["frame", "history"]
        assert [tensor.name for tensor in model.graph.output] == ["action", "scores", "history_out"]


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-fp16", "onnx-int8", "tensorrt-int8"])
def test_every_graph_is_valid_and_asks_for_no_newer_runtime_than_it_needs(exported, variant):
    import onnx

    folder, _ = exported(Variant.parse(variant))
    graph = onnx.load(folder / "policy.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [opset.domain for opset in graph.opset_import] == [""]
    assert graph.ir_version == onnx.helper.find_min_ir_version_for(graph.opset_import)


def test_what_tensorrt_gets_has_no_rounding_between_a_convolution_and_its_relu(exported):
    import onnx

    folder, _ = exported(Variant("tensorrt", "int8"))
    nodes = onnx.load(folder / "policy.onnx").graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    rounded = [made_by.get(node.input[0]) for node in nodes if node.op_type == "QuantizeLinear"]
    assert rounded.count("Relu") >= 3
    assert "Conv" not in rounded


def test_preprocessing_is_not_quantized(exported):
    import onnx

    folder, _ = exported(Variant("onnx", "int8"))
    graph = onnx.load(folder / "policy.onnx").graph
    first = next(node for node in graph.node if node.op_type == "Conv")
    producers = {name: node.op_type for node in graph.node for name in node.output}
    assert producers.get(first.input[0]) != "DequantizeLinear"
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onx-fp32", "Unknown target 'onx'. Did you mean 'onnx'"),
        ("onnx-int9", "Unknown precision of target onnx 'int9'. Did you mean 'int8'"),
        ("onnx", "names no precision"),
        ("onnx-fp32@cud", "Did you mean 'cuda'"),
        ("onnx-fp32@tensort", "Did you mean 'tensorrt'"),
    ],
)
def test_a_wrong_variant_name_says_what_was_meant(text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Variant.parse(text)


def test_machine_code_is_loaded_only_where_it_can_run(exported, policy, met, tmp_path):
    from export.targets import aotinductor
    from export.targets.aotinductor import Needs
    from xfer.files import from_json, to_json

    folder, _ = exported(Variant("aotinductor", "fp32"))
    folder = shutil.copytree(folder, tmp_path / "copy")
    whole = (folder / aotinductor.NEEDS).read_bytes()
    here, built = aotinductor.needs(), from_json(whole, Needs)
    assert replace(built, features=here.features) == here
    assert built.missing(here) is None
    older = Needs("2.0.0", here.machine, here.capability)
    (folder / aotinductor.NEEDS).write_bytes(to_json(older))
    with (
        pytest.raises(UnavailableError, match=r"built by PyTorch 2\.0\.0, and this is .*Export it there"),
        aotinductor.load(folder, policy.spec, Place()),
    ):
        pass
    (folder / aotinductor.NEEDS).write_bytes(whole)
    robot = Needs("2.15.0", "aarch64", "DEFAULT")
    assert Needs("2.15.0", "x86_64", "AVX2").missing(robot) == "it was built for x86_64, and this is aarch64"
    narrow, wide = (Needs("2.15.0", "x86_64", name) for name in ("AVX2", "AVX512"))
    assert narrow.missing(wide) is None
    assert wide.missing(narrow) == "it was built for AVX512, and this processor has AVX2"
    newer, other = replace(built, features=(*built.features, "avx10", "apx")), replace(built, features=("avx10",))
    assert newer.missing(here) == "it was built for a processor with apx, avx10, which this one lacks"
    assert newer.missing(replace(here, features=())) is None, "where the system does not say"
    (folder / aotinductor.NEEDS).write_bytes(to_json(other))
    with (
        pytest.raises(UnavailableError, match=r"with avx10, which this one lacks\. Export it there"),
        aotinductor.load(folder, policy.spec, Place()),
    ):
        pass
    (folder / aotinductor.NEEDS).write_bytes(whole)
    two = {"frame": met.observations["frame"][:2]}
    with aotinductor.load(folder, policy.spec, Place()) as session, pytest.raises(UsageError, match="batch of 2"):
        session.step(two, {state.name: state.zeros(2) for state in policy.spec.states})


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", None])
def test_machine_code_is_compiled_for_a_level_that_many_processors_have(name):
    from export.targets import aotinductor

    if (reason := aotinductor.available()) is not None:
        pytest.skip(reason)
    names = [*aotinductor.LEVELS]
    flags = [
        flag for level in (names[names.index(name) :] if name else []) for flag in aotinductor.LEVELS[level].split()
    ]
    march, features = aotinductor.level((*flags, "avx512_vp2intersect"))
    assert march == name
    assert {*flags} <= {*features}
    assert ("avx512_vp2intersect" in features) == (name is None), "all that it has, where it has no level"


def test_a_target_alone_means_all_of_its_precisions():
    assert [str(v) for v in expand("onnx, eager-fp32,onnx-int8")] == [
        "onnx-fp32",
        "onnx-fp16",
        "onnx-int8",
        "eager-fp32",
    ]


@pytest.mark.gpu
def test_tensorrt_engines_act_as_eager_does(exported, policy, met):
    module = targets.load("tensorrt")
    if (reason := module.runnable("")) is not None:
        pytest.skip(reason)
    from export.verification.parity import numbers
    from xfer.models.torch_session import TorchSession

    golden = met.replay(Runner(TorchSession(policy.deploy(), policy.spec), policy.spec))
    for precision in ("fp32", "fp16"):
        folder, facts = exported(Variant("tensorrt", precision))
        with module.load(folder, policy.spec, Place()) as session:
            assert not numbers(session, policy.spec, golden, precision, facts.max_batch).failure


GPU = ["eager-fp32@cuda", "torchscript-fp32@cuda", "onnx-fp32@cuda", "onnx-fp16@cuda", "onnx-fp32@tensorrt"]
SLOW = ["aotinductor-bf16", "compile-bf16"]


@pytest.mark.parametrize(
    "variant",
    [
        "onnx-fp16",
        "onnx-fp32@openvino",
        "onnx-int8@openvino",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
        *(pytest.param(name, marks=pytest.mark.gpu) for name in GPU),
    ],
)
def test_other_places_and_precisions_act_as_eager_on_the_cpu_does(exported, policy, met, variant):
    import torch

    from export.verification.parity import numbers
    from xfer.models.torch_session import TorchSession

    parsed = Variant.parse(variant)
    module = targets.load(parsed.target)
    if variant in GPU and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU with its driver")
    if (reason := module.runnable(parsed.place)) is not None:
        pytest.skip(reason)
    golden = met.replay(Runner(TorchSession(policy.deploy(), policy.spec), policy.spec))
    folder, facts = exported(Variant(parsed.target, parsed.precision))
    with module.load(folder, policy.spec, Place(parsed.place)) as session:
        assert not numbers(session, policy.spec, golden, parsed.precision, facts.max_batch).failure
