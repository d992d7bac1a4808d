"""Compiled by numba: the attentions on a CPU."""
