"""Behaviour-cloning policies: observation encoder, normaliser, heads, training and loading."""

from fibo_robot.policies.load import load_policy

__all__ = ["load_policy"]
