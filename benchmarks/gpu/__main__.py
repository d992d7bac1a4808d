"""`fibo bench gpu` as plain lines, for machines without the command's packages."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fibo_robot.benchmarks.gpu.plan import run
from fibo_robot.benchmarks.gpu.summary import lines, verdict
from fibo_robot.errors import FiboError


def main(arguments: Sequence[str] | None = None) -> None:
    """Check and time the kernels on one NVIDIA GPU; writes one JSON file per part into a folder."""
    parser = argparse.ArgumentParser(prog="python -m fibo_robot.benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no case later than this")
    parser.add_argument("--json", type=Path, required=True, metavar="DIR", help="folder for the results")
    given = parser.parse_args(arguments)
    try:
        results = run(given.json, given.minutes, say=lambda line: print(line, flush=True))
    except FiboError as error:
        parser.exit(1, f"{error}\n")
    print("\n".join(lines(results)))
    sys.exit(verdict(results))


if __name__ == "__main__":
    main()
