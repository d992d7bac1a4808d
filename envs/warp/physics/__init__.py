"""The worlds on the device: physics, controller, and what differs from world to world."""
