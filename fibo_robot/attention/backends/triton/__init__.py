"""Compiled by Triton: the attentions on a GPU."""
