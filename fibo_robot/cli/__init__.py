"""The `fibo` command: one module per subcommand, each thin (parse, call, print)."""
