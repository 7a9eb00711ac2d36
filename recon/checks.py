"""Check the properties that every part of a reconstruction must have, on a small example of each modality."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .data import Sample, TaskLabels, collate
from .modalities import MODALITIES, Modality
from .networks import ConvRegularizer, GradientStep, Regularizer, SiteDataConsistency, TwinNetwork, UnrolledNetwork
from .tasks import TASK_LOSSES, TaskNetwork, UNetHead, make_head
from .training import RoundStart, Supervised, TaskTerm, train_locally, watching

#: Labels of the examples of heads and their objectives.
_LABELS = TaskLabels("segmentation", ("object",))


class PartError(AssertionError):
    """A part violates a property; the message says which."""


def check_regularizer(make: Callable[[], Regularizer]) -> None:
    """Check shapes, dtypes, batches, empty images, state, gradients, and that it learns one slice of each modality."""
    regularizer = _perturbed(make())
    generator = torch.Generator().manual_seed(0)
    n_axes = regularizer.image_axes
    for shape in ((13, 10), (2, 16, 16), (2, 3, 9, 12)):
        shape = (*shape[:-2], *([3] * (n_axes - 2)), *shape[-2:])
        x = torch.randn(shape, dtype=torch.complex64, generator=generator)
        for image in (x, x.real.contiguous()):
            out = regularizer(image)
            _require(out.shape == image.shape and out.dtype == image.dtype, "returns an image of shape and dtype of x")
            _require(bool(out.isfinite().all()), "returns finite numbers")
        each = torch.stack([regularizer(sample) for sample in x.reshape(-1, *shape[-n_axes:])]).reshape(shape)
        _require(torch.allclose(regularizer(x), each, atol=1e-4), "treats the samples of a batch one by one")
    _check_state(regularizer)
    empty = torch.zeros(*([3] * (n_axes - 2)), 8, 8)
    _check_gradients(regularizer, regularizer(empty).square().sum(), every=False)
    _check_gradients(regularizer, (regularizer(x) - x).abs().square().sum(), every=True)
    for modality in MODALITIES.values():
        network = UnrolledNetwork(2, GradientStep, make)
        sample = modality.example(0)
        losses = train_locally(network, [sample], steps=30, batch_size=1, learning_rate=3e-3).losses
        trains = any(parameter.requires_grad for parameter in network.regularizers.parameters())
        _require(not trains or min(losses[-5:]) < losses[0], f"learns one slice of {modality.title}")


def check_data_consistency(make: Callable[[], SiteDataConsistency]) -> None:
    """Check shapes, empty slices, state and gradients on every modality that it is made for, at least one."""
    served, refused = 0, ""
    for modality in MODALITIES.values():
        batch, layer = modality.batch(), make()
        A, y = batch.operator, batch.measurement
        x = A.start(y)
        try:
            out = layer(x, y, A)
        except TypeError as error:
            refused = str(error)
            continue
        served += 1
        _require(out.shape == x.shape and out.dtype == x.dtype, "returns an image of shape and dtype of x")
        _require(bool(out.isfinite().all()), "returns finite numbers")
        network = _perturbed(UnrolledNetwork(2, make, lambda: ConvRegularizer(4, 2)))
        _check_state(network)
        _check_gradients(network, network(0 * y, A).abs().sum(), every=False)
        _check_gradients(network, network(y, A).abs().square().sum(), every=False)
    _require(served > 0, f"takes the operators of a modality ({refused})")


def check_task(task: TaskTerm) -> None:
    """Check that it gives a finite loss with its image, by its generator alone, and trains the network."""
    for modality in MODALITIES.values():
        batch, network = modality.batch(), _network()
        trained: Any = TwinNetwork(network, _network()) if getattr(task, "needs_twin", False) else network
        if getattr(task, "needs_head", False):
            if batch.target().ndim > 3:
                continue  # heads read 2-D images
            labels = TaskLabels("segmentation", ()) if _trains_head_alone(task) else _LABELS
            batch, trained = _labelled(batch), TaskNetwork(network, UNetHead(labels.outputs, 4, 1), labels)
        (loss, image), (again, _) = (task(trained, batch, torch.Generator().manual_seed(1)) for _ in range(2))
        _require(loss.ndim == 0 and bool(loss.isfinite()), "returns a finite loss")
        _require(
            tuple(image.shape) == (len(batch.meta), *batch.operator.domain_shape), "returns the image of the batch"
        )
        _require(torch.equal(loss, again), "draws from its generator alone")
        _check_gradients(trained.head if _trains_head_alone(task) else trained, loss, every=True)


def _trains_head_alone(task: TaskTerm) -> bool:
    return bool(getattr(task, "trains_head_alone", False))


def check_task_head(name: str, **options: Any) -> None:
    """Check shapes, batches, empty images, state, gradients, and that it learns two images."""
    for labels in (_LABELS, TaskLabels("classification", ("object",))):
        torch.manual_seed(0)
        try:
            head = make_head(name, labels, options)
        except ValueError as error:
            refused = str(error)
            continue
        break
    else:
        raise PartError(f"expected a part that can be made ({refused})")
    head.eval()  # without dropout
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 1, 33, 26), (2, 1, 32, 40)):
        images = torch.rand(shape, generator=generator)
        expected = (shape[0], labels.outputs, *(shape[2:] if labels.kind == "segmentation" else ()))
        _require(head(images).shape == expected, "returns logits for every pixel or image")
        _require(bool(head(0 * images).isfinite().all()), "returns finite numbers")
    each = torch.cat([head(image[None]) for image in images])
    _require(torch.allclose(head(images), each, atol=1e-4), "treats the images of a batch one by one")
    _check_state(head)
    _require(not any("BatchNorm" in type(module).__name__ for module in head.modules()), "has no batch normalization")
    images[1, :, 10:22, 12:24] += 1
    label = (images[:, 0] > 1).long() if labels.kind == "segmentation" else torch.tensor([[0.0], [1.0]])
    loss = next(iter(TASK_LOSSES[labels.kind].values()))
    _check_gradients(head, loss(head(images), label), every=True)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(head(images), label)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    _require(min(losses[-5:]) < 0.7 * losses[0], "learns two images")


def check_penalty(kind: Any, **options: Any) -> None:
    """Check that a class of penalties acts in the second round: it changes the gradient, and shrinks along it."""
    for modality in MODALITIES.values():
        batch, network = modality.batch(), _network(error_bars=True)  # what a penalty may act on
        samples = [modality.example(seed) for seed in range(2)]
        shared = {name: parameter.detach() + 0.05 for name, parameter in network.named_parameters()}
        previous = {name: parameter.detach() - 0.02 for name, parameter in network.named_parameters()}
        measured = kind.measure(network, samples, **options)
        layout = {name: tensor.shape for name, tensor in kind.sends(network, **options).items()}
        _require(layout == {name: tensor.shape for name, tensor in measured.items()}, "measures what it says it sends")
        received = {name: 0.5 * tensor for name, tensor in measured.items()}
        at = RoundStart(_network(1, error_bars=True), shared, previous, received, round=1)
        penalty = kind.for_round(0.1, at, **options)
        _require(penalty is not None, "acts in the second round")
        task, generator = Supervised(), torch.Generator()
        values = []
        for _ in range(2):
            with watching(network, [penalty]):
                image = task(network, batch, generator)[1]
                value = penalty(network, batch, image)
            real = value.ndim == 0 and not value.is_complex()
            _require(real and bool(value.isfinite()), "returns a finite number")
            values.append(float(value.detach()))
            parameters = [p for p in network.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            slopes = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
            size = torch.cat([slope.flatten() for slope in slopes]).norm()
            _require(bool(size > 0), "changes the gradient")
            with torch.no_grad():
                for p, slope in zip(parameters, slopes, strict=True):
                    p.sub_(1e-3 * slope / size)
        _require(values[1] < values[0], "becomes smaller along its gradient")


def check_classical(make: Callable[[], nn.Module], modality: Modality) -> None:
    """Check shapes, an empty slice beside a full one, and that the image scales with the measurement."""
    batch, method = modality.batch(), make()
    y = batch.measurement.clone()
    y[0] = 0
    image = method(y, batch.operator)
    _require(tuple(image.shape) == (len(y), *batch.operator.domain_shape), "returns the image of the batch")
    _require(bool(image.isfinite().all()) and not bool(image[0].any()), "returns zeros for an empty slice")
    scaled = method(1e3 * y, batch.operator) / 1e3
    _require(torch.allclose(scaled, image, atol=1e-2 * float(image.abs().max())), "scales with the measurement")


def check_reader(name: str, modality: Modality, path: Path, **options: Any) -> None:
    """Check that a reader gives volumes that can be read, pickled and made into samples, from an example file."""
    volume = modality.open(path, name, **options)
    slices = [volume.read_slice(index) for index in range(volume.shape[0])]
    _require(all(tuple(part.shape) == tuple(volume.shape[1:]) for part in slices), "reads slices of the shape it says")
    _require(bool(volume.description) and volume.path == path, "describes its file")
    again = pickle.loads(pickle.dumps(volume)).read_slice(0)
    _require(torch.equal(again, slices[0]), "can be sent to another process")
    sample = modality.slices([path], "site", format=name, **options)[0]
    batch = collate([sample])
    _require(batch.measurement.dtype in (torch.float32, torch.complex64), "makes samples in single precision")
    predicted = batch.operator(batch.operator.start(batch.measurement))
    _require(predicted.shape == batch.measurement.shape, "makes samples whose operator fits the measurement")


def _labelled(batch: Sample) -> Sample:
    """A batch whose bright pixels are the object."""
    target = batch.target()
    return replace(batch, label=(target > 0.5 * target.amax((-2, -1), keepdim=True)).long())


def _network(seed: int = 0, error_bars: bool = False) -> UnrolledNetwork:
    torch.manual_seed(seed)
    network = UnrolledNetwork(2, lambda: GradientStep(0.7), lambda: ConvRegularizer(4, 3), error_bars=error_bars)
    _perturbed(network)
    return network


def _perturbed(module: Any) -> Any:
    """Residual branches start at zero: random numbers there, so that every parameter counts."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def _check_state(module: nn.Module) -> None:
    parameters = dict(module.named_parameters())
    _require(module.state_dict().keys() == parameters.keys(), "has no state but parameters")
    _require(all(p.dtype.is_floating_point for p in parameters.values()), "has real floating-point parameters")


def _check_gradients(module: nn.Module, value: Tensor, *, every: bool) -> None:
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not names or (not every and not value.requires_grad):
        return
    _require(value.requires_grad, f"uses {names[0]}")
    parameters = [dict(module.named_parameters())[name] for name in names]
    for name, gradient in zip(names, torch.autograd.grad(value, parameters, allow_unused=True), strict=True):
        _require(gradient is None or bool(gradient.isfinite().all()), f"has a finite gradient of {name}")
        _require(not every or (gradient is not None and bool(gradient.any())), f"uses {name}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise PartError(f"expected a part that {what}")
