"""What changing a model's attention reports."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerSwap:
    """What happened to one attention layer.

    Attributes:
        path: where it stands in the model, as `blocks.3.attn`.
        before, after: class names; on Hugging Face models the attention's name in brackets.
        kept: names of the weights that both have; they are the same tensors.
        new: names of the weights that only the new attention has; freshly initialised.
        dropped: names of the weights that only the old attention had.
    """

    path: str
    before: str
    after: str
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    @classmethod
    def between(
        cls, path: str, before: str, after: str, old_weights: list[str], new_weights: list[str]
    ) -> "LayerSwap":
        """Compare the names of the weights before and after."""
        return cls(
            path=path,
            before=before,
            after=after,
            kept=tuple(key for key in new_weights if key in old_weights),
            new=tuple(key for key in new_weights if key not in old_weights),
            dropped=tuple(key for key in old_weights if key not in new_weights),
        )


@dataclass
class SwapReport:
    """The layers that `swap_attention` changed; `restore()` puts the old attention back."""

    layers: list[LayerSwap]
    _undo: Callable[[], None] = field(repr=False)

    def restore(self) -> None:
        """Put the former attention back; weights that both share keep their present values."""
        self._undo()

    def __str__(self) -> str:
        lines = [
            f"{layer.path}: {layer.before} -> {layer.after}, kept {len(layer.kept)} weights"
            + (f", new {', '.join(layer.new)}" if layer.new else "")
            + (f", dropped {', '.join(layer.dropped)}" if layer.dropped else "")
            for layer in self.layers
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class CastleReport:
    """What castling changed.

    Attributes:
        layers: paths of the attention layers whose branch is now off.
        branch_scale: the largest scale that a branch had before.
        mass_passed: per layer, the share of softmax mass that its branch passed on the example, whatever its
            scale; 0 where the branch was off already.
        output_gap: largest absolute difference that the branch made to the model's output on the example.
        relative_gap: norm of that difference over the norm of the castled output.
    """

    layers: tuple[str, ...]
    branch_scale: float
    mass_passed: tuple[float, ...]
    output_gap: float
    relative_gap: float
