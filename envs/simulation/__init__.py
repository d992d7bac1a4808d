"""One simulated world: robosuite's environments as ours, their objects' state, and pictures of them."""
