"""Off-screen pictures of a MuJoCo scene, by OpenGL or by MuJoCo Warp."""
