"""Pictures by MuJoCo Warp's ray renderer, of one world or of many."""
