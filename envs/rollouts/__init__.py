"""Rolling a policy out: engines that run one episode per seed, and the log that lets a run resume."""
