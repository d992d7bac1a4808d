"""Hydra config groups, read through pkg://fibo_robot.conf."""
