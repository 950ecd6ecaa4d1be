"""The C++ runtime reads what Python writes, and says what Python says, bit by bit.

The project is configured and built once; then ctypes drives ``libxfer.so`` beside Python on the same bundles.
"""

import ctypes.util
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import targets
from export.bundle.reader import Bundle
from tests.conftest import skip_without
from tests.export.runtime.conftest import RUNTIME, run
from tests.export.runtime.xfer_c import CError, CPolicy
from xfer import __version__
from xfer.trajectories import Trajectories

NAMES = ["cartpole", "two", "recurrent"]
BIT_EQUAL = [("cartpole", "onnx-int8")] + [(name, v) for v in ("onnx-fp32", "openvino-fp32") for name in NAMES]
CLOSE = [(name, "torchscript-fp32") for name in NAMES] + [("recurrent", "aotinductor-fp32")]
BACKENDS = {"openvino": "openvino", "torchscript": "torch", "aotinductor": "aotinductor", "tensorrt": "tensorrt"}
"""The backend of a target, where that may be missing."""


@pytest.fixture
def opened(build, library, bundles, onnxruntime_library):
    """Opens variants in C, and closes them after the test."""
    policies = []

    def open_variant(name: str, variant: str, **options) -> CPolicy:
        backend = BACKENDS.get(variant.partition("-")[0], "onnx")
        if not (build / f"xfer_{backend}.so").exists():
            reason = f"needs the {backend} backend: export/runtime/README.md says what it is compiled against"
            if backend == "tensorrt":
                pytest.skip(reason)
            skip_without("runtime", reason)
        policies.append(library.open(bundles / f"{name}.bundle", variant, library=onnxruntime_library, **options))
        return policies[-1]

    yield open_variant
    for policy in policies:
        policy.__exit__()


def observations_like(spec, seed: int, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        o.name: rng.integers(0, 256, (steps, *o.shape), np.uint8)
        if o.dtype == "uint8"
        else rng.standard_normal((steps, *o.shape)).astype(o.dtype)
        for o in spec.observations
    }


def test_header_and_package_have_the_same_version(library):
    assert library.c.xfer_version().decode() == __version__
    assert f"set(PACKAGE_VERSION {__version__})" in (RUNTIME / "cmake" / "xferConfigVersion.cmake").read_text()


def test_ctest_passes(build, bundles):
    done = run("ctest", "--test-dir", build, "--output-on-failure")
    assert b"100% tests passed" in done.stdout
    assert b"Skipped" not in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_spec_and_golden_are_the_same_in_c(name, opened, bundles):
    bundle, policy = Bundle(bundles / f"{name}.bundle"), opened(name, "onnx-fp32")
    spec = bundle.spec
    assert policy.c.xfer_policy_task(policy.handle).decode() == spec.task
    assert policy.c.xfer_policy_control_hz(policy.handle) == spec.control_hz
    assert policy.c.xfer_policy_score_kind(policy.handle).decode() == spec.score_kind
    for mine, theirs in zip(
        (*policy.observations, *policy.states, policy.action, policy.scores),
        (*spec.inputs, spec.action.tensor, spec.scores),
        strict=True,
    ):
        assert (mine.name, mine.dtype, mine.shape) == (theirs.name, np.dtype(theirs.dtype), theirs.shape)
        assert (mine.color_order, mine.unit) == (theirs.color_order, theirs.unit)
    assert policy.action.elements == spec.action.elements
    assert (policy.action.low, policy.action.high) == (spec.action.low, spec.action.high)
    wanted, found = bundle.golden(), policy.golden()
    for key, array in {**wanted.observations, "resets": wanted.resets}.items():
        np.testing.assert_array_equal(found[key], array)
    np.testing.assert_array_equal(found["actions"], wanted.actions)
    np.testing.assert_array_equal(found["scores"], wanted.scores)


def play(runner, trajectories: Trajectories, batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a runner does, row i being i steps behind; each row is reset where its episode begins."""
    results = []
    for t in range(len(trajectories)):
        now = np.array([(t + row) % len(trajectories) for row in range(batch)])
        runner.reset(trajectories.resets[now])
        results.append(runner.act({name: array[now] for name, array in trajectories.observations.items()}))
    return [(np.array(action), np.array(scores)) for action, scores in results]


def close(mine: np.ndarray, theirs: np.ndarray, variant: str) -> None:
    """Equal bit by bit, but for torchscript, whose fusions may round otherwise."""
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    if variant.startswith("torchscript"):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    else:
        assert mine.tobytes() == theirs.tobytes()


def largest_batch(bundle: Bundle, variant: str) -> float:
    return bundle.build(variant).max_batch or float("inf")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("name", "variant"), BIT_EQUAL + CLOSE)
def test_actions_and_scores_equal_pythons(name, variant, batch, opened, bundles):
    """Over golden, and over 1,000 rows with resets at random moments."""
    bundle, policy = Bundle(bundles / f"{name}.bundle"), opened(name, variant)
    if batch > largest_batch(bundle, variant):
        with pytest.raises(CError, match=f"usage: .*batch of {batch}"):
            policy.runner(batch)
        return
    steps = 1000 // batch + 1
    resets = np.random.default_rng(8).random(steps) < 0.05
    index = np.arange(steps) % 40
    long = {key: array[index] for key, array in observations_like(bundle.spec, 7, 40).items()}
    with bundle.runner(variant, batch=batch) as python:
        for trajectories in (bundle.golden(), Trajectories(long, resets)):
            runner = policy.runner(batch)
            python.reset()
            mine, theirs = play(runner, trajectories, batch), play(python, trajectories, batch)
            runner.close()
            for (action, scores), (python_action, python_scores) in zip(mine, theirs, strict=True):
                close(action, python_action, variant)
                close(scores, python_scores, variant)
    assert len({scores.tobytes() for _, scores in mine}) >= 40  # not the same thing a thousand times


@pytest.mark.parametrize(("name", "variant"), BIT_EQUAL + CLOSE)
def test_a_stateless_step_equals_pythons(name, variant, opened, bundles):
    bundle, policy = Bundle(bundles / f"{name}.bundle"), opened(name, variant)
    rng = np.random.default_rng(3)
    with bundle.session(variant) as session:
        for batch in [batch for batch in (2, 1, 5, 2) if batch <= largest_batch(bundle, variant)]:
            observations = observations_like(bundle.spec, batch, batch)
            states = {s.name: rng.random((batch, *s.shape), np.float32) for s in bundle.spec.states}
            wanted = session.step(observations, states)
            action, scores, nexts = policy.step(batch, observations, states)
            close(action, wanted.action, variant)
            close(scores, wanted.scores, variant)
            for state, array in nexts.items():
                close(array, wanted.states[state], variant)


def test_what_runs_it_is_named(opened):
    import onnxruntime

    assert opened("two", "onnx-fp32").runs_with() == f"onnxruntime {onnxruntime.__version__}"


def test_a_library_or_a_provider_that_is_missing_is_said_at_once(library, bundles, onnxruntime_library):
    path = bundles / "two.bundle"
    with pytest.raises(CError, match=r"unavailable.*cannot be loaded.*XFER_ONNXRUNTIME_LIBRARY"):
        library.open(path, "onnx-fp32", library=Path("/nowhere/libonnxruntime.so"))
    with pytest.raises(CError, match=r"unavailable.*has no CUDAExecutionProvider"):
        library.open(path, "onnx-fp32@cuda", library=onnxruntime_library)
    with pytest.raises(CError, match=r"usage.*Unknown place 'moon'"):
        library.open(path, "onnx-fp32@moon", library=onnxruntime_library)
    with pytest.raises(CError, match=r"usage: Unknown variant 'onnx-int9'. Choose from: onnx-fp32, "):
        library.open(path, "onnx-int9")


def test_tensorrt_without_a_driver_says_one_thing(opened, bundles):
    if "tensorrt-fp32" not in Bundle(bundles / "cartpole.bundle").builds:
        pytest.skip("needs an engine to open: pip install 'xfer-policy[tensorrt-rtx]'")
    if ctypes.util.find_library("cuda"):
        pytest.skip("needs a machine without an NVIDIA driver; with one, test_tensorrt_acts_as_eager_did runs")
    with pytest.raises(CError, match=r"^unavailable: .*TensorRT needs an NVIDIA GPU with its driver"):
        opened("cartpole", "tensorrt-fp32")


@pytest.mark.gpu
def test_tensorrt_acts_as_eager_did(build, bundles):
    """Needs an NVIDIA GPU with its driver, CUDA's runtime, and the TensorRT that built the engine, all on the loader's
    path; and a build with TENSORRT_INCLUDE_DIR and CUDA_INCLUDE_DIR."""
    if (reason := targets.load("tensorrt").runnable("")) is not None:
        pytest.skip(reason)
    if not (build / "xfer_tensorrt.so").exists():
        pytest.skip("the tensorrt backend was not built: set TENSORRT_INCLUDE_DIR and CUDA_INCLUDE_DIR")
    said = run(build / "xfer-verify", bundles / "cartpole.bundle", "--variant", "tensorrt-fp32").stdout
    assert b": passes" in said


def test_xfer_run_acts_on_raw_frames_from_a_pipe(build, bundles, onnxruntime_library):
    bundle = Bundle(bundles / "two.bundle")
    golden = bundle.golden()
    frames = b"".join(b"".join(o[key].tobytes() for key in ("image", "joints")) for _, o in golden.steps())
    command = [build / "xfer-run", bundle.path, "--variant", "onnx-fp32", "--library", onnxruntime_library]
    with bundle.runner("onnx-fp32") as runner:
        wanted = golden.replay(runner)
    written = run(*command, "--scores", "--binary", input=frames).stdout
    row = np.dtype([("action", np.int64), ("scores", np.float32, 3)])
    found = np.frombuffer(written, row)
    np.testing.assert_array_equal(found["action"], wanted.actions)
    np.testing.assert_array_equal(found["scores"], wanted.scores)
    text = run(*command, input=frames).stdout.split()
    assert [int(word) for word in text] == wanted.actions.tolist()
    cut = subprocess.run([str(word) for word in command], input=frames[:-1], capture_output=True, check=False)
    assert cut.returncode == 1
    assert cut.stderr == b"xfer-run: The input ends in the middle of a step.\n"


def test_an_onnx_policy_with_one_thread_is_one_thread_and_leaves_nothing_behind(
    build, bundles, onnxruntime_library, tmp_path
):
    """ONNX Runtime's own builds would start threads that send usage to its makers, and keep a database of it."""
    bundle = Bundle(bundles / "recurrent.bundle")
    command = [build / "xfer-run", bundle.path, "--variant", "onnx-fp32", "--library", onnxruntime_library]
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        process.stdin.write(bytes(bundle.spec.observations[0].zeros(1).nbytes))
        process.stdin.flush()
        assert process.stdout.readline().strip()
        assert len([*Path(f"/proc/{process.pid}/task").iterdir()]) == 1
        process.stdin.close()
    assert [*tmp_path.iterdir()] == []


def test_xfer_verify_rejects_a_policy_that_is_another(build, bundles, onnxruntime_library, tmp_path):
    """The graph of one bundle under the spec and golden of another: the files are whole, the numbers are not."""
    from export.bundle.manifest import Build, Provenance
    from export.bundle.writer import BundleWriter, References

    bundle = Bundle(bundles / "recurrent.bundle")
    golden = bundle.golden()
    assert set(golden.starts) == {"memory", "mean"}
    command = [str(build / "xfer-verify"), "--variant", "onnx-fp32", "--library", str(onnxruntime_library)]
    assert b": passes" in run(*command, bundle.path).stdout

    def said_of(name: str, other: Trajectories) -> str:
        writer = BundleWriter(tmp_path / name)
        provenance = Provenance("", "1" * 64, "none", "none", "none", 0, 0, "0")
        writer.begin(bundle.spec, provenance, lambda: References(other), "eager-fp32")
        with writer.temporary_folder() as folder:
            shutil.copy(bundle.path / bundle.build("onnx-fp32").folder / "policy.onnx", folder)
            writer.add(Build("onnx-fp32", "built", key="0" * 12), folder)
        done = subprocess.run([*command, str(writer.path)], capture_output=True, check=False, text=True)
        assert done.returncode == 1
        return done.stdout

    off = replace(golden, scores=golden.scores + np.float32(0.1))
    assert "numbers: score differs by 0.1 at golden step" in said_of("other.bundle", off)
    # The stretch from late in an episode does not start from zeros.
    assert "at golden step 8," in said_of("reset.bundle", replace(golden, starts={}))


def test_a_graph_that_the_library_is_too_old_for_names_both_versions(library, bundles, onnxruntime_library, tmp_path):
    import onnx
    import onnxruntime

    from tests.export.verification.parity.test_parity import rehash

    path = Path(shutil.copytree(bundles / "two.bundle", tmp_path / "newer.bundle"))
    file = path / Bundle(path).build("onnx-fp32").folder / "policy.onnx"
    graph = onnx.load(file)
    graph.ir_version = 99
    onnx.save(graph, file)
    rehash(path)
    said = "it needs one that knows IR version 99; or export with a lower --opset"
    both = rf"cannot load the graph: this is {onnxruntime.__version__}, and {said}"
    with pytest.raises(CError, match=rf"unavailable: onnx-fp32: ONNX Runtime {both}"):
        library.open(path, "onnx-fp32", library=onnxruntime_library)
