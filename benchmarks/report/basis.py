"""On what a decision rests: how the variant was measured that is to be shipped, as plain values and in words."""

from __future__ import annotations

from typing import Any

from benchmarks.report.decision import Facts, Limits


def plain(facts: Facts, limits: Limits) -> dict[str, Any]:
    """Return under which conditions a variant was judged, as plain values; a deadline decides which scenario counts."""
    decided = facts.deciding(limits)
    common = {"threads": facts.conditions.threads, "spin": facts.conditions.spin}
    if decided is not None:
        loop = decided.loop
        return {
            "scenario": "paced",
            "rate_hz": loop.rate_hz,
            **common,
            "protocol": "quick" if loop.quick else "default",
            "measured": loop.measured,
            "disturbed": loop.disturbed_segments > 0,
            "stable": None,
            "ticks": loop.ticks,
            "missed": decided.missed,
            "miss_rate_upper": decided.judged.upper,
            "late": loop.late,
            "idle_cores": loop.idle_cores,
        }
    return {
        "scenario": "back to back",
        "rate_hz": None,
        **common,
        "protocol": facts.protocol,
        "measured": facts.measured,
        "disturbed": facts.disturbed_rounds > 0,
        "stable": facts.stable,
    }


def in_words(facts: Facts, limits: Limits) -> str:
    """Say under which conditions a variant was judged."""
    found, decided = plain(facts, limits), facts.deciding(limits)
    how = f"paced at {found['rate_hz']:g} Hz" if decided is not None else "back to back"
    words = [how, *([str(facts.conditions)] if facts.conditions.threads is not None else [])]
    words.append({"quick": "a quick bench", "strict": "a strict bench"}.get(found["protocol"], "a default bench"))
    if found["measured"]:
        words[-1] += f" of {found['measured'][:16].replace('T', ' ')} UTC"
    loop = decided.loop if decided is not None else None
    if loop is not None and loop.idle_cores is not None:
        words.append(f"{loop.idle_cores:.2g} cores busy between ticks")
    if loop is not None and loop.segments:
        words.append(_disturbed(loop.disturbed_segments, loop.segments, "segments"))
    elif decided is None and facts.rounds:
        words.append(_disturbed(facts.disturbed_rounds, facts.rounds, "rounds"))
    return ", ".join([*words, *(["unstable"] if found["stable"] is False else [])])


def _disturbed(disturbed: int, count: int, what: str) -> str:
    return f"disturbed in {disturbed} of {count} {what}" if disturbed else "undisturbed"
