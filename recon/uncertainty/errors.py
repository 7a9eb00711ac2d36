"""Errors and half-widths of a network with error bars, person by person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data import Sample, Samples, collate, doing, made
from ..errors import DataError
from ..method import apply, to_device_of
from ..networks import recorded_half_widths

Values = npt.NDArray[np.float64]

#: Factors of half-widths at which coverage is counted, sixteen per octave.
FACTORS: Values = 2.0 ** np.linspace(-18, 10, 449)
#: Groups of pixels by half-width, for the curve of error against half-width.
_GROUPS = 10
#: Pixels brighter than this part of the brightest one belong to the object.
_OBJECT = 0.05


def object_of(images: Tensor) -> Tensor:
    """Pixels of the object, bool: brighter than a twentieth of the brightest pixel of the slice.

    Known without a reference, so that training, calibration and use count the same pixels.

    Parameters
    ----------
    images
        Displayed images, ``(..., height, width)``.
    """
    return images > _OBJECT * images.amax((-2, -1), keepdim=True)


@dataclass(frozen=True, eq=False)
class RegionErrors:
    """Errors and half-widths before calibration, of one person in one region.

    Parameters
    ----------
    covered, covered_by_constant
        For every factor: part of the pixels whose error is at most the factor times the half-width, or times one.
    half_width
        Mean half-width.
    """

    covered: Values
    covered_by_constant: Values
    half_width: float

    @classmethod
    def of(cls, errors: Values, widths: Values) -> "RegionErrors":
        """From the values of some pixels, in parts of the brightest one."""
        return cls(_covered(errors / widths), _covered(errors), float(widths.mean()))


@dataclass(frozen=True, eq=False)
class PersonErrors:
    """Errors of one person in the object and in the whole image, in parts of the brightest pixel of the references.

    ``groups`` are mean half-width and mean error in the object of ten groups of pixels by half-width, ``(2, 10)``.
    """

    inside: RegionErrors
    image: RegionErrors
    groups: Values


def errors_by_person(
    network: nn.Module, samples: Samples, people: Mapping[str, Sequence[int]]
) -> dict[str, PersonErrors]:
    """Errors and half-widths of a network with error bars.

    Parameters
    ----------
    samples
        Slices with references.
    people
        Numbers of the slices of every person.

    Raises
    ------
    DataError
        If a slice has no reference, or a person's slices hold no object.
    ValueError
        If the network has no error bars.
    """
    network.eval()
    found = {}
    done = 0
    with torch.no_grad(), doing("error bars of slices,", sum(map(len, people.values()))):
        for person, numbers in people.items():
            errors, widths, objects, brightest = list[Tensor](), list[Tensor](), list[Tensor](), 0.0
            for number in numbers:
                sample = samples[number]
                image, half_width = with_half_width(network, sample)
                if sample.reference is None:
                    found_, expected = "no reference", "one, to calibrate error bars"
                    raise DataError(f"{sample.meta[0].volume}: found {found_}, expected {expected}; list other files")
                target = sample.target()
                errors.append((image - target).abs().flatten())
                widths.append(half_width.flatten())
                objects.append(object_of(image).flatten())
                brightest = max(brightest, float(target.max()))
                done += 1
                made(done)
            found[person] = _person(person, torch.cat(errors), torch.cat(widths), torch.cat(objects), brightest)
    return found


def with_half_width(network: nn.Module, sample: Sample) -> tuple[Tensor, Tensor]:
    """Displayed image of a slice and its half-width before calibration, ``(height, width)``, in scaled units.

    Raises
    ------
    ValueError
        If the network has no error bars.
    """
    batch = to_device_of(network, collate([sample]))
    with recorded_half_widths(network) as found:
        image = batch.magnitude(apply(network, batch))
    device = sample.measurement.device
    return image[0].to(device), batch.magnitude(found[-1])[0].to(device)


def _person(name: str, errors: Tensor, widths: Tensor, objects: Tensor, brightest: float) -> PersonErrors:
    if not objects.any() or brightest <= 0:
        raise DataError(f"{name}: its images hold no pixel of an object, expected some; leave its files out")
    e, w = (values.double().numpy() / brightest for values in (errors, widths))
    inside = objects.numpy()
    order = np.argsort(w[inside], kind="stable")
    parts = np.array_split(order, min(_GROUPS, len(order)))
    groups = np.array([[values[inside][part].mean() for part in parts] for values in (w, e)])
    return PersonErrors(RegionErrors.of(e[inside], w[inside]), RegionErrors.of(e, w), groups)


def _covered(ratios: Values) -> Values:
    """Part of the ratios that is at most each factor."""
    return np.searchsorted(np.sort(ratios), FACTORS, side="right") / len(ratios)
