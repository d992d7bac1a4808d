"""Fibottention and Castling attention as visual encoders for video classifiers and robot policies."""

from pathlib import Path

__version__ = "0.1.0"

if Path(__file__).with_name("video").is_file():  # git without links leaves text files in their place
    raise ImportError(
        "This checkout has no symbolic links: run `git config core.symlinks true && git checkout -- .` "
        "(on Windows, in developer mode), or install the wheel."
    )
