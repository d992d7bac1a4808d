"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest
import torch

# A shell that starts the tests in the background has SIGINT ignored, and with it the commands that tests
# interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample data beside the checkout (or at FIBO_TEST_DATA); tests skip without it."""
    folder = Path(os.environ.get("FIBO_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"sample data not found at {folder}; set FIBO_TEST_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
