"""Trials on a real robot: verdicts of each kind from a file, and what is said of a file that is wrong."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.commands import recommend
from export import verify
from export.bundle import records
from export.bundle.reader import Bundle
from export.formats import pack
from export.verification.trials import TrialReturns, judge_trials, losses, read_trials
from tests.benchmarks.commands.test_recommend import LATENCY
from tests.chance_task import REFERENCE, SAME, Sign, exchange, small_bundle
from xfer.cli import main
from xfer.errors import UsageError
from xfer.spec import RewardScale

SCALE = RewardScale(0.0, 40.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundles") / "robot.bundle", task="", reward=SCALE)


@pytest.fixture(scope="module")
def unscaled(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundles") / "unscaled.bundle", task="", reward=None)


@pytest.fixture
def bundle(exported, tmp_path):
    return Bundle(shutil.copytree(exported.path, tmp_path / "robot.bundle"))


def csv(path, reference, variant, column="return", name=SAME):
    rows = [f"{one},{i},{value}" for one, of in ((REFERENCE, reference), (name, variant)) for i, value in enumerate(of)]
    path.write_text("\n".join([f"variant,episode,{column}", *rows, ""]))
    return path


def noisy(n, mean=30.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 3.0, n).round(3).tolist()


@pytest.mark.parametrize(
    ("variant", "margin", "status"),
    [
        (noisy(60, 30.0, 1), 4.0, "verified"),
        (noisy(60, 30.0, 1), None, "provisional"),
        (noisy(60, 15.0, 1), 4.0, "rejected"),
        (noisy(5, 15.0, 1), 4.0, "provisional"),
    ],
)
def test_trials_give_verdicts_of_each_kind_in_their_own_unit(bundle, tmp_path, variant, margin, status):
    reference = noisy(60)
    trials = read_trials(csv(tmp_path / "trials.csv", reference, variant), bundle, margin)
    assert (trials.margin, trials.span) == (margin or 0.8, 40.0), "2 % of the scale by default"
    found = verify(bundle, trials=trials)[SAME]
    assert (found.status, found.rung, found.pairs) == (status, "trials", len(variant))
    n = len(variant)
    assert found.reward_delta == pytest.approx(np.mean(variant) - np.mean(reference[:n]))
    assert found.reward_interval[0] <= found.reward_delta <= found.reward_interval[1]
    assert found.returns == tuple((i, reference[i], variant[i]) for i in range(n))
    assert found.trials_margin == trials.margin
    if status == "verified":
        assert found.reward_interval[0] > -4.0
        assert (found.reason, found.pairs_needed) == ("", 0)
    elif status == "rejected":
        assert found.reward_interval[1] < -4.0
        assert re.match(r"trials: mean loss 1[45]\.\d over 60 pairs of trials, allowed 4$", found.reason)
    else:
        assert found.pairs_needed > 0
        assert f"{found.pairs_needed:,} more of each, like these, decide" in found.reason
        assert ("looks worse" in found.reason) == (n == 5)
    reference_row = records.load(bundle)[REFERENCE].verification
    assert (reference_row.status, reference_row.rung) == ("verified", "trials")
    assert records.load(bundle)[SAME].verification == found


def test_successes_are_shares_and_programs_write_them_as_true_and_false(unscaled, tmp_path):
    rows = [{"variant": name, "episode": i, "success": i % 10 > 0} for name in (REFERENCE, SAME) for i in range(80)]
    path = tmp_path / "trials.json"
    path.write_text(json.dumps(rows))
    trials = read_trials(path, unscaled, 0.1)
    assert (trials.span, trials.margin, trials.returns[SAME][:2]) == (1.0, 0.1, (0.0, 1.0))
    found = verify(unscaled, trials=trials, keep=False)[SAME]
    assert (found.status, found.reward_mean, found.reward_delta) == ("verified", 0.9, 0.0)
    written = csv(tmp_path / "trials.csv", ["True", 1, "0.0"], ["false", 0, "TRUE"], "success")
    assert read_trials(written, unscaled, 0.1).returns == {REFERENCE: (1.0, 1.0, 0.0), SAME: (0.0, 0.0, 1.0)}


def test_trials_are_taken_as_rewards_are_by_their_own_margin(unscaled, tmp_path):
    bundle = Bundle(shutil.copytree(unscaled.path, tmp_path / "robot.bundle"))
    verify(bundle, trials=read_trials(csv(tmp_path / "t.csv", [1] * 60, [1] * 60, "success"), bundle, 0.1))
    for name, p50_ms in ((REFERENCE, 2.0), (SAME, 1.0)):
        records.save(bundle, name, latency=replace(LATENCY, p50_ms=p50_ms))
    best = recommend.main(recommend.Args(bundle=bundle.path))
    assert best["variant"] == SAME
    assert "verified" in best["why"]
    assert recommend.main(recommend.Args(bundle=bundle.path, max_reward_drop=0.009))["variant"] == REFERENCE


def test_a_variant_that_fails_a_gate_before_is_rejected_whatever_its_trials_say(bundle, tmp_path):
    trials = read_trials(csv(tmp_path / "t.csv", [30] * 99, [40] * 99), bundle, 8.0)
    found = verify(exchange(bundle, Sign(-9.0)), trials=trials)[SAME]
    assert (found.status, found.rung) == ("rejected", "numbers")


def test_a_packed_bundle_without_the_reference_is_judged_by_the_references_trials(bundle, tmp_path):
    packed = Bundle(pack(bundle, SAME, tmp_path / "packed.bundle"))
    found = verify(packed, trials=read_trials(csv(tmp_path / "t.csv", [30] * 99, [30] * 99), packed, 4.0))
    assert {name: v.status for name, v in found.items()} == {SAME: "verified"}
    assert records.load(packed)[SAME].verification == found[SAME]


def test_the_command_runs_on_a_robot_without_torch_and_gymnasium(shared_bundle, tmp_path):
    packed = pack(Bundle(shared_bundle), "onnx-fp32", tmp_path / "packed.bundle")
    path = csv(tmp_path / "trials.csv", [400] * 99, [395] * 99, name="onnx-fp32")
    program = (
        "import sys; from xfer.cli import main; failed = main(sys.argv[1:])\n"
        "sys.exit(failed or len({'torch', 'gymnasium'} & set(sys.modules)))"
    )
    words = ["verify", packed, "--returns", path, "--margin", "50", "--return-range", "0", "500", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["variants"]
    assert (row["variant"], row["status"], row["rung"], row["trials_margin"]) == ("onnx-fp32", "verified", "trials", 50)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "t.csv holds no trials"),
        ("t.csv", "variant,episode,return\n", "t.csv holds no trials"),
        ("t.json", "", "t.json holds no trials"),
        ("t.json", "[]", "t.json holds no trials"),
        ("t.json", "{", "t.json is not JSON: "),
        ("t.json", '{"trials": []}', "t.json holds no list"),
        ("t.json", "[3]", "t.json, row 1 is no object"),
        ("t.json", '[{"variant": ["x"], "episode": 1, "return": 2}]', "row 1, column 'variant': .* no single value"),
        ("t.txt", "", "t.txt: trials come as a .csv or .json file"),
        ("t.csv", "variants,episode,return\nx,1,2\n", r"row 2: there is no column 'variant'.* are: variants, "),
        ("t.csv", "variant,return\nx,2\n", "row 2: there is no column 'episode'"),
        ("t.csv", "variant,episode\nx,2\n", r"row 2: there is no column 'return' \(or 'success'\)"),
        ("t.csv", "variant,episode,return,success\nx,1,2,1\n", "row 2 has both columns 'return' and 'success'"),
        ("t.csv", "variant,variant,episode,return\nx,x,1,2\n", "row 1: there are two columns 'variant'"),
        (
            "t.json",
            '[{"variant": "eager-fp32", "episode": 1, "return": 2}, {"variant": 1}]',
            "row 2, column 'episode' is",
        ),
        ("t.csv", "variant,episode,return\neager-fp32,1,2\nonx-fp32,1,2\n", "row 3, column 'variant': Unknown variant"),
        ("t.csv", "variant,episode,return\ntorchscript-fp23,1,2\n", "row 2.* Did you mean 'torchscript-fp32'"),
        ("t.csv", "variant,episode,return\ntorchscript-fp32@nowhere,1,2\n", "row 2, column 'variant': "),
        ("t.csv", "variant,episode,return\ntorchscript-fp32,1,2\n", "no trials of eager-fp32, which the others are"),
        ("t.csv", "variant,episode,return\neager-fp32,1,2\n", "trials of eager-fp32 alone"),
        ("t.csv", "variant,episode,return\neager-fp32,1,nan\n", "row 2, column 'return': nan is not a finite number"),
        ("t.csv", "variant,episode,return\neager-fp32,1,\n", "row 2, column 'return' is empty"),
        ("t.csv", "variant,episode,return\neager-fp32,1\n", "row 2, column 'return' is empty"),
        ("t.csv", "variant,episode,return\neager-fp32,1,2,3\n", "row 2 has more columns than the header"),
        ("t.csv", "variant,episode,return\n\neager-fp32,1,far\n", "row 3, column 'return': far is not a finite number"),
        ("t.json", '[{"variant": "eager-fp32", "episode": 1, "return": NaN}]', "row 1, column 'return': nan is not a"),
        (
            "t.json",
            '[{"variant": "eager-fp32", "episode": 1, "return": true}]',
            "row 1, column 'return': True is not a",
        ),
        ("t.csv", "variant,episode,success\neager-fp32,1,0.5\n", "row 2, column 'success': 0.5 is not 0 or 1"),
        ("t.csv", "variant,episode,success\neager-fp32,1,yes\n", "row 2, column 'success': yes is not"),
        (
            "t.csv",
            "variant,episode,return\neager-fp32,1,2\ntorchscript-fp32,1,2\neager-fp32,1,3\n",
            "row 4, column 'episode': eager-fp32 has episode 1 in row 2 already",
        ),
    ],
)
def test_a_malformed_file_is_one_line_that_names_file_row_and_column(bundle, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_trials(tmp_path / name, bundle, 0.1)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_one_line(bundle, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.csv cannot be read: No such file"):
        read_trials(tmp_path / "nowhere.csv", bundle)
    (tmp_path / "t.csv").write_bytes(b"variant,episode,return\n\xff\xfe\n")
    with pytest.raises(UsageError, match=r"t\.csv is not text in UTF-8"):
        read_trials(tmp_path / "t.csv", bundle)


def test_a_spreadsheets_marks_capitals_and_blanks_do_no_harm(bundle, tmp_path):
    rows = ["Variant, Episode , RETURN,notes", f'{REFERENCE}, 1 , 2 ,"fell\r\nagain"', "", f" {SAME} ,1,3,", ""]
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    assert read_trials(tmp_path / "t.csv", bundle).returns == {REFERENCE: (2.0,), SAME: (3.0,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_range": (0.0, 40.0)}, "no reward scale: say what mean loss is not worse"),
        ({"margin": 1.0}, r"no reward scale: say what returns there can be \(--return-range LOW HIGH\)"),
        ({"margin": 1.0, "return_range": (40.0, 0.0)}, "--return-range 40 0: use two numbers, the second"),
        ({"margin": 1.0, "return_range": (0.0, float("inf"))}, "use two numbers, the second the larger one"),
        ({"margin": 1.0, "return_range": (0.0, 29.0)}, "row 2, column 'return': 30 is outside of --return-range 0 29"),
        ({"margin": 40.0, "return_range": (0.0, 40.0)}, "--margin 40 proves nothing"),
        ({"margin": float("nan"), "return_range": (0.0, 40.0)}, "--margin nan proves nothing"),
        ({"margin": -1.0, "return_range": (0.0, 40.0)}, "--margin -1 proves nothing"),
    ],
)
def test_margin_and_range_are_asked_for_and_must_mean_something(unscaled, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        read_trials(csv(tmp_path / "t.csv", [30] * 3, [30] * 3), unscaled, **options)


def test_successes_need_a_margin_of_a_share_and_no_range(unscaled, exported, tmp_path):
    path = csv(tmp_path / "t.csv", [1] * 3, [1] * 3, "success")
    with pytest.raises(UsageError, match="Leave it out"):
        read_trials(path, unscaled, 0.1, (0.0, 1.0))
    with pytest.raises(UsageError, match="--margin 5 proves nothing: use one above 0 and below 1"):
        read_trials(path, unscaled, 5.0)
    with pytest.raises(UsageError, match="say what mean loss is not worse"):
        read_trials(path, unscaled)
    assert read_trials(path, exported).margin == 0.02


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--margin", "0.1"], "--margin is for trials"),
        (["--return-range", "0", "1"], "--return-range is for trials"),
        (["--returns", "t.csv", "--variants", SAME], "leave --variants out"),
        (["--returns", "t.csv", "--full"], "leave --full out"),
        (["--returns", "t.csv", "--inject-faults"], "leave --inject-faults out"),
    ],
)
def test_options_that_contradict_one_another_are_refused(bundle, capsys, words, message):
    assert main(["verify", str(bundle.path), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_ith_trials_are_a_pair_and_variants_are_judged_together():
    lost = losses([30.0, 20.0, 10.0], [29.0, 22.0], 10.0)
    np.testing.assert_allclose(lost, [0.1, -0.2])
    found = judge_trials({"a": np.zeros(200), "b": np.full(200, 0.5)}, 0.05)
    assert found["a"].status == "verified"
    assert found["b"].lower > 0.05
    assert TrialReturns({"a@cuda": (1.0,)}, 1.0, 0.1).returns["a@cuda"] == (1.0,)
