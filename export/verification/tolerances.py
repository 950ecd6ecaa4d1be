"""How far a variant may be from the reference."""

from export.bundle.spreads import measure_spreads

__all__ = ["measure_spreads"]
