"""Models without a common base: permutation symmetries, traced, and the alignment."""
