"""Simulated tasks, demonstrations, rollouts and their statistics."""
