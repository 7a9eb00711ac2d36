"""Heads of downstream tasks: an image in, logits of a label map or of classes out."""

import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physics import Registry

from ..data import TaskKind, TaskLabels


class UNetHead(nn.Module):
    """Small U-Net with group normalization for any image size.

    Parameters
    ----------
    outputs
        Channels of the logits.
    channels
        Channels at full resolution; doubled at every level.
    depth
        Number of times the resolution is halved, at least 1.
    """

    kind: ClassVar[TaskKind] = "segmentation"

    def __init__(self, outputs: int, channels: int = 16, depth: int = 3) -> None:
        super().__init__()
        _require_size("UNetHead", channels, depth)
        widths = [channels * 2**level for level in range(depth + 1)]
        self.levels = depth
        self.first = _block(1, channels)
        self.down = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise(widths))
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_block(2 * a, a) for a in widths[:-1])
        self.last = nn.Conv2d(channels, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, outputs, height, width)`` of images ``(batch, 1, height, width)``."""
        height, width = images.shape[-2:]
        multiple = 2**self.levels
        # Pad with zeros to the next multiple; the padding is cut off below.
        features = [self.first(F.pad(images, (0, -width % multiple, 0, -height % multiple)))]
        for block in self.down:
            features.append(block(F.max_pool2d(features[-1], 2)))
        x = features.pop()
        for level in reversed(range(self.levels)):
            x = F.interpolate(self.reduce[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat((x, features.pop()), dim=1))
        out: Tensor = self.last(x)[..., :height, :width]
        return out


class ConvClassifier(nn.Module):
    """Blocks of two convolutions with pooling between them, then the mean and maximum of every feature.

    The maximum finds what is small, such as a lesion; the mean what is spread out.

    Parameters
    ----------
    outputs
        Number of logits.
    channels
        Channels of the first block; doubled from block to block.
    depth
        Number of times the resolution is halved, at least 1.
    """

    kind: ClassVar[TaskKind] = "classification"

    def __init__(self, outputs: int, channels: int = 16, depth: int = 3) -> None:
        super().__init__()
        _require_size("ConvClassifier", channels, depth)
        widths = [1] + [channels * 2**level for level in range(depth + 1)]
        self.blocks = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise(widths))
        self.last = nn.Linear(2 * widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, outputs)`` of images ``(batch, 1, height, width)``."""
        x = images
        for level, block in enumerate(self.blocks):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
        out: Tensor = self.last(torch.cat((x.mean((-2, -1)), x.amax((-2, -1))), dim=1))
        return out


class TorchvisionHead(nn.Module):
    """A network of torchvision for gray images, without pretrained weights; batch normalization is replaced.

    Every ``BatchNorm2d`` becomes a ``GroupNorm``: averaged running statistics of sites that differ fit none of them.

    Parameters
    ----------
    name
        Name in :mod:`torchvision.models` or :mod:`torchvision.models.segmentation`.
    outputs
        Number or channels of the logits.
    """

    def __init__(self, name: str, kind: TaskKind, outputs: int) -> None:
        super().__init__()
        from torchvision.models import get_model  # takes a second to import

        self.kind = kind
        # A backbone would be loaded from the network by default.
        backbone = {"weights_backbone": None} if kind == "segmentation" else {}
        self.network = get_model(name, weights=None, num_classes=outputs, **backbone)
        _without_batch_norm(self.network)
        _with_one_channel(self.network)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``(batch, 1, height, width)``."""
        found: Tensor | Mapping[str, Tensor] = self.network(images)
        return found if isinstance(found, Tensor) else found["out"]


def _torchvision(name: str, kind: TaskKind) -> Any:
    return partial(TorchvisionHead, name, kind)


#: Heads by the name used in recipes; all options but ``outputs``, which the labels decide, are ``task.head_options``.
TASK_HEADS: Registry[nn.Module] = Registry("task head", {
    "unet": UNetHead,
    "lraspp_mobilenet_v3_large": _torchvision("lraspp_mobilenet_v3_large", "segmentation"),
    "cnn_classifier": ConvClassifier,
    "resnet18": _torchvision("resnet18", "classification"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small", "classification"),
})  # fmt: skip
#: The head to name where another one does not fit.
_USUAL: dict[TaskKind, str] = {"segmentation": "unet", "classification": "cnn_classifier"}


def make_head(name: str, labels: TaskLabels, options: Mapping[str, Any]) -> nn.Module:
    """The head of a task, initialized from torch's global generator.

    Parameters
    ----------
    name
        A name in :data:`TASK_HEADS`.

    Raises
    ------
    ValueError
        If an option is unknown or out of range, or the head is of another kind of task.
    """
    head = TASK_HEADS.make(name, {"outputs": labels.outputs, **options}, "head_options")
    if (kind := getattr(head, "kind", None)) != labels.kind:
        expected = f"a head for {labels.kind}, such as {_USUAL[labels.kind]!r}"
        raise ValueError(f"head: found {name!r}, a head for {kind or 'no kind of task'}, expected {expected}")
    return head


def _require_size(who: str, channels: int, depth: int) -> None:
    if channels < 1 or depth < 1:
        raise ValueError(f"{who}: channels is {channels}, depth {depth}, expected at least 1 each")


def _block(n_in: int, n_out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with group normalization and ReLU."""
    layers: list[nn.Module] = []
    for width in (n_in, n_out):
        layers += [nn.Conv2d(width, n_out, 3, padding=1), _group_norm(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def _without_batch_norm(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _group_norm(child.num_features))


def _with_one_channel(network: nn.Module) -> None:
    """Replace the first convolution, of three colors, by one of gray values."""
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, leaf = name.rpartition(".")
    padding: Any = first.padding
    kernel: Any = first.kernel_size
    stride: Any = first.stride
    gray = nn.Conv2d(1, first.out_channels, kernel, stride, padding, bias=first.bias is not None)
    setattr(network.get_submodule(parent), leaf, gray)
