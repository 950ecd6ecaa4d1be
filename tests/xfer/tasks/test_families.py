"""A run of each family goes the whole way, from training to a verified variant, with nothing made for it."""

import pytest

from export.commands import export, verify
from xfer import train
from xfer.errors import UnavailableError
from xfer.tasks import load
from xfer.training import rounds
from xfer.training.run_folder import RunFolder

SMALL = {"rounds": 1, "environments": 2, "tap": "stem", "train_from": "head", "weights": "none", "eval_episodes": 1}
IMITATION = {**SMALL, "frames": 64, "steps": 4}
PPO = {**SMALL, "algorithm": "ppo", "total_frames": 64, "rollout_steps": 16, "vectorize": "sync"}
"""Enough to take every step once; a policy that can do nothing is exported as well as any."""

SLOW = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("name", "options", "pairs"),
    [
        ("navigation:empty", IMITATION, 0),
        ("reach", IMITATION, 2),
        ("atari:pong", PPO, 0),
        ("gym:Pendulum-v1", PPO, 0),
        pytest.param("navigation:doorkey", IMITATION, 2, marks=SLOW),
        pytest.param("driving", IMITATION, 2, marks=SLOW),
        pytest.param("atari:breakout", PPO, 2, marks=SLOW),
        pytest.param("gym:Acrobot-v1", PPO, 2, marks=SLOW),
    ],
)
def test_a_run_of_each_family_is_exported_and_verified(name, options, pairs, tmp_path, request):
    try:
        load(name)
    except UnavailableError as error:
        pytest.skip(str(error))
    if name != "navigation:empty":  # the cheapest one records as many observations as users' runs do
        request.getfixturevalue("few_recordings")
    run = tmp_path / "run"
    trained = train(name, output=run, device="cpu", **options)
    assert len(trained.returns) == 1
    assert len(RunFolder(run).observations("held-out")) == rounds.RECORDED["held-out"][1]
    bundle = export.main(export.Args(source=str(run), targets="eager,onnx-fp32"))
    assert [row["status"] for row in bundle["variants"]] == ["built", "built"], bundle
    rows = {
        row["variant"]: row
        for row in verify.main(verify.Args(bundle=bundle["bundle"], pairs=pairs, workers=1))["variants"]
    }
    assert rows["onnx-fp32"]["status"] == "provisional", rows
