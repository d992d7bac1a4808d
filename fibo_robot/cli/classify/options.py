"""Options that `fibo classify` and `fibo video-test` share."""

from enum import StrEnum
from typing import Annotated

import typer


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"

    def name_for_torch(self) -> str:
        """`cpu` or `cuda`; `auto` is the GPU where there is one."""
        import torch

        if self is Device.AUTO:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.value


DeviceOption = Annotated[Device, typer.Option("--device", help="Where the model runs.")]

# 1 is an error that stops the work and 2 a mistyped command; so a file that fails is 3.
SOME_FILES_FAILED = 3
