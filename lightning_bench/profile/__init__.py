"""Profiles: one case taken apart into kernels, memory and counters, and what that says."""
