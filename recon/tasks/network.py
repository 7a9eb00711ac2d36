"""A reconstruction network with the head of a downstream task behind it."""

from torch import Tensor, nn

from physics import LinearOperator, per_sample

from ..data import Sample, TaskLabels
from ..errors import DataError
from ..method import apply, call, image_scale


class TaskNetwork(nn.Module):
    """A reconstruction network whose image a head reads; called as ``network(y, A)`` it returns the image.

    So it is scored, pictured and written to files as every network is; :func:`predictions` gives the logits. The
    parameters are named ``reconstruction.*`` and ``head.*``.

    Parameters
    ----------
    labels
        Kind and classes of the task.
    """

    def __init__(self, reconstruction: nn.Module, head: nn.Module, labels: TaskLabels) -> None:
        super().__init__()
        self.reconstruction, self.head, self.labels = reconstruction, head, labels

    @property
    def uses_condition(self) -> bool:
        """Whether the reconstruction network uses a condition."""
        return bool(getattr(self.reconstruction, "uses_condition", False))

    @property
    def uses_noise(self) -> bool:
        """Whether the reconstruction network uses the noise level."""
        return bool(getattr(self.reconstruction, "uses_noise", False))

    def forward(
        self, y: Tensor, A: LinearOperator, condition: Tensor | None = None, noise_std: Tensor | None = None
    ) -> Tensor:
        """Image of the reconstruction network."""
        return call(self.reconstruction, y, A, condition, noise_std)


def task_network_of(network: nn.Module) -> TaskNetwork | None:
    """The :class:`TaskNetwork` in a network, which may be wrapped; None: it has no head."""
    return next((module for module in network.modules() if isinstance(module, TaskNetwork)), None)


def head_input(magnitudes: Tensor) -> Tensor:
    """What a head reads: magnitude images of a batch, each divided by its robust maximum, as one channel.

    Parameters
    ----------
    magnitudes
        :meth:`Sample.magnitude` of images or :meth:`Sample.target`, ``(batch, height, width)``.

    Raises
    ------
    DataError
        If the images have more axes, such as frames.
    """
    if magnitudes.ndim != 3:
        found = f"images of {magnitudes.ndim - 1} axes"
        raise DataError(f"task: found {found}, expected height and width; heads read 2-D images, leave out such sites")
    return (magnitudes / per_sample(image_scale(magnitudes), 2))[:, None]


def task_input(sample: Sample, image: Tensor) -> Tensor:
    """What a head reads of the images of a batch, ``(batch, 1, height, width)``, see :func:`head_input`."""
    return head_input(sample.magnitude(image))


def predictions(network: TaskNetwork, sample: Sample) -> tuple[Tensor, Tensor]:
    """Image of a batch and logits of the head, ``(batch, outputs, height, width)`` or ``(batch, outputs)``."""
    image = apply(network, sample)
    return image, network.head(task_input(sample, image))


def probabilities(labels: TaskLabels, logits: Tensor) -> Tensor:
    """Probabilities of logits: of one class per pixel in a segmentation, else of every class by itself."""
    return logits.softmax(dim=1) if labels.kind == "segmentation" else logits.sigmoid()


def require_label(sample: Sample) -> Tensor:
    """The labels of a batch.

    Raises
    ------
    DataError
        If it has none.
    """
    if sample.label is None:
        advice = "list the labels under [task] of the manifest, or leave the file out"
        raise DataError(f"{sample.meta[0].volume}: has no label to train on; {advice}")
    return sample.label
