"""What the reward gate makes of outcomes: they are drawn here from their seeds, so no episode is run."""

import itertools
import json
import math
from typing import ClassVar

import numpy as np
import pytest

from export.bundle import records
from export.bundle.reader import Bundle
from export.bundle.records import Record, as_row
from export.bundle.verdicts import Verification
from export.verification import pairs, reward
from export.verification.ledger import Ledger
from export.verification.non_inferiority import MARGIN
from export.verification.pairs import Outcome
from export.verification.reward import run_gate
from export.verification.verify import verify
from xfer import tasks
from xfer.errors import XferError
from xfer.evaluate import PAIR_SEED

EAGER, SAME, OTHER, THIRD = "eager-fp32", "onnx-fp32", "onnx-int8", "torchscript-fp32"


class Drawn:
    """Takes the place of the processes.

    Attributes:
        lost: How much of the scale a variant loses, as a function of a random generator; default: nothing.
        ran: How often each seed was run.
    """

    lost: ClassVar = {}
    ran: ClassVar = {}
    differs = ""

    def __init__(self, bundle, *args):
        self.span = bundle.spec.reward.span

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, seeds, variants):
        for seed in seeds:
            self.ran[seed] = self.ran.get(seed, 0) + 1
            yield {
                name: Outcome(seed, 100.0, 100.0 - self.span * self.loss(name, seed), None, differs=self.differs)
                for name in variants()
            }

    def loss(self, name, seed):
        return self.lost[name](np.random.default_rng([seed, len(name)])) if name in self.lost else 0.0


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    monkeypatch.setattr(reward, "PairProcesses", Drawn)
    monkeypatch.setattr(Drawn, "lost", {})
    monkeypatch.setattr(Drawn, "ran", {})
    return Drawn


@pytest.fixture
def bundle(bundle_path):
    return Bundle(bundle_path)


def gate(bundle, names, most_pairs=1000, ledger=None, on_pairs=lambda done, verdicts: None, workers=1):
    found = {name: Verification("provisional", rung="actions") for name in (EAGER, *names)}
    return run_gate(bundle, found, most_pairs, workers, on_pairs, ledger or Ledger(bundle))


def hopeless(rng):
    return 1.0


def noisy(rng):
    return rng.normal(0.0, 0.02)


def once(at, lost):
    """Lose something in one pair, counted from 0, of those to come."""
    counted = itertools.count()
    return lambda rng: lost if next(counted) == at else 0.0


def test_one_pair_of_twenty_that_loses_half_the_scale_does_not_reject(bundle, drawn):
    drawn.lost[SAME] = once(5, 0.5)
    found = gate(bundle, [SAME], 20)[SAME]
    low, high = found.reward_interval
    assert low < -MARGIN * bundle.spec.reward.span < high
    assert found.status == "provisional"
    assert found.reason.startswith("reward: looks worse (mean loss 2.50% of the scale over 20 pairs): ")
    assert found.reason.endswith(f"{found.pairs_needed:,} more pairs decide")


def test_a_variant_that_surely_loses_is_rejected_with_its_bound(bundle, drawn):
    drawn.lost[SAME] = hopeless
    found = gate(bundle, [SAME])[SAME]
    assert (found.status, found.pairs) == ("rejected", 10)
    assert found.reason.startswith("reward: mean loss 100.00% of the scale over 10 pairs, surely more than ")


def test_a_delta_is_the_true_one_where_the_bound_is_of_the_clipped_loss(bundle, drawn):
    drawn.lost[SAME] = lambda rng: 55.0
    found = gate(bundle, [SAME])[SAME]
    assert found.reward_delta == pytest.approx(-55 * bundle.spec.reward.span)
    assert found.reward_delta == pytest.approx(found.reward_mean - 100.0)
    assert found.reward_interval[0] >= -bundle.spec.reward.span
    assert "the bound is of the clipped loss: 10 of 10 pairs lost or gained more than the scale" in found.reason


# One bundle, several calls.


def test_a_quick_verify_keeps_the_verified_verdict_and_its_pairs(bundle, met, monkeypatch, drawn):
    monkeypatch.setattr("export.verification.verify.no_reward_gate", lambda bundle: None)
    full = verify(bundle, [SAME], pairs=1000, held_out=met, workers=1)[SAME]
    assert (full.status, full.pairs, full.observations) == ("verified", 160, len(met))
    ledger, ran = Ledger(bundle).path.read_bytes(), dict(drawn.ran)
    notes = []
    for pairs_, held_out in ((20, met), (0, met), (5, None), (0, None)):
        assert verify(bundle, [SAME], pairs=pairs_, held_out=held_out, on_note=notes.append)[SAME] == full
        assert records.load(bundle)[SAME].verification == full
    assert drawn.ran == ran
    assert Ledger(bundle).path.read_bytes() == ledger
    assert f"An earlier verdict, which rests on more, is kept of {SAME}." in notes


def test_a_later_call_continues_from_the_pairs_that_there_are(bundle, drawn):
    first = gate(bundle, [SAME], 20)[SAME]
    assert first.reason == "reward: 137 more clean pairs needed (xfer verify --full)"
    second = gate(bundle, [SAME])[SAME]
    assert (second.status, second.pairs, second.seed_base) == ("verified", 160, first.seed_base)
    assert second.returns[:20] == first.returns
    assert set(drawn.ran.values()) == {1}


def test_pairs_of_version_020_go_on_with_their_own_seeds(bundle):
    returns = tuple((PAIR_SEED + i, 100.0, 100.0) for i in range(20))
    older = Verification("provisional", "reward", pairs=20, returns=returns)
    records.save(bundle, SAME, verification=older)
    found = gate(bundle, [SAME, OTHER])
    assert [seed for seed, _, _ in found[SAME].returns] == list(range(PAIR_SEED, PAIR_SEED + 160))
    assert (found[SAME].seed_base, found[SAME].status) == (PAIR_SEED, "verified")
    assert found[OTHER].status == "verified"
    assert found[OTHER].seed_base != PAIR_SEED


def test_a_hopeless_variant_costs_the_others_pairs_in_the_same_call(bundle, drawn):
    drawn.lost[OTHER] = hopeless
    found = gate(bundle, [SAME, OTHER, THIRD])
    assert [found[name].status for name in (SAME, OTHER, THIRD)] == ["verified", "rejected", "verified"]
    assert [found[name].pairs for name in (SAME, OTHER, THIRD)] == [200, 10, 200]


@pytest.mark.parametrize("replaced", [False, True])
def test_the_family_includes_variants_of_earlier_calls_whatever_became_of_them(replaced, bundle, drawn, monkeypatch):
    drawn.lost[OTHER] = hopeless
    assert gate(bundle, [OTHER])[OTHER].status == "rejected"
    if replaced:
        digest = records.files_digest
        monkeypatch.setattr(records, "files_digest", lambda build: digest(build) + "x" * (build.variant == OTHER))
        drawn.lost.clear()
    names = [SAME, OTHER] if replaced else [SAME]
    found = gate(bundle, names)
    assert [(found[name].status, found[name].pairs) for name in names] == [("verified", 200)] * len(names)
    assert gate(bundle, [SAME], ledger=Ledger(bundle, keep=False))[SAME].pairs == 160


def test_what_was_verified_stays_so_when_a_hopeless_one_joins(bundle, drawn):
    first = gate(bundle, [SAME])[SAME]
    drawn.lost[OTHER] = hopeless
    ran = dict(drawn.ran)
    found = gate(bundle, [SAME, OTHER])
    assert found[SAME] == first
    assert found[OTHER].status == "rejected"
    assert all(drawn.ran[seed] == 1 for seed in ran)


def test_new_files_are_judged_on_other_seeds_while_old_pairs_continue(bundle, drawn, monkeypatch):
    drawn.lost |= {SAME: noisy, OTHER: noisy}
    before = gate(bundle, [SAME, OTHER], 20)
    digest = records.files_digest
    monkeypatch.setattr(records, "files_digest", lambda build: digest(build) + "x" * (build.variant == OTHER))
    after = gate(bundle, [SAME, OTHER])
    assert before[SAME].seed_base == before[OTHER].seed_base == after[SAME].seed_base
    assert after[SAME].returns[:20] == before[SAME].returns
    seeds = {name: {seed for seed, _, _ in after[name].returns} for name in (SAME, OTHER)}
    assert not seeds[SAME] & seeds[OTHER]
    assert not seeds[OTHER] & {seed for seed, _, _ in before[OTHER].returns}
    assert {after[SAME].status, after[OTHER].status} == {"verified"}
    assert len(after[EAGER].returns) == max(after[name].pairs for name in (SAME, OTHER))


def test_neither_the_order_of_variants_nor_the_number_of_workers_changes_a_figure(bundle, drawn):
    drawn.lost |= {SAME: noisy, THIRD: noisy, OTHER: lambda rng: rng.normal(0.06, 0.1)}
    gate(bundle, [THIRD], 20)  # so that there are two groups
    ledger = Ledger(bundle).path
    begun, results = ledger.read_bytes(), []
    for names, workers in (([SAME, OTHER, THIRD], 1), ([THIRD, OTHER, SAME], 2)):
        ledger.write_bytes(begun)
        results.append(gate(bundle, names, workers=workers))
    assert results[0] == results[1]
    assert results[0][OTHER].status == "rejected"


def test_groups_take_turns_and_an_interrupted_gate_of_them_finds_the_same(bundle, drawn):
    drawn.lost |= {SAME: noisy, OTHER: noisy}
    gate(bundle, [SAME], 20)
    ledger, looks = Ledger(bundle).path, []
    begun = ledger.read_bytes()
    whole = gate(bundle, [SAME, OTHER], on_pairs=lambda done, verdicts: looks.append(done))
    assert looks == sorted(looks)
    assert looks[:4] == [10, 20, 30, 40]
    ledger.write_bytes(begun)

    def interrupt(done, verdicts):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gate(bundle, [SAME, OTHER], on_pairs=interrupt)
    assert gate(bundle, [SAME, OTHER]) == whole


# Returns that are not finite, and environments that do not replay.


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_return_that_is_not_finite_is_an_error_of_its_episode_and_records_stay_readable(value, bundle, drawn):
    drawn.lost[OTHER] = once(3, value)
    found = gate(bundle, [SAME, OTHER])
    seed = found[OTHER].seed_base + 3
    assert (found[OTHER].status, found[OTHER].pairs) == ("rejected", 4)
    assert found[OTHER].reason == f"reward: in the episode of seed {seed}: its return is {100 - value}"
    assert found[SAME].status == "verified"
    for name, verdict in found.items():
        records.save(bundle, name, verification=verdict)
    assert {name: record.verification for name, record in records.load(bundle).items()} == found
    assert len(Ledger(bundle).entries()) == 2


def test_an_episode_that_failed_is_tried_once_more(bundle, drawn):
    drawn.lost[SAME] = once(3, math.nan)
    assert gate(bundle, [SAME], 20)[SAME].status == "rejected"
    assert gate(bundle, [SAME])[SAME].status == "verified"


def test_an_environment_whose_rewards_are_no_numbers_is_one_clear_error(bundle, monkeypatch):
    task = tasks.load(bundle.spec.task)
    make = task.make

    def broken():
        env = make()
        step = env.env.step
        env.env.step = lambda action: (lambda seen, _, *rest: (seen, math.nan, *rest))(*step(action))
        return env

    monkeypatch.setattr(tasks, "load_recorded", lambda name: type(task)(**{**vars(task), "make": broken}))
    with pytest.raises(
        XferError, match=r"seed 7, step 0: the reward is nan; step\(\) must give a finite number"
    ) as caught:
        pairs._run_pair(bundle.path, (SAME,), bundle.spreads(), 7)
    assert "\n" not in str(caught.value)


def test_independent_episodes_are_judged_by_the_same_bound_and_it_is_said(bundle, drawn, monkeypatch):
    monkeypatch.setattr(drawn, "differs", "another reward at step 3")
    found = gate(bundle, [SAME])[SAME]
    assert (found.status, found.pairs) == ("verified", 160)
    assert found.reason == ("reward: another reward at step 3; so each pair is of two independent episodes")


def test_pairs_that_shared_episodes_do_not_count_once_the_environment_is_found_not_to_replay(
    bundle, drawn, monkeypatch
):
    before = gate(bundle, [SAME])[SAME]
    assert (before.status, before.pairs) == ("verified", 160)
    assert gate(bundle, [OTHER], 20)[OTHER].pairs == 20
    monkeypatch.setattr(drawn, "differs", "another reward at step 3")
    found = gate(bundle, [SAME, OTHER], 100)
    assert (found[OTHER].status, found[OTHER].pairs) == ("provisional", 100)
    kept = {entry.variant: entry for entry in Ledger(bundle).entries().values()}
    assert all(pair.differs for pair in kept[OTHER].outcomes)
    assert [pair.seed for pair in kept[OTHER].outcomes] == list(
        range(kept[OTHER].seed_base, kept[OTHER].seed_base + 100)
    )


def test_what_a_verdict_says_can_be_printed_as_json(bundle, drawn):
    drawn.lost[SAME] = lambda rng: 55.0
    row = as_row(SAME, bundle.builds[SAME], Record(SAME, "", {}, gate(bundle, [SAME])[SAME]))
    assert json.loads(json.dumps(row, allow_nan=False))["seed_base"] == row["returns"][0][0]
