import math

import pytest

from export.bundle.reader import Bundle
from export.verification import pair_cache
from export.verification.pair_cache import PairCache
from export.verification.pairs import Outcome
from xfer.errors import BundleError

SAME, OTHER = "onnx-fp32", "onnx-int8"
PAIRS = [Outcome(7, 1.0, 1.0, None), Outcome(8, 1.0, 0.5, None)]


@pytest.fixture
def kept(bundle_path):
    return PairCache(Bundle(bundle_path))


def test_pairs_are_kept_until_their_verdicts_are(kept):
    kept.save({SAME: PAIRS, OTHER: PAIRS[:1]})
    assert kept.load([SAME, OTHER]) == {SAME: PAIRS, OTHER: PAIRS[:1]}
    kept.save({OTHER: PAIRS})
    kept.clear([OTHER])
    assert kept.load([SAME, OTHER]) == {SAME: PAIRS, OTHER: []}
    kept.clear([SAME])
    assert not kept.path.exists()
    kept.clear([SAME])


def test_a_pair_that_failed_is_kept_with_its_reason_and_without_its_return(kept):
    kept.save({SAME: [Outcome(7, 1.0, math.nan, None, "scores are not finite")]})
    kept.save({OTHER: PAIRS})
    assert kept.load([SAME])[SAME] == [Outcome(7, 1.0, 0.0, None, "scores are not finite")]


def test_pairs_of_other_files_or_libraries_are_not_taken(kept, monkeypatch):
    kept.save({SAME: PAIRS, OTHER: PAIRS})
    digest = pair_cache.records.files_digest
    monkeypatch.setattr(
        pair_cache.records, "files_digest", lambda build: digest(build) + ("x" if build.variant == SAME else "")
    )
    assert kept.load([SAME, OTHER]) == {SAME: [], OTHER: PAIRS}


def test_a_damaged_file_is_named(kept):
    kept.save({SAME: PAIRS})
    kept.path.write_text("{")
    with pytest.raises(BundleError, match=r"unfinished.*is damaged .*Delete it, then verify again"):
        kept.load([SAME])
