"""One simulated world: robosuite's environments as ours, rendered, with robomimic's metadata."""
