"""The section of a recipe that trains the head of a downstream task."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from recon import TASK_HEADS, TASK_LOSSES, HeadInput, TaskLabels

from ..config import Names, Section, one_of
from .recipe_schema import NetworkSection, ObjectiveSection, Options, ScopeSection

#: Names of the objectives that train a head: on labels, or without to fill hidden patches.
DOWNSTREAM, MASKED_IMAGES = "downstream", "masked_images"
#: The reconstruction network in the scope of a recipe that does not train it.
FROZEN = "reconstruction.*"
#: Penalties on parameters; the others need an image that trains.
_ON_PARAMETERS = ("proximal", "contrastive")


class HeadSection(Section):
    """The head behind the reconstruction network, the labels that it learns, and what it reads in training.

    The head has the parameters ``head.*``, the network ``reconstruction.*``. The labels are those of ``[task]`` in the
    manifests of all sites, see :class:`recon.TaskLabels`; a head of the kind ``pretraining`` learns none.
    """

    kind: Literal["segmentation", "classification", "pretraining"]
    classes: Names = ()
    head: Annotated[str, AfterValidator(one_of(TASK_HEADS))] = "unet"
    head_options: Options = Field(default_factory=dict)
    head_weights: str | None = None
    adapter: Literal["none", "lora"] = "none"
    adapter_size: int = Field(default=1, ge=1, le=4096)
    input: HeadInput = "reference"
    loss: str | None = None
    reconstruction_weight: float = Field(default=1.0, ge=0)

    @property
    def labels(self) -> TaskLabels:
        """Kind and classes; those of a head that learns no labels have no class, and one output per pixel."""
        return TaskLabels("segmentation" if self.kind == "pretraining" else self.kind, self.classes)

    @property
    def learns_labels(self) -> bool:
        """Whether the head learns labels, and not to fill hidden patches."""
        return self.kind != "pretraining"

    @property
    def trains_reconstruction(self) -> bool:
        """Whether the gradient of the task reaches the reconstruction network."""
        return self.input == "end_to_end"

    def objective_options(self) -> dict[str, Any]:
        """Arguments of :class:`recon.Downstream` and :class:`recon.MaskedImages`."""
        return {
            "task_loss": self.loss,
            "input": self.input,
            "reconstruction_weight": self.reconstruction_weight,
        }

    @model_validator(mode="after")
    def _possible(self) -> "HeadSection":
        if self.kind == "pretraining":
            if self.classes or self.loss is not None or self.trains_reconstruction:
                found = f"classes {list(self.classes)}, loss {self.loss!r}, input {self.input!r}"
                expected = "no classes, no loss, and input 'reference' or 'reconstruction'"
                raise ValueError(f"kind: found 'pretraining' with {found}, expected {expected}")
        elif not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: found {list(self.classes)}, expected at least one, each once")
        if self.adapter == "none" and self.adapter_size != 1:
            raise ValueError(f"adapter_size: found {self.adapter_size} without adapter, expected one, or leave it out")
        if "outputs" in self.head_options:
            raise ValueError("head_options: found 'outputs', expected none: the classes decide their number")
        if self.loss is not None and self.loss not in TASK_LOSSES[self.labels.kind]:
            expected = f"one of {', '.join(TASK_LOSSES[self.labels.kind])} for {self.kind}"
            raise ValueError(f"loss: found {self.loss!r}, expected {expected}")
        TASK_HEADS.check(self.head, {"outputs": self.labels.outputs, **self.head_options}, "head_options")
        return self


def require_head(
    task: HeadSection | None, network: NetworkSection, objective: ObjectiveSection, scope: ScopeSection
) -> None:
    """Refuse a recipe whose other sections do not fit its head, or that has an objective for a head and none.

    Raises
    ------
    ValueError
        The message begins with the key.
    """
    if (task is None) == (objective.task in (DOWNSTREAM, MASKED_IMAGES)):
        found = "none" if task is None else "one"
        expected = f'both [task] and objective.task = "{DOWNSTREAM}" or "{MASKED_IMAGES}", or neither'
        raise ValueError(f"task: found {found} with objective.task {objective.task!r}, expected {expected}")
    if task is None:
        return
    if objective.task != (usual_task := DOWNSTREAM if task.learns_labels else MASKED_IMAGES):
        found = f"{objective.task!r} with task.kind {task.kind!r}"
        raise ValueError(f"objective.task: found {found}, expected {usual_task!r}")
    for key, value, usual in (
        ("twin", network.twin, False), ("adapter", network.adapter, "none"), ("error_bars", network.error_bars, False)
    ):  # fmt: skip
        if value != usual:
            raise ValueError(f"network.{key}: found {value!r} with [task], expected {usual!r}; train them in turn")
    if DOWNSTREAM in objective.options:
        raise ValueError(f"objective.options.{DOWNSTREAM}: found some, expected none: they are keys of [task]")
    if task.trains_reconstruction:
        return
    if FROZEN not in scope.freeze:
        found, expected = f"{list(scope.freeze)} with task.input {task.input!r}", f'"{FROZEN}": only the head trains'
        raise ValueError(f"scope.freeze: found {found}, expected {expected}")
    if other := [name for name in objective.weights if name not in _ON_PARAMETERS]:
        expected = f"only {' and '.join(_ON_PARAMETERS)}: no image trains"
        raise ValueError(f"objective.{other[0]}: found a weight with task.input {task.input!r}, expected {expected}")
