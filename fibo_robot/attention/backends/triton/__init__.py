"""Compiled by Triton: sparse diagonal attention on a GPU."""
