"""Demonstrations in LeRobot's dataset format v3, read and written without LeRobot."""
