"""Pairs of episodes where the environment is no function of its seed, and where actions differ by rounding alone."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from export.bundle.manifest import MANIFEST, Spreads
from export.bundle.reader import Bundle
from export.bundle.record import Verification
from export.verification import ledger, pairs
from export.verification.ledger import Ledger
from export.verification.pairs import SAME_ACTION, Outcome, fork_tolerance
from export.verification.reward import run_gate
from tests import chance_task
from tests.chance_task import PUSH, SAME, Push, exchange, small_bundle
from xfer import tasks
from xfer.evaluate import PAIR_SEED
from xfer.files import write_atomically
from xfer.spec import ActionSpec


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundles") / "sign.bundle")


@pytest.fixture
def acting(exported, tmp_path, monkeypatch):
    """Return the bundle as if its policy acted in another task."""

    def in_task(task):
        monkeypatch.setenv(tasks.TRUSTED, task.name)
        path = tmp_path / task.name.partition(":")[2]
        shutil.copytree(exported.path, path)
        manifest = replace(exported.manifest, spec=replace(exported.spec, task=task.name))
        write_atomically(path / MANIFEST, manifest.encode())
        return Bundle(path)

    return in_task


@pytest.fixture(autouse=True)
def _seeds(monkeypatch):
    """Which seeds pairs have does not hang on what this machine makes of the files."""
    monkeypatch.setattr(ledger, "seed_base", lambda reference, group: PAIR_SEED)


def gate(bundle, most_pairs, workers=1, cache=None, on_pairs=lambda done, verdicts: None):
    found = {name: Verification("provisional", rung="actions") for name in ("eager-fp32", SAME)}
    return run_gate(bundle, found, most_pairs, workers, on_pairs, cache)[SAME]


def test_pairs_in_an_environment_that_ignores_its_seed_are_of_two_episodes_each(acting):
    bundle = acting(chance_task.pays_by_chance())
    found = gate(bundle, 10)
    assert found.pairs == len(found.returns) == 10
    assert all(reference != variant for _, reference, variant in found.returns)
    assert found.status != "verified"
    assert "the environment gives another episode for the same seed: reward " in found.reason
    assert " at step 5; so each pair is of two independent episodes" in found.reason
    assert gate(bundle, 10, workers=2).returns == found.returns


def test_pairs_from_before_an_environment_was_found_to_ignore_its_seed_do_not_count(acting):
    bundle = acting(chance_task.pays_by_chance_at_times())
    first = next(seed for seed in range(PAIR_SEED, PAIR_SEED + 7) if seed % 7 == 0) - PAIR_SEED
    cache, looks = Ledger(bundle), []
    alone = gate(bundle, first, cache=cache)
    assert "another episode" not in alone.reason
    found = gate(bundle, 14, cache=cache, on_pairs=lambda done, verdicts: looks.append(done))
    assert (found.pairs, looks) == (14, [first, 10, 14])
    assert "each pair is of two independent episodes" in found.reason
    kept = cache.enter([SAME])[SAME].outcomes
    assert [pair.seed for pair in kept] == list(range(PAIR_SEED, PAIR_SEED + 14))
    assert all(pair.differs for pair in kept)
    again = gate(bundle, 16, cache=cache)  # continues, apart from the first pair on
    assert (again.pairs, again.returns[:14]) == (16, found.returns)
    assert "each pair is of two independent episodes" in again.reason


def test_an_environment_that_keeps_to_its_seed_is_judged_in_lockstep(acting):
    found = gate(acting(chance_task.seeded()), 10)
    assert (found.forked, "another episode" in found.reason) == (0, False)
    assert found.returns == tuple((PAIR_SEED + i, 12.0, 12.0) for i in range(10))


@pytest.mark.parametrize(("gain", "forked"), [(np.nextafter(np.float32(1), 2), 0), (1.001, 3)])
def test_a_continuous_variant_that_is_off_by_the_last_bit_runs_in_lockstep(tmp_path, monkeypatch, gain, forked):
    task = chance_task.pushed()
    monkeypatch.setenv(tasks.TRUSTED, task.name)
    bundle = small_bundle(tmp_path / "push.bundle", Push(), task=task.name, action=PUSH, score_kind="mean")
    found = gate(exchange(bundle, Push(float(gain))), 3)
    assert (found.pairs, found.forked) == (3, forked)
    assert all((reference == variant) == (forked == 0) for _, reference, variant in found.returns)


def test_why_pairs_are_independent_is_what_the_first_that_differs_says():
    same, differs = Outcome(7, 1.0, 1.0, None), Outcome(8, 1.0, 0.5, None, differs="reward 1.0 and 0.7 at step 12")
    assert pairs.why_independent([same, differs]) == "reward 1.0 and 0.7 at step 12"
    assert pairs.why_independent([same]) == pairs.why_independent([]) == ""


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        ((-1.0, 0.0), (1.0, 100.0), [2.0, 100.0]),
        ((), (), [0.5, 3.0]),
    ],
)
def test_a_fork_is_a_difference_of_more_than_a_millionth_of_each_elements_scale(exported, low, high, scale):
    spec = replace(exported.spec, action=ActionSpec("continuous", ("x", "y"), "N", low, high), score_kind="mean")
    np.testing.assert_allclose(fork_tolerance(spec, Spreads((), (0.5, 3.0))), SAME_ACTION * np.array(scale))
    assert SAME_ACTION == 1e-6
    assert fork_tolerance(exported.spec, Spreads(())).tolist() == [0.0]
