"""Statistics that know nothing of benchmarks: percentiles and their bounds, permutation tests, the bootstrap."""
