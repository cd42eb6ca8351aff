"""Profiles: the kernels, memory and counters of one case, and what follows from them."""
