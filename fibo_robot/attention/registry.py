"""Attentions by name, and how a config says which one it wants."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fibo_robot import plugins
from fibo_robot.attention.comparators import COMPARATORS
from fibo_robot.attention.cores import Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule, CastlingAttention, Fibottention, SoftmaxAttention
from fibo_robot.errors import did_you_mean

ATTENTIONS: dict[str, type[AttentionModule]] = {
    module.name: module for module in (SoftmaxAttention, Fibottention, CastlingAttention, *COMPARATORS)
}


@dataclass(frozen=True)
class AttentionConfig:
    """One attention and its options.

    Attributes:
        name: a key of :data:`ATTENTIONS`.
        options: that attention's options dataclass.
    """

    name: str
    options: Any

    @classmethod
    def parse(cls, attention: "str | Mapping[str, Any] | AttentionConfig") -> "AttentionConfig":
        """Read `"fibottention"` or `{"name": "fibottention", "rule": "modified"}`.

        Raises:
            AttentionError: for an unknown name or option, naming the nearest known one.
        """
        if isinstance(attention, AttentionConfig):
            return attention
        values = {"name": attention} if isinstance(attention, str) else dict(attention)
        if "name" not in values:
            raise AttentionError(f"An attention needs a name: one of {', '.join(sorted(ATTENTIONS))}.")
        name = values.pop("name")
        if (
            name not in ATTENTIONS
            and (plugin := plugins.load_plugin(plugins.ATTENTIONS, str(name))) is not None
        ):
            ATTENTIONS[name] = plugin
        if name not in ATTENTIONS:
            raise AttentionError(
                f"There is no attention named {name!r}. {did_you_mean(str(name), ATTENTIONS)}"
            )
        options_type = ATTENTIONS[name].core_type.options_type
        known = [field.name for field in fields(options_type)]
        for option in values:
            if option not in known:
                hint = did_you_mean(option, known) or "It takes no options."
                raise AttentionError(f"{name} has no option {option!r}. {hint}")
        return cls(name, options_type(**values))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict with every option written out; :meth:`parse` reads it back."""
        return {"name": self.name, **asdict(self.options)}

    @property
    def module_type(self) -> type[AttentionModule]:
        """The module class of this attention."""
        return ATTENTIONS[self.name]


def create_attention(
    attention: str | Mapping[str, Any] | AttentionConfig,
    dim: int,
    num_heads: int,
    *,
    layer_index: int,
    num_prefix_tokens: int,
    grid: Grid | None = None,
    qkv_bias: bool = True,
    proj_drop: float = 0.0,
) -> AttentionModule:
    """Build one placed attention module `(B, N, dim) -> (B, N, dim)`.

    Args:
        attention: name, mapping or config; see :meth:`AttentionConfig.parse`.
        dim: width of tokens.
        num_heads: heads.
        layer_index: 0-based index of the layer (Fibottention permutes its heads by it).
        num_prefix_tokens: tokens before the first patch.
        grid: patch tokens as (T, H, W).
        qkv_bias: bias in the q, k, v projection.
        proj_drop: dropout after the output projection.

    Raises:
        AttentionError: naming what does not fit.
    """
    config = AttentionConfig.parse(attention)
    return config.module_type(
        dim,
        num_heads,
        qkv_bias=qkv_bias,
        proj_drop=proj_drop,
        options=config.options,
        layer_index=layer_index,
        num_prefix_tokens=num_prefix_tokens,
        grid=grid,
    )
