"""Policies that come as ONNX graphs: those of rsl_rl and Stable-Baselines3, and graphs of every make."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from export.build import DEFAULT_TARGETS
from export.build import export as export_bundle
from export.bundle.reader import Bundle
from export.importers import ImportOptions, _acting, _recordings
from export.importers import onnx as importer
from export.onnx_graph import GraphPolicy
from export.verification.verify import verify
from tests.export.importers.graphs import LINEAR, WALK, record, save, spec
from xfer import cli
from xfer.errors import FidelityError, ScoresError, UsageError, WeightsError, XferError
from xfer.runner import Runner
from xfer.spec import TensorSpec
from xfer.trajectories import Trajectories, load_trajectories

DATA = Path(__file__).parents[2] / "data" / "onnx"
"""What rsl_rl wrote; its make.py says how."""
JOINTS = {"kind": "continuous", "elements": ["hip", "knee", "ankle"], "unit": "rad"}
SEEN = [{"name": "obs", "dtype": "float32", "shape": [6]}]
LSTM = {
    "states": [{"name": name, "dtype": "float32", "shape": [2, 8]} for name in "hc"],
    "graph": {"inputs": {"h": "h_in", "c": "c_in"}, "outputs": {"action": "actions"}},
}
RSL_RL = {"mlp": {}, "lstm": LSTM, "lstm_any_batch": LSTM}


def rsl_rl(name: str, folder: Path, targets: str, **options) -> Bundle:
    """Export one of rsl_rl's policies, with rsl_rl's own actions recorded."""
    described = spec(folder / f"{name}.json", observations=SEEN, action=JOINTS, **RSL_RL[name])
    importing = ImportOptions(spec=described, observations=recorded_of(name))
    return export_bundle(
        DATA / f"{name}.onnx", targets, folder / f"{name}.bundle", importing=importing, **options
    ).bundle


def recorded_of(name: str) -> Path:
    return DATA / f"{name.partition('_')[0]}.safetensors"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("rsl_rl")
    targets = {"mlp": DEFAULT_TARGETS, "lstm": "onnx-fp32,eager,torchscript", "lstm_any_batch": "onnx,openvino-fp32"}
    return {name: rsl_rl(name, folder, targets[name]) for name in RSL_RL}


@pytest.mark.parametrize(
    ("name", "variant"),
    [("mlp", "onnx-fp32"), ("lstm", "onnx-fp32"), ("lstm_any_batch", "onnx-fp32"), ("lstm_any_batch", "openvino-fp32")],
)
def test_what_rsl_rl_exports_acts_as_rsl_rl_does(bundles, name, variant):
    recorded = load_trajectories(recorded_of(name))
    with bundles[name].runner(variant) as runner:
        found = recorded.replay(runner)
    assert np.abs(found.actions - recorded.actions).max() < 1e-5
    assert np.array_equal(found.scores, found.actions)
    assert bundles[name].reference == "onnx-fp32"
    assert bundles[name].manifest.provenance.parameters > 100


def test_states_whose_batch_is_not_first_are_those_of_each_row(bundles):
    recorded = load_trajectories(recorded_of("lstm"))
    starts = np.array([0, 40, 96])
    with bundles["lstm_any_batch"].runner("onnx-fp32", batch=3) as runner:
        for step in range(24):
            now = starts + step
            runner.reset(recorded.resets[now] if step else None)
            action = runner.act({"obs": recorded.observations["obs"][now]}).action
            for row, t in enumerate(now):
                if not (row == 1 and t < 64):  # which begins in the middle of an episode
                    assert np.abs(action[row] - recorded.actions[t]).max() < 1e-5


def test_a_manifest_says_what_a_short_spec_left_out(bundles):
    """As C++ wants it."""
    whole = msgspec.to_builtins(replace(TensorSpec("obs", "float32", (6,))))
    assert msgspec.to_builtins(bundles["lstm"].spec.observations[0]) == whole
    plain = json.loads((bundles["lstm"].path / "manifest.json").read_text())["spec"]
    assert [*plain["observations"][0]] == [*plain["states"][1]] == [*whole]
    assert {"kind", "elements", "unit", "low", "high"} <= {*plain["action"]}


def test_a_graph_of_a_fixed_batch_is_run_in_a_batch_of_1_alone(bundles):
    assert {bundles[name].builds["onnx-fp32"].max_batch for name in ("mlp", "lstm")} == {1}
    assert {build.max_batch for build in bundles["mlp"].builds.values() if build.status == "built"} == {1}
    assert bundles["lstm_any_batch"].builds["onnx-fp32"].max_batch is None
    with pytest.raises(UsageError, match=r"A batch of 3 does not fit: onnx-fp32 takes 1\."):  # noqa: SIM117
        with bundles["lstm"].runner("onnx-fp32", batch=3):
            pass


def test_what_needs_a_pytorch_module_is_unavailable_and_not_tried_by_default(bundles):
    builds = bundles["lstm"].builds
    assert [builds[name].status for name in ("eager-fp32", "torchscript-fp32")] == ["unavailable"] * 2
    assert builds["eager-fp32"].reason == "it is made of a PyTorch module, and this policy is an ONNX graph"
    assert not {"eager-fp32", "torchscript-fp32"} & {*bundles["mlp"].builds}


def test_the_dense_layers_of_a_graph_are_put_into_int8_but_for_the_last(bundles):
    bundle, recorded = bundles["mlp"], load_trajectories(recorded_of("mlp"))
    with bundle.runner("onnx-int8") as runner:
        apart = np.abs(recorded.replay(runner).actions - recorded.actions).max(axis=0)
    assert (apart > 0).all()
    assert (apart < 0.05).all()
    graph = onnx.load(bundle.check(bundle.build("onnx-int8")) / "policy.onnx").graph
    whole = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2}
    assert len(whole) == 1, "of two layers, one"


def test_a_graph_in_fp16_acts_nearly_the_same(bundles):
    recorded = load_trajectories(recorded_of("lstm"))
    with bundles["lstm_any_batch"].runner("onnx-fp16") as runner:
        apart = np.abs(recorded.replay(runner).actions - recorded.actions).max()
    assert 0 < apart < 0.01


def test_rsl_rls_actions_of_another_policy_are_found_out(tmp_path):
    recorded = load_trajectories(recorded_of("mlp"))
    other = tmp_path / "other.safetensors"
    actions = recorded.actions.copy()
    actions[70, 1] += 0.2
    Trajectories(recorded.observations, recorded.resets, actions).save(other)
    described = spec(tmp_path / "spec.json", observations=SEEN, action=JOINTS)
    with pytest.raises(FidelityError, match="recorded actions are not the module's at step 6 of episode 1 of the held"):
        export_bundle(
            DATA / "mlp.onnx", "onnx-fp32", tmp_path / "b", importing=ImportOptions(spec=described, observations=other)
        )


# Stable-Baselines3, by the recipe of its documentation (https://stable-baselines3.readthedocs.io, "Exporting models").


def by_the_recipe(model, path: Path) -> None:
    import torch

    class OnnxableSB3Policy(torch.nn.Module):
        def __init__(self, policy):
            super().__init__()
            self.policy = policy

        def forward(self, observation):
            return self.policy(observation, deterministic=True)

    dummy = torch.randn(1, *model.observation_space.shape)
    torch.onnx.export(
        OnnxableSB3Policy(model.policy), dummy, path, opset_version=17, input_names=["input"], dynamo=False
    )


@pytest.mark.filterwarnings("ignore")  # of the older exporter
@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ("CartPole-v1", {"kind": "discrete", "elements": ["left", "right"]}),
        ("Pendulum-v1", {"kind": "continuous", "elements": ["torque"], "unit": "", "low": [-2], "high": [2]}),
    ],
)
def test_what_stable_baselines3_exports_acts_as_its_predict(environment, kind, tmp_path, monkeypatch):
    import stable_baselines3

    monkeypatch.chdir(tmp_path)
    model = stable_baselines3.PPO("MlpPolicy", environment, n_steps=64, batch_size=64, n_epochs=4, seed=1)
    model.learn(256)
    by_the_recipe(model, Path("model.onnx"))
    assert cli.main(["spec", "model.onnx"]) == 0
    plain = json.loads(Path("spec.json").read_text())
    inputs, outputs = importer.Given(Path("model.onnx")).inputs, importer.Given(Path("model.onnx")).outputs
    assert [port.name for port in inputs] == ["input"]
    plain |= {"control_hz": 50, "action": kind, "score_kind": "values" if kind["kind"] == "discrete" else "mean"}
    plain["states"] = []
    plain["graph"]["outputs"] = {"action": outputs[0].name}
    Path("spec.json").write_text(json.dumps(plain))
    env = model.get_env()
    seen, resets, wanted, now = [], [], [], env.reset()
    begins = np.ones(1, bool)
    for _ in range(80):
        action = model.predict(now, deterministic=True)[0]
        seen, resets, wanted = [*seen, now[0]], [*resets, begins[0]], [*wanted, action[0]]
        now, _, begins, _ = env.step(action)
    recorded = Trajectories({"input": np.array(seen, np.float32)}, np.array(resets), np.array(wanted))
    recorded.save(Path("met.safetensors"))
    words = ["export", "model.onnx", "--spec", "spec.json", "--observations", "met.safetensors"]
    assert cli.main([*words, "--targets", "onnx-fp32,openvino-fp32"]) == 0
    for variant in ("onnx-fp32", "openvino-fp32"):
        with Bundle("model.bundle").runner(variant) as runner:
            assert np.abs(recorded.replay(runner).actions - recorded.actions).max() < 1e-5
    assert cli.main(["verify", "model.bundle", "--pairs", "0"]) == 0


# Graphs of every make.


def brought_in(folder: Path, ports: str, body: str, *version, **changes) -> GraphPolicy:
    return importer.load(save(folder / "policy.onnx", ports, body, *version), spec(folder / "spec.json", **changes))


def act(policy, *, batch: int = 3, **observations) -> np.ndarray:
    runner = Runner(_acting.session(policy), policy.spec, batch)
    given = Runner(policy.original, policy.spec, batch).act(observations)
    found = runner.act(observations)
    assert np.allclose(found.action, given.action, atol=1e-6)
    assert np.allclose(found.scores, given.scores, atol=1e-6)
    return found.action


ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 4
WANTED = ROWS @ np.array([[1, -1], [0.5, 0], [0, 0.5], [-1, 1]], np.float32)


PLAIN = "float[N,4] obs) => (float[N,2] actions"
LAYOUTS = {
    "plain": (*WALK, 17, 8),
    "old": (*WALK, 9, 4),
    "new": (*WALK, 21, 10),
    "float64": (
        "double[N,4] obs) => (double[N,2] actions",
        f"{LINEAR} {{ d = Cast<to = 11>(w) actions = MatMul(obs, d) }}",
    ),
    "float16": (
        "float16[N,4] obs) => (float16[N,2] actions",
        f"{LINEAR} {{ h = Cast<to = 10>(w) actions = MatMul(obs, h) }}",
    ),
    "the batch last": (
        "float[4,N] obs) => (float[2,N] actions",
        f"{LINEAR} {{ t = Transpose<perm = [1, 0]>(w) actions = MatMul(t, obs) }}",
    ),
    "one more dimension": (
        "float[N,4] obs) => (float[N,1,2] actions",
        f"{LINEAR} {{ a = MatMul(obs, w) s = Constant<value = int64[1] {{1}}>() actions = Unsqueeze(a, s) }}",
    ),
    "no shapes": ("float[] obs) => (float[] actions", WALK[1]),
    "a function of its own": (
        PLAIN,
        f"{LINEAR} {{ actions = own.f(obs, w) }} "
        '<domain: "own", opset_import: ["" : 17]> f (x, y) => (z) { z = MatMul(x, y) }',
        17,
        8,
        ', "own" : 1',
    ),
    "a branch": (
        PLAIN,
        f"{LINEAR} {{ t = Constant<value = bool {{1}}>() actions = If (t) <then_branch = a () => (float[N,2] p)"
        " { p = MatMul(obs, w) }, else_branch = b () => (float[N,2] q) { q = MatMul(w, obs) }> }",
    ),
    "inner values with the contract's names": (
        "float[N,4] given) => (float[N,2] actions",
        f"{LINEAR} {{ obs = Identity(given) action = MatMul(obs, w) scores = Identity(action) actions = Neg(scores) }}",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_types_layouts_and_versions_of_a_graph_become_the_specs(name, tmp_path):
    policy = brought_in(tmp_path, *LAYOUTS[name])
    assert policy.max_batch is None
    sign = -1 if name.startswith("inner") else 1
    assert np.allclose(act(policy, obs=ROWS), sign * WANTED, atol=2e-3)


@pytest.mark.parametrize(
    ("ports", "body"),
    [
        ("float[4] obs) => (float[2] actions", f"{LINEAR} {{ actions = MatMul(obs, w) }}"),
        ("float[1,4] obs) => (float[1,2] actions", f"{LINEAR} {{ actions = MatMul(obs, w) }}"),
        # The batch is free by its word alone: a shape inside says 1.
        (
            PLAIN,
            f"{LINEAR} {{ a = MatMul(obs, w) s = Constant<value = int64[2] {{1, 2}}>() actions = Reshape(a, s) }}",
        ),
    ],
    ids=["no batch", "a batch of 1", "a batch that only seems free"],
)
def test_a_graph_that_takes_one_row_alone_says_so(ports, body, tmp_path):
    policy = brought_in(tmp_path, ports, body)
    assert policy.max_batch == 1
    assert np.allclose(act(policy, batch=1, obs=ROWS[:1]), WANTED[:1])


def test_numbers_of_other_types_are_cast_where_each_value_stays_what_it_is(tmp_path):
    seen = [
        {"name": "frame", "dtype": "uint8", "shape": [2]},
        {"name": "count", "dtype": "int64", "shape": [1]},
        {"name": "touch", "dtype": "uint8", "shape": [1]},
    ]
    ports = "float[N,2] frame, int32[N,1] count, bool[N,1] touch) => (float[N,2] actions"
    body = "{ c = Cast<to = 1>(count) t = Cast<to = 1>(touch) a = Add(frame, c) actions = Mul(a, t) }"
    policy = brought_in(tmp_path, ports, body, observations=seen)
    frame, touch = np.array([[1, 255], [7, 8]], np.uint8), np.array([[1], [0]], np.uint8)
    found = act(policy, batch=2, frame=frame, count=np.array([[-3], [5]]), touch=touch)
    assert found.tolist() == [[-2, 252], [0, 0]]


def test_a_state_that_is_only_handed_on_and_one_in_fp16_come_back(tmp_path):
    ports = "float[N,4] obs, float[N,2] held, float16[2,N] sum_in) => "
    ports += "(float[N,2] actions, float[N,2] held, float16[2,N] sum_out"
    body = "a = MatMul(obs, w) c = Cast<to = 10>(a) t = Transpose<perm = [1, 0]>(c) sum_out = Add(t, sum_in)"
    states = [{"name": name, "dtype": "float32", "shape": [2]} for name in ("held", "sum")]
    names = {"inputs": {"sum": "sum_in"}, "outputs": {"action": "actions", "held_out": "held"}}
    body += " b = Cast<to = 1>(sum_out) u = Transpose<perm = [1, 0]>(b) actions = Add(u, held)"
    policy = brought_in(tmp_path, ports, f"{LINEAR} {{ {body} }}", states=states, graph=names)
    runner = Runner(_acting.session(policy), policy.spec, 3)
    runner.reset(states={"held": np.full((3, 2), 7, np.float32), "sum": np.zeros((3, 2), np.float32)})
    assert np.allclose(runner.act({"obs": ROWS}).action, WANTED + 7, atol=2e-2)
    assert np.allclose(runner.act({"obs": ROWS}).action, 2 * WANTED + 7, atol=2e-2)


def test_constants_that_an_old_graph_lists_as_inputs_are_none(tmp_path):
    path = save(tmp_path / "policy.onnx", *WALK, opset=9, ir=4)
    model = onnx.load(path)
    model.ir_version = 3
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [4, 2]))
    onnx.save(model, path)
    policy = importer.load(path, spec(tmp_path / "spec.json"))
    assert np.allclose(act(policy, obs=ROWS), WANTED)


DISCRETE = {"kind": "discrete", "elements": ["left", "right"]}


@pytest.mark.parametrize(
    ("ports", "body", "outputs"),
    [
        ("float[N,4] obs) => (float[N,2] logits", f"{LINEAR} {{ logits = MatMul(obs, w) }}", {"scores": "logits"}),
        (
            "float[N,4] obs) => (int32[N,1] actions",
            f"{LINEAR} {{ a = MatMul(obs, w) b = ArgMax<axis = 1>(a) actions = Cast<to = 6>(b) }}",
            {"action": "actions"},
        ),
    ],
    ids=["scores alone", "an action alone"],
)
@pytest.mark.parametrize("opset", [9, 17])
def test_a_discrete_action_is_the_best_score_and_without_scores_it_is_the_score(ports, body, outputs, opset, tmp_path):
    policy = brought_in(tmp_path, ports, body, opset, action=DISCRETE, score_kind="values", graph={"outputs": outputs})
    assert act(policy, obs=ROWS).tolist() == WANTED.argmax(axis=1).tolist()


def test_a_continuous_action_is_clipped_to_its_bounds_and_its_score_is_not(tmp_path):
    bounds = {"kind": "continuous", "elements": ["hip", "knee"], "low": [-1, -0.5], "high": [0.5, 1]}
    policy = brought_in(tmp_path, *WALK, action=bounds)
    assert np.allclose(act(policy, obs=ROWS), np.clip(WANTED, [-1, -0.5], [0.5, 1]))


def test_what_the_action_does_not_need_is_left_out(tmp_path):
    """ML-Agents gives drawn actions too, and takes a mask that continuous ones do not use."""
    ports = "float[N,4] obs, float[N,2] mask) => (float[N,2] drawn, float[N,2] actions"
    body = "actions = MatMul(obs, w) noise = RandomNormalLike(actions) a = Add(actions, noise) drawn = Mul(a, mask)"
    body = f"{LINEAR} {{ {body} }}"
    policy = brought_in(tmp_path, ports, body)
    assert np.allclose(act(policy, obs=ROWS), WANTED)
    with pytest.raises(
        UsageError, match=r"policy.onnx: node '.*' \(RandomNormalLike\) draws random numbers\. Export the mean"
    ):
        brought_in(tmp_path, ports, body, graph={"outputs": {"action": "drawn"}})


OTHER_SHAPE = [{"name": "obs", "dtype": "float32", "shape": [5]}]
OTHER_TYPE = [{"name": "obs", "dtype": "int64", "shape": [4]}]
TWO = [{"name": "obs", "dtype": "float32", "shape": [4]}, {"name": "goal", "dtype": "float32", "shape": [4]}]
MISFITS = {
    "a question left": (*WALK, {"control_hz": "? the rate"}, "still asks for control_hz: the rate"),
    "a misspelt field": (*WALK, {"score_kinds": "mean"}, "there is no field `score_kinds`"),
    "a misspelt field inside": (*WALK, {"graph": {"output": {}}}, "there is no field `graph.output`"),
    "a missing field": (*WALK, {"control_hz": None}, "missing required field `control_hz`"),
    "a value that means nothing": (*WALK, {"control_hz": -1}, "control_hz -1 must be a positive rate"),
    "bounds that cross": (
        *WALK,
        {"action": {"kind": "continuous", "elements": ["hip", "knee"], "low": [1, 1], "high": [0, 0]}},
        "element 'hip' has low 1 and high 0",
    ),
    "a name of no tensor": (*WALK, {"graph": {"inputs": {"ob": "obs"}}}, "`graph.inputs.ob` names no tensor"),
    "an output that is not there": (
        *WALK,
        {"graph": {"outputs": {"action": "torque"}}},
        r"has no output 'torque' for 'action'; it has actions: float32 \[N, 2\]",
    ),
    "no action": (
        "float[N,4] obs) => (float[N,2] a, float[N,2] b",
        f"{LINEAR} {{ a = MatMul(obs, w) b = Neg(a) }}",
        {"graph": {}},
        "which output of the graph is the action",
    ),
    "an input that is not there": (*WALK, {"observations": TWO}, "has no input 'goal' for 'goal'; it has obs: float32"),
    "an input that the spec lacks": (
        "float[N,4] obs, float[N,4] goal) => (float[N,2] actions",
        f"{LINEAR} {{ a = Add(obs, goal) actions = MatMul(a, w) }}",
        {},
        r"needs its input goal: float32 \[N, 4\], and the spec names none of that",
    ),
    "one input twice": (
        *WALK,
        {"observations": TWO, "graph": {"inputs": {"goal": "obs"}, "outputs": {"action": "actions"}}},
        "graph.inputs names 'obs' twice",
    ),
    "another shape": (*WALK, {"observations": OTHER_SHAPE}, r"'obs' \(float32 \[5\] a row\) does not fit .* \[N, 4\]"),
    "another type": (*WALK, {"observations": OTHER_TYPE}, "the types do not fit; write float32"),
    "another action": (
        *WALK,
        {"action": {**DISCRETE, "kind": "continuous", "elements": ["a"]}},
        "'action' .* does not fit",
    ),
    "scores that are the wrong ones": (
        *WALK,
        {
            "action": {**DISCRETE, "elements": ["a", "b", "c"]},
            "score_kind": "logits",
            "graph": {"outputs": {"scores": "actions"}},
        },
        "'scores' .* does not fit",
    ),
    "a fixed batch": (
        "float[16,4] obs) => (float[16,2] actions",
        WALK[1],
        {},
        r"obs: float32 \[16, 4\] has a fixed batch of 16\. Export it with a batch of 1, or a free one",
    ),
    "a free length": (
        "float[N,T,4] obs) => (float[N,T,2] actions",
        WALK[1],
        {"observations": [{"name": "obs", "dtype": "float32", "shape": [1, 4]}]},
        r"obs: float32 \[N, T, 4\], with 2 free dimensions; only the batch may be free",
    ),
    "a state that does not come back": (
        *WALK,
        {"states": [{"name": "h", "dtype": "float32", "shape": [2]}]},
        "has no output 'h_out' for 'h_out'",
    ),
    "text": (
        "string[N,4] obs) => (string[N,4] actions",
        "{ actions = Identity(obs) }",
        {},
        r"obs: string \[N, 4\]: the types do not fit; the graph must take float16",
    ),
    "an opset before the flood": (*WALK, {}, "is of opset 8; 9 is the oldest that fits", 8),
    "an opset after this library's": (*WALK, {}, r"needs one that knows (IR version|Opset|opset)|is not a valid", 99),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_spec_and_a_graph_that_do_not_fit_are_refused_in_one_line(name, tmp_path):
    ports, body, changes, said, *opset = MISFITS[name]
    with pytest.raises(XferError, match=said) as refused:
        brought_in(tmp_path, ports, body, *opset, **changes)
    assert "\n" not in str(refused.value)
    assert re.search(r"(spec\.json|policy\.onnx)", str(refused.value))


def test_an_operator_of_somebodys_own_is_named(tmp_path):
    path = save(tmp_path / "policy.onnx", PLAIN, "{ actions = acme.robots.Walk(obs) }", domains=', "acme.robots" : 1')
    with pytest.raises(UsageError, match=r"operator of its own, acme.robots::Walk, which ONNX Runtime has not"):
        importer.load(path, spec(tmp_path / "spec.json"))


def test_files_that_are_no_graph_or_lack_their_weights_are_refused(tmp_path):
    path, described = tmp_path / "policy.onnx", spec(tmp_path / "spec.json", observations=SEEN, action=JOINTS)
    for content in (b"", b"not an ONNX file", b"\x00\x01\x02" * 50):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"policy\.onnx (cannot be read as ONNX|holds no ONNX graph)"):
            importer.load(path, described)
    shutil.copy(DATA / "mlp.onnx", path)
    with pytest.raises(
        WeightsError, match=r"cannot be read as ONNX, with the files of weights that it names .*mlp\.onnx\.data"
    ):
        importer.load(path, described)
    shutil.copy(DATA / "mlp.onnx.data", tmp_path)
    importer.load(path, described)


def test_a_graph_without_a_spec_is_told_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(Path("policy.onnx"), *WALK)
    assert cli.main(["export", "policy.onnx"]) == 2
    assert "xfer spec policy.onnx writes a first spec.json: fill it in" in capsys.readouterr().err
    spec(Path("spec.json"))
    for words, said in (
        (["gone.onnx", "--spec", "spec.json"], "gone.onnx is no file"),
        (["policy.onnx", "--spec", "none.json"], "--spec none.json cannot be read: No such file or directory"),
        (
            ["policy.onnx", "--spec", "spec.json"],
            "Give observations recorded while the policy acted: --observations FILE",
        ),
        (["policy.onnx", "--spec", "spec.json", "--from", "sb3"], "--from does not fit an ONNX graph"),
        (["policy.onnx", "--spec", "spec.json", "--frame-stack", "4"], "--frame-stack needs --from sb3"),
    ):
        assert cli.main(["export", *words]) == 2
        assert said in capsys.readouterr().err


def test_a_graph_acts_in_a_task_and_its_variants_are_judged_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_recordings, "RECORDED", {"calibration": (0, 64, 32), "held-out": (1000, 64, 32)})
    monkeypatch.setattr(_recordings, "SCALE_EPISODES", 2)
    save(Path("cart.onnx"), "float[N,4] x) => (float[N,2] logits", f"{LINEAR} {{ logits = MatMul(x, w) }}")
    seen = [{"name": "observation", "dtype": "float32", "shape": [4]}]
    names = {"inputs": {"observation": "x"}, "outputs": {"scores": "logits"}}
    action = {"kind": "discrete", "elements": ["0", "1"]}
    spec(Path("spec.json"), observations=seen, action=action, score_kind="logits", graph=names)
    words = ["export", "cart.onnx", "--spec", "spec.json", "--task", "env:CartPole-v1"]
    assert cli.main([*words, "--targets", "onnx-fp32,openvino-fp32"]) == 0
    found = verify("cart.bundle", pairs=2, workers=1)
    assert found["onnx-fp32"].reason.endswith("the reference itself")
    assert {(one.rung, one.pairs) for one in found.values()} == {("reward", 2)}
    assert not {"rejected", "failed"} & {one.status for one in found.values()}


# The fidelity gate.


def exported(
    folder: Path, ports: str, body: str, targets: str = "onnx-fp32", seen: Path | None = None, **changes
) -> Bundle:
    path, described = save(folder / "policy.onnx", ports, body), spec(folder / "spec.json", **changes)
    importing = ImportOptions(spec=described, observations=seen or record(folder / "met.safetensors"))
    return export_bundle(path, targets, importing=importing).bundle


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "{ m = ReduceMean<axes = [0]>(obs) a = Add(obs, m) actions = MatMul(a, w) }",
            "depends on the other rows of its batch",
        ),
        (
            "{ r = Constant<value = float {0.5}>() t = Constant<value = bool {1}>()"
            " d = Dropout(obs, r, t) actions = MatMul(d, w) }",
            "gives two answers to one input",
        ),
    ],
    ids=["rows that mix", "dropout in training mode"],
)
def test_a_graph_that_is_more_than_its_inputs_is_refused(body, said, tmp_path):
    with pytest.raises(FidelityError, match=f"cannot be exported unchanged: it.*{said}, as at step"):
        exported(tmp_path, PLAIN, f"{LINEAR} {body}")


def test_a_score_that_is_not_finite_is_refused_where_it_happens(tmp_path):
    with pytest.raises(
        ScoresError, match=r"step .* of the calibration observations: The policy's scores are not finite"
    ):
        exported(tmp_path, PLAIN, f"{LINEAR} {{ a = MatMul(obs, w) actions = Log(a) }}")


def test_a_bundle_of_another_graph_is_another_policy(tmp_path):
    exported(tmp_path, *WALK)
    assert exported(tmp_path, *WALK).reference == "onnx-fp32"
    with pytest.raises(XferError, match="holds another policy"):
        exported(tmp_path, PLAIN, f"{LINEAR} {{ a = MatMul(obs, w) actions = Neg(a) }}")


def test_an_opset_cannot_be_chosen_for_a_graph_that_has_one(tmp_path):
    from export.targets import ExportOptions

    described, seen = spec(tmp_path / "spec.json"), record(tmp_path / "met.safetensors")
    path = save(tmp_path / "policy.onnx", *WALK)
    importing = ImportOptions(spec=described, observations=seen)
    ((build, _),) = export_bundle(path, "onnx-fp32", importing=importing, options=ExportOptions(opset=20)).builds
    assert (build.status, build.reason) == ("failed", "--opset 20 does not fit: the graph that was given keeps its own")
