"""Chunks from noise or from nothing, in one pass or several: an objective, a network and a sampler."""
