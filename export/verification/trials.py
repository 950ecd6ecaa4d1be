"""The reward gate without a simulator: returns of trials, as on a real robot, from a file.

    variant,episode,return          or, as .json:   [{"variant": "eager-fp32", "episode": 1, "success": true}, ...]
    eager-fp32,1,41.5
    onnx-int8,1,40.0

``success`` (0 or 1) may take the place of ``return``. Two trials have no seed in common. So the i-th trial of a variant
and the i-th of the reference, in the order of the file, are a pair of independent episodes: the mean of their
differences is the difference of the means, and the betting bound of the reward gate holds for it. It stays valid
however often one looks, as long as trials are only ever appended. What chance adds to a trial costs trials, not truth.

``losses`` and ``judge_trials`` are pure functions, for a simulation.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.reader import Bundle
from export.bundle.record import Verification
from export.targets import Variant
from export.verification.non_inferiority import MARGIN, MAX_PAIRS, Verdict, judge_jointly, pairs_to_decide
from xfer.errors import UnavailableError, UsageError, check_choice

RETURN, SUCCESS = "return", "success"
"""Columns that say how a trial went: a number, or 0 or 1."""


@dataclass(frozen=True)
class TrialReturns:
    """How trials went.

    Attributes:
        returns: Of each variant, in the order of the file; the reference's are among them.
        span: How far the largest and the smallest return lie apart; a loss counts at most so much.
        margin: Largest mean loss that is "not worse", in the same unit.
    """

    returns: Mapping[str, Sequence[float]]
    span: float
    margin: float

    def names(self, bundle: Bundle) -> list[str]:
        """Return the variants that are in the bundle; of a packed one, the reference is not."""
        return [name for name in self.returns if name.partition("@")[0] in bundle.builds]


def run_gate(bundle: Bundle, found: dict[str, Verification], trials: TrialReturns) -> dict[str, Verification]:
    """Judge by their trials the variants that passed the first two gates, jointly.

    Args:
        bundle: The bundle.
        found: The verdicts of the first two gates.
        trials: How the variants' trials went, and the reference's.
    """
    reference = trials.returns[bundle.reference]
    names = [name for name, v in found.items() if v.status == "provisional" and name != bundle.reference]
    lost = {name: losses(reference, trials.returns[name], trials.span) for name in names}
    verdicts = judge_trials(lost, trials.margin / trials.span)
    result = dict(found)
    for name in names:
        pairs = tuple(zip(reference, trials.returns[name], strict=False))
        result[name] = conclude(found[name], pairs, verdicts[name], lost[name], trials)
    if bundle.reference in found and found[bundle.reference].status == "provisional":
        result[bundle.reference] = replace(
            found[bundle.reference],
            status="verified",
            rung="trials",
            pairs=len(reference),
            reward_mean=float(np.mean(reference)),
            reward_delta=0.0,
            reward_interval=(0.0, 0.0),
            reason="the reference itself",
            returns=tuple((i, value, value) for i, value in enumerate(reference)),
            trials_margin=trials.margin,
        )
    return result


def losses(reference: Sequence[float], variant: Sequence[float], span: float) -> np.ndarray:
    """Return what the variant lost in each pair of trials, as a share of the span: float [fewer of the two numbers]."""
    return np.array([(one - other) / span for one, other in zip(reference, variant, strict=False)])


def judge_trials(losses: Mapping[str, np.ndarray], margin: float = MARGIN) -> dict[str, Verdict]:
    """Judge the variants of a file jointly.

    Args:
        losses: float [n] of each, as ``losses`` returns them.
        margin: Largest mean loss that is "not worse", as a share of the span.
    """
    return judge_jointly(losses, margin, at_once=True)


def conclude(
    so_far: Verification,
    pairs: Sequence[tuple[float, float]],
    verdict: Verdict,
    losses: np.ndarray,
    trials: TrialReturns,
) -> Verification:
    """Return a verification with a verdict in the unit of the returns.

    Args:
        so_far: That of the first two gates.
        pairs: The reference's return and the variant's, of each pair.
        verdict: The verdict on the losses.
        losses: The losses.
        trials: Says the unit and the margin.
    """
    reference, variant = np.mean(pairs, axis=0)
    margin, lost = trials.margin, float(reference - variant)
    needed, reason = 0, ""
    seen = f"trials: mean loss {lost:.3g} over {len(pairs)} pairs of trials, allowed {margin:g}"
    rejected = verdict.lower > margin / trials.span
    if rejected:
        reason = seen
    elif verdict.status != "verified":
        needed = max(verdict.needed, pairs_to_decide(np.clip(losses, -1.0, 1.0), margin / trials.span))
        more = f"{needed:,} more of each, like these, decide" if needed < MAX_PAIRS else "more like these do not decide"
        reason = f"{seen}{', it looks worse' if lost >= margin else ''}; {more}"
    return replace(
        so_far,
        status="rejected" if rejected else "verified" if verdict.status == "verified" else "provisional",
        rung="trials",
        reason=reason,
        pairs=len(pairs),
        pairs_needed=needed,
        reward_mean=float(variant),
        reward_delta=0.0 - lost,
        reward_interval=(-verdict.upper * trials.span, -verdict.lower * trials.span),
        returns=tuple((i, one, other) for i, (one, other) in enumerate(pairs)),
        trials_margin=margin,
    )


# The file.


def read_trials(
    path: Path, bundle: Bundle, margin: float | None = None, return_range: tuple[float, float] | None = None
) -> TrialReturns:
    """Read how trials went.

    Args:
        path: A .csv file with a header, or a .json file with a list of objects.
        bundle: Whose variants were tried.
        margin: Largest mean loss that is "not worse", in the unit of the returns, or as a share of successes. Default:
            2 % of the reward scale (of successes: 0.02), if the policy has one.
        return_range: Smallest and largest return that there can be. Default: those of the reward scale.

    Raises:
        UsageError: If the file cannot be read, with row and column; if it has no trials of the reference, or of nothing
            else; or if margin or range are missing or mean nothing.
    """
    if return_range is not None and not (
        math.isfinite(return_range[0]) and return_range[0] < return_range[1] < math.inf
    ):
        low, high = return_range
        raise UsageError(f"--return-range {low:g} {high:g}: use two numbers, the second the larger one.")
    returns: dict[str, list[float]] = {}
    known: dict[tuple[str, str], int] = {}
    measure = ""
    for row, values in _rows(path):
        measure = measure or _measure(f"{path}, row {row}", values)
        cells = {column: _cell(path, row, column, values) for column in ("variant", "episode", measure)}
        name, episode = str(cells["variant"]).strip(), str(cells["episode"]).strip()
        _check_variant(f"{path}, row {row}, column 'variant'", name, bundle)
        if (name, episode) in known:
            first = known[name, episode]
            raise UsageError(
                f"{path}, row {row}, column 'episode': {name} has episode {episode} in row {first} already."
            )
        known[name, episode] = row
        where = f"{path}, row {row}, column '{measure}'"
        value = _success(where, cells[measure]) if measure == SUCCESS else _number(where, cells[measure])
        if return_range is not None and not return_range[0] <= value <= return_range[1]:
            low, high = return_range
            raise UsageError(f"{where}: {value:g} is outside of --return-range {low:g} {high:g}.")
        returns.setdefault(name, []).append(value)
    if not returns:
        raise UsageError(f"{path} holds no trials.")
    if bundle.reference not in returns:
        raise UsageError(f"{path} holds no trials of {bundle.reference}, which the others are compared with.")
    if len(returns) == 1:
        raise UsageError(f"{path} holds trials of {bundle.reference} alone: there is nothing to compare with it.")
    return _scaled(returns, measure, bundle, margin, return_range)


def _scaled(
    returns: Mapping[str, Sequence[float]],
    measure: str,
    bundle: Bundle,
    margin: float | None,
    return_range: tuple[float, float] | None,
) -> TrialReturns:
    """Add what the returns are measured in.

    Raises:
        UsageError: If margin or range are missing or mean nothing.
    """
    reward = bundle.spec.reward
    if measure == SUCCESS:
        if return_range is not None:
            raise UsageError("--return-range is for returns; successes are 0 or 1. Leave it out.")
        span, default = 1.0, MARGIN
    else:
        if return_range is not None:
            low, high = return_range
        elif reward is not None:
            low, high = reward.random_return, reward.reference_return
        else:
            raise UsageError("The policy has no reward scale: say what returns there can be (--return-range LOW HIGH).")
        span, default = high - low, MARGIN * (reward.span if reward is not None else 0.0)
    if margin is None:
        if reward is None:
            raise UsageError("The policy has no reward scale: say what mean loss is not worse (--margin).")
        margin = default
    if not 0 < margin < span:
        raise UsageError(f"--margin {margin:g} proves nothing: use one above 0 and below {span:g}, as {0.02 * span:g}.")
    return TrialReturns({name: tuple(values) for name, values in returns.items()}, span, margin)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows with their numbers: in a CSV file as an editor counts lines, in JSON from 1.

    Raises:
        UsageError: If the file cannot be read.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{path}: trials come as a .csv or .json file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: save it as such.") from error
    yield from _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        doubled = [name for name in reader.fieldnames if name and reader.fieldnames.count(name) > 1]
        if doubled:
            raise UsageError(f"{path}, row 1: there are two columns '{doubled[0]}'.")
        for values in reader:
            if any(cell.strip() for cell in values.pop(None, ())):
                raise UsageError(f"{path}, row {reader.line_num} has more columns than the header.")
            yield reader.line_num, values
    except csv.Error as error:
        raise UsageError(f"{path}, row {reader.line_num}: {error}.") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        data = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(data, list):
        raise UsageError(f'{path} holds no list: write [{{"variant": ..., "episode": ..., "return": ...}}, ...].')
    for row, values in enumerate(data, start=1):
        if not isinstance(values, dict):
            raise UsageError(f"{path}, row {row} is no object with variant, episode and return.")
        yield row, values


def _measure(where: str, values: Mapping[str, Any]) -> str:
    """Return which of the two columns says how a trial went."""
    there = [name for name in (RETURN, SUCCESS) if name in values]
    if len(there) == 2:
        raise UsageError(f"{where} has both columns '{RETURN}' and '{SUCCESS}': leave one of them out.")
    for column in ("variant", "episode", there[0] if there else RETURN):
        if column not in values:
            also = f" (or '{SUCCESS}')" if column == RETURN else ""
            listed = ", ".join(str(name) for name in values) or "none"
            raise UsageError(f"{where}: there is no column '{column}'{also}. The columns are: {listed}.")
    return there[0]


def _cell(path: Path, row: int, column: str, values: Mapping[str, Any]) -> Any:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UsageError(f"{path}, row {row}, column '{column}' is empty.")
    if isinstance(value, list | dict):
        raise UsageError(f"{path}, row {row}, column '{column}': {json.dumps(value)} is no single value.")
    return value


def _check_variant(where: str, name: str, bundle: Bundle) -> None:
    if name == bundle.reference:
        return
    try:
        bundle.check_known(name)
        check_choice("variant", name.partition("@")[0], {*bundle.builds, bundle.reference})
        Variant.parse(name)
    except (UsageError, UnavailableError) as error:
        raise UsageError(f"{where}: {error}") from error
    if name.partition("@")[0] not in bundle.builds:
        raise UsageError(f"{where}: the trials of the reference are called {bundle.reference}.")


def _number(where: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: {value} is not a finite number.")
    return number


def _success(where: str, value: Any) -> float:
    """Return 0 or 1; programs write true and false for them."""
    text = str(value).strip().lower()
    number = {"true": 1.0, "false": 0.0}.get(text)
    if number is None:
        number = _number(where, value)
    if number not in (0.0, 1.0):
        raise UsageError(f"{where}: {value} is not 0 or 1.")
    return number
