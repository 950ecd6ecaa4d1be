"""A first spec.json: what a graph says of itself, and what is asked."""

import json
from pathlib import Path

import pytest

from export.importers import onnx as importer
from tests.export.importers.graphs import LINEAR, WALK, save
from xfer import cli
from xfer.errors import UsageError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def drafted(capsys, ports: str, body: str) -> tuple[dict, dict[str, str]]:
    """Return the file that is written, and the questions in it."""
    save(Path("policy.onnx"), ports, body)
    assert cli.main(["spec", "policy.onnx", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["spec"] == "spec.json"
    return json.loads(Path("spec.json").read_text()), {ask["field"]: ask["question"] for ask in said["asks"]}


def test_a_first_spec_asks_for_what_the_graph_does_not_say_and_is_refused_until_that_is_filled_in(capsys):
    first, asks = drafted(capsys, *WALK)
    assert first["observations"] == [{"name": "obs", "dtype": "float32", "shape": [4]}]
    assert first["graph"] == {"inputs": {}, "outputs": {"action": "actions"}}
    names = ["action.elements[0]", "action.elements[1]"]
    bounds = ["action.unit", "action.low", "action.high"]
    assert list(asks) == ["control_hz", "action.kind", *names, *bounds, "score_kind"]
    with pytest.raises(UsageError, match=r"spec.json still asks for control_hz, action.kind, action.elements\[0\]"):
        importer.load(Path("policy.onnx"), Path("spec.json"))
    first |= {"control_hz": 50, "score_kind": "mean"}
    first["action"] |= {"kind": "continuous", "elements": ["hip", "knee"], "unit": "rad", "low": [], "high": []}
    Path("spec.json").write_text(json.dumps(first))
    assert importer.load(Path("policy.onnx"), Path("spec.json")).spec.action.elements == ("hip", "knee")


def test_a_file_that_is_there_is_not_written_over(capsys):
    drafted(capsys, *WALK)
    Path("spec.json").write_text("mine")
    assert cli.main(["spec", "policy.onnx"]) == 2
    assert "spec.json exists. Name another file with --output, or delete it." in capsys.readouterr().err
    assert Path("spec.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [("h_in", "h_out", "h"), ("memory", "next_memory", "memory"), ("state_in_0", "state_out_0", "state_0")],
)
def test_states_are_found_by_their_names(capsys, before, after, name):
    """As rsl_rl, others and RLlib call them; the batch is the second dimension."""
    ports = f"float[N,4] obs, float[1,N,2] {before}) => (float[N,2] actions, float[1,N,2] {after}"
    first, _ = drafted(capsys, ports, f"{LINEAR} {{ a = MatMul(obs, w) {after} = Add(a, {before}) actions = Neg(a) }}")
    assert first["states"] == [{"name": name, "dtype": "float32", "shape": [1, 2]}]
    assert [one["name"] for one in first["observations"]] == ["obs"]
    assert first["graph"]["outputs"] == {f"{name}_out": after, "action": "actions"}
    assert first["graph"]["inputs"] == ({} if before == name else {name: before})


def test_an_output_that_may_be_the_next_value_of_an_input_is_asked_about(capsys):
    ports = "float[N,4] obs, float[N,2] x) => (float[N,2] actions, float[N,2] y"
    _, asks = drafted(capsys, ports, f"{LINEAR} {{ a = MatMul(obs, w) y = Add(a, x) actions = Neg(y) }}")
    assert "is the output y the next value of the input x? Then it is a state" in asks["states[0]"]


def test_a_discrete_action_is_seen_by_its_type_and_scores_by_their_name(capsys):
    first, asks = drafted(capsys, "float[N,4] obs) => (float[N,2] logits", f"{LINEAR} {{ logits = MatMul(obs, w) }}")
    assert (first["action"]["kind"], first["score_kind"]) == ("discrete", "logits")
    assert first["graph"]["outputs"] == {"scores": "logits"}
    assert list(asks) == ["control_hz", "action.elements[0]", "action.elements[1]"]


def test_ml_agents_deterministic_actions_are_taken_before_those_that_are_drawn(capsys):
    ports = "float[N,4] obs_0) => (float[1] version, float[N,2] continuous_actions"
    ports += ", float[N,2] deterministic_continuous_actions"
    body = (
        "{ version = Constant<value = float[1] {3.0}>() deterministic_continuous_actions = MatMul(obs_0, w)"
        " continuous_actions = RandomNormalLike(deterministic_continuous_actions) }"
    )
    first, _ = drafted(capsys, ports, f"{LINEAR} {body}")
    assert first["graph"]["outputs"] == {"action": "deterministic_continuous_actions"}


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        (
            "float[N,T,4] obs) => (float[N,2] actions",
            "obs: float32 [N, T, 4] has 2 free dimensions; only the batch may be",
        ),
        ("float[64,4] obs) => (float[64,2] actions", "obs: float32 [64, 4] has a fixed batch of 64. Export it with"),
        ("string[N,4] obs) => (float[N,2] actions", "obs: string [N, 4] is of a type that no observation has"),
    ],
)
def test_what_no_policy_can_be_made_of_is_refused_at_once(capsys, ports, said):
    save(Path("policy.onnx"), ports, WALK[1] if "string" not in ports else "{ actions = Cast<to = 1>(obs) }")
    assert cli.main(["spec", "policy.onnx"]) == 2
    assert f"xfer: policy.onnx: the graph's input {said}" in capsys.readouterr().err
    assert not Path("spec.json").exists()


def test_a_file_that_is_no_graph_is_refused(capsys):
    assert cli.main(["spec", "gone.onnx"]) == 1
    assert "gone.onnx is not there" in capsys.readouterr().err
