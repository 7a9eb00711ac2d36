"""Networks of torchvision as heads: gray images, no batch normalization, weights of a file."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data import TaskKind
from .norms import ChannelAffine, group_norm

State = Mapping[str, Tensor]


class TorchvisionHead(nn.Module):
    """A network of torchvision for gray images; batch normalization is replaced.

    Averaged running statistics of sites that differ fit none of them.

    Parameters
    ----------
    name
        Name in :mod:`torchvision.models` or :mod:`torchvision.models.segmentation`.
    outputs
        Number or channels of the logits.
    norm
        What replaces each ``BatchNorm2d``. ``"group"``: a ``GroupNorm``. ``"affine"``: a scale and a shift of every
        channel, as batch normalization is with running statistics that stay as they are. Trained weights of
        torchvision need it.
    """

    def __init__(self, name: str, kind: TaskKind, outputs: int, norm: Literal["group", "affine"] = "group") -> None:
        super().__init__()
        from torchvision.models import get_model  # takes a second to import

        if norm not in ("group", "affine"):
            raise ValueError(f"TorchvisionHead: norm is {norm!r}, expected 'group' or 'affine'")
        self.kind = kind
        # A backbone would be loaded from the network by default.
        backbone = {"weights_backbone": None} if kind == "segmentation" else {}
        self.network = get_model(name, weights=None, num_classes=outputs, **backbone)
        _replace_batch_norm(self.network, norm)
        self._first = _use_gray_images(self.network)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``(batch, 1, height, width)``."""
        found: Tensor | Mapping[str, Tensor] = self.network(images)
        return found if isinstance(found, Tensor) else found["out"]

    def own_state(self, state: State) -> dict[str, Tensor]:
        """Parameters of this head from a state dict of the same network in torchvision.

        The first convolution is summed over its three colors, as for a gray image in all three. Running statistics
        become scale and shift: :math:`w / \\sqrt{v + \\epsilon}` and :math:`b - m w / \\sqrt{v + \\epsilon}`.

        Raises
        ------
        ValueError
            If it has running statistics and ``norm`` is ``"group"``, which computes something else.
        """
        found = {f"network.{name}": tensor for name, tensor in state.items()}
        means = sorted(name.removesuffix(".running_mean") for name in found if name.endswith(".running_mean"))
        for name in means:
            norm = dict(self.named_modules()).get(name)
            if not isinstance(norm, ChannelAffine):
                stated = f"running statistics of batch normalization, {name.removeprefix('network.')}.running_mean"
                raise ValueError(f"found {stated}, expected none; set task.head_options = {{norm = 'affine'}}")
            mean, variance = found.pop(f"{name}.running_mean"), found.pop(f"{name}.running_var")
            found.pop(f"{name}.num_batches_tracked", None)
            scale = found[f"{name}.weight"] * torch.rsqrt(variance + norm.eps)
            found[f"{name}.weight"], found[f"{name}.bias"] = scale, found[f"{name}.bias"] - mean * scale
        first = f"network.{self._first}.weight"
        if first in found and found[first].ndim == 4 and found[first].shape[1] == 3:
            found[first] = found[first].sum(1, keepdim=True)
        return found


def _replace_batch_norm(network: nn.Module, norm: str) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                affine = norm == "affine"
                new = ChannelAffine(child.num_features, child.eps) if affine else group_norm(child.num_features)
                setattr(module, name, new)


def _use_gray_images(network: nn.Module) -> str:
    """Replace the first convolution, of three colors, by one of gray values; returns its name."""
    name: str
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, leaf = name.rpartition(".")
    padding: Any = first.padding
    kernel: Any = first.kernel_size
    stride: Any = first.stride
    gray = nn.Conv2d(1, first.out_channels, kernel, stride, padding, bias=first.bias is not None)
    setattr(network.get_submodule(parent), leaf, gray)
    return name
