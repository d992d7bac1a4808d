"""`fibo bench attention` as plain lines, for machines without the command's packages."""

from fibo_robot.benchmarks.attention.sweep import main

if __name__ == "__main__":
    main()
