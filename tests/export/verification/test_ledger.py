"""What is kept of pairs of episodes, and which seeds they have. Nothing acts here: outcomes are written down."""

import math
from dataclasses import replace

import pytest

from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle
from export.bundle.record import Divergence, Verification
from export.verification.ledger import FIRST_SEED, MOST_PAIRS, Entry, Ledger, seed_base
from export.verification.pairs import Outcome
from xfer import evaluate
from xfer.errors import BundleError
from xfer.files import to_json

SAME, OTHER, EAGER = "onnx-fp32", "onnx-int8", "eager-fp32"
WHERE = Divergence(7, 3, (1.0,), (0.0,), 0.5, "iVBORw0KGgo=")
PAIRS = (Outcome(7, 1.0, 1.0, None), Outcome(8, 1.0, 0.5, None))


@pytest.fixture
def bundle(bundle_path):
    return Bundle(bundle_path)


def entered(bundle, names, **changes):
    """Enter variants, give them pairs, and keep these."""
    ledger = Ledger(bundle)
    entries = {name: replace(entry, **{"outcomes": PAIRS, **changes}) for name, entry in ledger.enter(names).items()}
    ledger.save(entries.values())
    return entries


@pytest.fixture
def exchange(monkeypatch):
    """Makes a variant's files others than they are."""

    def exchange(*names):
        digest = records.files_digest
        monkeypatch.setattr(records, "files_digest", lambda build: digest(build) + "x" * (build.variant in names))

    return exchange


def test_pairs_are_kept_and_nothing_is_ever_deleted(bundle):
    first = entered(bundle, [SAME, OTHER])
    assert Ledger(bundle).enter([SAME, OTHER]) == first
    second = entered(bundle, [OTHER], outcomes=(*PAIRS, Outcome(9, 1.0, 1.0, None)), verified=True)
    assert Ledger(bundle).enter([SAME, OTHER]) == first | second


def test_another_process_that_has_fewer_pairs_takes_none_away(bundle):
    first = entered(bundle, [SAME], verified=True)
    entered(bundle, [SAME], outcomes=PAIRS[:1], verified=False)
    assert Ledger(bundle).enter([SAME]) == first


def test_without_keeping_nothing_is_read_or_written(bundle):
    entered(bundle, [SAME])
    before = Ledger(bundle).path.read_bytes()
    ledger = Ledger(bundle, keep=False)
    fresh = ledger.enter([SAME])[SAME]
    assert (fresh.outcomes, ledger.entries()) == ((), {})
    ledger.save([replace(fresh, outcomes=PAIRS)])
    assert Ledger(bundle).path.read_bytes() == before


def test_other_files_or_libraries_start_anew_and_the_old_ones_stay_in_the_family(bundle, exchange):
    old = entered(bundle, [SAME, OTHER])
    exchange(SAME)
    new = Ledger(bundle).enter([SAME, OTHER])
    assert new[OTHER] == old[OTHER]
    assert new[SAME].outcomes == ()
    assert old[SAME].key in Ledger(bundle).entries()


def test_another_reference_starts_all_anew(bundle, exchange):
    old = entered(bundle, [SAME])
    exchange(EAGER)
    new = Ledger(bundle).enter([SAME])[SAME]
    assert new.outcomes == ()
    assert new.seed_base != old[SAME].seed_base


def test_those_that_enter_together_share_their_seeds_whatever_their_order(bundle):
    forth, back = Ledger(bundle).enter([SAME, OTHER]), Ledger(bundle).enter([OTHER, SAME])
    assert forth == back
    assert forth[SAME].seed_base == forth[OTHER].seed_base
    assert forth[SAME].seed_base != Ledger(bundle).enter([SAME])[SAME].seed_base


def test_new_files_get_new_seeds_while_the_pairs_of_others_continue(bundle, exchange):
    old = entered(bundle, [SAME, OTHER])
    exchange(OTHER)
    new = Ledger(bundle).enter([SAME, OTHER])
    assert new[SAME].seed_base == old[SAME].seed_base
    assert new[OTHER].seed_base != old[OTHER].seed_base


def test_seeds_lie_clear_of_all_others_and_fit_a_simulator():
    bases = [seed_base("reference", {"a": str(i)}) for i in range(2000)]
    assert len(set(bases)) == 2000
    others = (evaluate.EVALUATION_SEED, evaluate.PAIR_SEED, evaluate.HELD_OUT_SEED, evaluate.CALIBRATION_SEED)
    assert max(others) + MOST_PAIRS < FIRST_SEED <= min(bases)
    assert max(bases) + MOST_PAIRS < 2**31
    assert max(bases) - min(bases) > 2**30


def test_only_the_first_divergence_keeps_its_picture(bundle):
    pairs = tuple(Outcome(seed, 1.0, 0.5, replace(WHERE, seed=seed)) for seed in (7, 8, 9))
    entered(bundle, [SAME], outcomes=pairs)
    kept = Ledger(bundle).enter([SAME])[SAME].outcomes
    assert [pair.divergence.picture for pair in kept] == [WHERE.picture, "", ""]
    assert kept[0] == pairs[0]


def test_a_damaged_ledger_is_named_in_one_line(bundle):
    entered(bundle, [SAME])
    path = Ledger(bundle).path
    path.write_text("[{")
    with pytest.raises(BundleError, match=r"records.*pairs.*is damaged .*Delete it, then verify again") as caught:
        Ledger(bundle).enter([SAME])
    assert "\n" not in str(caught.value)


def test_a_figure_that_is_not_finite_is_refused_and_the_ledger_stays_readable(bundle):
    entered(bundle, [SAME])
    with pytest.raises(BundleError, match="not finite"):
        entered(bundle, [OTHER], outcomes=(Outcome(7, math.nan, 1.0, None),))
    assert Ledger(bundle).enter([SAME])[SAME].outcomes == PAIRS


# What version 0.2.0 kept.


def test_pairs_that_were_no_verdict_yet_in_version_020_continue_with_their_seeds(bundle):
    identity = Ledger(bundle).enter([SAME])[SAME].identity
    seeds = range(evaluate.PAIR_SEED, evaluate.PAIR_SEED + 2)
    pairs = [{"seed": seed, "reference": 1.0, "variant": 0.5, "divergence": None, "error": ""} for seed in seeds]
    unfinished = bundle.path / records.RECORDS / "unfinished" / f"{this_machine().id_v020}.json"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(to_json({SAME: {"identity": identity, "outcomes": pairs}}))
    ledger = Ledger(bundle)
    entry = ledger.enter([SAME])[SAME]
    assert entry.seed_base == evaluate.PAIR_SEED
    assert [(pair.seed, pair.variant) for pair in entry.outcomes] == [(seed, 0.5) for seed in seeds]
    ledger.save([entry])
    assert not unfinished.exists()
    assert Ledger(bundle).enter([SAME])[SAME] == entry


def test_the_pairs_of_a_verdict_of_version_020_continue_with_their_seeds(bundle):
    seeds = range(evaluate.PAIR_SEED, evaluate.PAIR_SEED + 20)
    returns = tuple((seed, 1.0, 0.5) for seed in seeds)
    where = replace(WHERE, seed=seeds[3])
    verdict = Verification("provisional", "reward", pairs=20, forked=20, returns=returns, divergence=where)
    records.save(bundle, EAGER, verification=Verification("verified", "reward"))
    records.save(bundle, SAME, verification=verdict)
    entry = Ledger(bundle).enter([SAME])[SAME]
    assert entry.seed_base == evaluate.PAIR_SEED
    assert [(pair.seed, pair.reference, pair.variant) for pair in entry.outcomes] == list(returns)
    assert [pair.divergence for pair in entry.outcomes if pair.divergence] == [where]
    assert (entry.forked, entry.verified) == (19, False)


def test_a_verdict_of_version_020_on_other_files_belongs_to_the_family_and_does_not_continue(bundle, exchange):
    returns = tuple((evaluate.PAIR_SEED + i, 1.0, 0.0) for i in range(20))
    records.save(bundle, SAME, verification=Verification("rejected", "reward", pairs=20, returns=returns))
    exchange(SAME)
    ledger = Ledger(bundle)
    assert ledger.enter([SAME])[SAME].outcomes == ()
    assert [len(entry.outcomes) for entry in ledger.entries().values()] == [20]


def test_an_entry_s_key_tells_files_and_libraries_apart():
    assert Entry("a", "1", 0).key != Entry("a", "2", 0).key
