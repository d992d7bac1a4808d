"""Our encoders and policies inside other libraries, and theirs inside ours."""
