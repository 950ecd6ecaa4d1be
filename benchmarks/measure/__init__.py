"""Measuring: each candidate in a process of its own, in turns; raw samples come out."""
