"""What is used here of transformers.

Its own package shows a type checker all of its 2,000 modules, which takes nearly as much memory as all the
rest of the check; where memory is short, the check never ends. Submodules resolve to the installed package.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

class PreTrainedModel(nn.Module):
    config: Any
    main_input_name: str
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def set_attn_implementation(self, attn_implementation: str | dict[str, str]) -> None: ...

class AttentionInterface:
    @classmethod
    def register(cls, key: str, value: Callable[..., Any]) -> None: ...

def __getattr__(name: str) -> Any: ...
