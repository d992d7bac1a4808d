"""`python -m fibo_robot.cli` is the `fibo` command."""

from fibo_robot.cli.main import main

main()
