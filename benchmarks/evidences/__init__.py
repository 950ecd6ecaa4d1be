"""One file an evidence; see ``benchmarks/evidence.py`` for what a file defines."""
