"""Labels of a downstream task: what a site's experts marked on its images."""

from dataclasses import dataclass
from typing import Literal

#: Segmentation: a class per pixel. Classification: each class is present in a slice or not.
TaskKind = Literal["segmentation", "classification"]
#: Pixel of a label map that nobody labelled; losses and metrics leave it out.
UNLABELLED = -1


@dataclass(frozen=True)
class TaskLabels:
    """Kind and classes of the labels of a site, the same at all sites of a federation.

    :attr:`Sample.label` of a segmentation is a label map: 0 is the background, ``classes[k - 1]`` has the value k, and
    :data:`UNLABELLED` marks pixels without a label. That of a classification has a number per class: 1 present, 0
    absent, NaN unknown. A segmentation of no class is the task of a head that learns no labels: it has one output.
    """

    kind: TaskKind
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or (self.kind == "classification" and not self.classes):
            raise ValueError(f"TaskLabels: classes are {self.classes}, expected at least one, each once")

    @property
    def outputs(self) -> int:
        """Channels or numbers that a head returns: background and classes of a segmentation, else classes."""
        return len(self.classes) + (self.kind == "segmentation")
