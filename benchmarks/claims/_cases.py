"""A case of the mutation test: one fault, or one right export, with its harm and what the gates say of it."""

from __future__ import annotations

from dataclasses import dataclass, field

HARMFUL, HARMLESS = 2.0, 0.5
"""Multiples of a limit. What is above the first in each of several stretches, as long as the gate's own data, must be
refused; what is below the second in all of them must pass."""
RIGHT = "right export"
FORMS = ("eager-fp32", "torchscript-fp32", "onnx-fp32", "openvino-fp32", "onnx-int8")


@dataclass(frozen=True)
class Plan:
    """How much is done with each policy.

    Attributes:
        wanted: Harmful cases of each kind of fault.
        tries: Draws for each of them at most.
        forms: Variants that are exported.
        planted_in: The one of them whose session faults are planted in, and whose graph if it has one.
        observations: Recorded ones, half of them held out.
        rows: Rows of the batch in which harm is measured.
        steps: Steps of each.
    """

    wanted: dict[str, int]
    tries: int = 4
    forms: tuple[str, ...] = FORMS
    planted_in: str = "onnx-fp32"
    observations: int = 2000
    rows: int = 10
    steps: int = 1000


@dataclass(frozen=True)
class Case:
    """What became of one fault, or of one right export.

    Attributes:
        fault: Its kind.
        policy: The kind of policy.
        strength: How strong it is, in words.
        figures: For each gate its smallest and largest figure in ten stretches, as multiples of its limit.
        refused: What the gate said, or empty if all let it pass.
        breaks_contract: Whether a module does what the contract of a policy forbids, with whatever effect.
    """

    fault: str
    policy: str
    strength: str
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: str = ""
    breaks_contract: bool = False

    @property
    def is_harmful(self) -> bool:
        """Whether it must be refused."""
        return any(least >= HARMFUL for least, _ in self.figures.values())

    @property
    def is_harmless(self) -> bool:
        """Whether it must pass."""
        return all(most <= HARMLESS for _, most in self.figures.values()) and not self.breaks_contract

    def __str__(self) -> str:
        found = ", ".join(f"{gate} {least:.3g} to {most:.3g}" for gate, (least, most) in self.figures.items())
        return f"{self.fault} in {self.policy} ({self.strength}): {found} of the limit; {self.refused or 'passed'}"
