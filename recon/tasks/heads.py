"""Heads of downstream tasks: an image in, logits of a label map or of classes out."""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physics import Registry

from ..data import TaskKind, TaskLabels
from .norms import group_norm
from .torchvision_head import TorchvisionHead


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
        widths = [channels * 2**level for level in range(depth + 1)]
        # Names of the encoder as in `UNetHead`: its weights start this one.
        self.first = _block(1, channels)
        self.down = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise(widths))
        self.last = nn.Linear(2 * widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, outputs)`` of images ``(batch, 1, height, width)``."""
        x = self.first(images)
        for block in self.down:
            x = block(F.max_pool2d(x, 2, ceil_mode=True))
        out: Tensor = self.last(torch.cat((x.mean((-2, -1)), x.amax((-2, -1))), dim=1))
        return out


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
        layers += [nn.Conv2d(width, n_out, 3, padding=1), group_norm(n_out), nn.ReLU()]
    return nn.Sequential(*layers)
