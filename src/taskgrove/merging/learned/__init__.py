"""Merges whose coefficients are learned: one ScaledMerge, several losses."""
