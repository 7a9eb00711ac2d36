"""One call for every reconstruction method: the network of a run, trained weights, or a classical method.

::

    method = federation.load("runs/knee", site="north")
    image = method(kspace, mask)        # arrays
    image = method("scan.h5")           # a file
    image = method(samples[0])          # a sample of recon

Arrays are written to a temporary file first, so that they are read and checked as every scan is.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from physics import per_sample
from recon import (
    MODALITIES,
    STARTER_WEIGHTS,
    DataError,
    ErrorBarCalibration,
    Modality,
    Reconstruction,
    Sample,
    VolumeSlices,
    WeightsFile,
    apply,
    axial_reconstruction,
    data_error,
    doing,
    made,
    reconstruct,
    recorded_half_widths,
    to_device_of,
)

from ..sites import SiteManifest
from .error_bars import calibration_of
from .personal_stage import site_network
from .run_folder import RunFolder
from .task import ReconstructionTask
from .usual_scans import unlike_usual, usual_scans_of

#: Name of the site in samples of a method that belongs to none.
_NO_SITE = "scan"


class Method:
    """A reconstruction method, called with arrays, a file or a sample.

    Images are complex in MRI and attenuation in CT, on the grid of the operator, in the units of the measurement (MRI)
    or in 1/mm (CT): the dataset ``image`` that ``fedrecon reconstruct`` writes. Coil maps, noise and scale are
    determined from the measurement, as in training.

    Attributes
    ----------
    name
        What the method is, in a few words.
    network
        The network or classical method itself, called with a scaled measurement and an operator.
    kind
        Its modality.
    """

    def __init__(
        self, name: str, network: nn.Module, kind: Modality, attributes: Mapping[str, Any], format: str | None = None
    ) -> None:
        self.name, self.network, self.kind, self.attributes = name, network.eval(), kind, attributes
        self._format = format

    def __repr__(self) -> str:
        return f"<{self.name}, {self.kind.title}>"

    def __call__(self, measurement: Any, *arguments: Any, **options: Any) -> Any:
        """The image of a sample, of a file, or of arrays.

        Parameters
        ----------
        measurement
            A sample; the path of a file; or arrays of NumPy or PyTorch. In MRI k-space ``(coils, readout, phase)`` or
            ``(slices, coils, readout, phase)``; in CT line integrals ``(views, detectors)`` or
            ``(slices, views, detectors)``.
        arguments, options
            With arrays: the arguments of :func:`recon.write_kspace` (``mask``, ``header=``, ``noise=``) or
            of :func:`recon.write_sinogram` (``geometry``, ``grid``, ``photons=``, ``counts=``).

        Returns
        -------
            ``(height, width)``, with slices in front for a file or a stack: a NumPy array for NumPy arrays and files,
            else a tensor.

        Raises
        ------
        DataError
            If the measurement cannot be used.

        Notes
        -----
        Arrays go through a file of their size in the folder for temporary files (``TMPDIR``, else ``/tmp``), which is
        removed before the call returns.
        """
        if isinstance(measurement, str | Path | Sample) and (arguments or options):
            raise TypeError(f"{self!r}: files and samples hold their mask; call it with the file or sample alone")
        if isinstance(measurement, Sample):
            return self._image_of(measurement)
        if isinstance(measurement, str | Path):
            return self.reconstruct(measurement).image
        return self._image_of_arrays(measurement, arguments, options)

    def samples(self, scan: Path | str, *, simulate: bool = False, maps_folder: Path | None = None) -> VolumeSlices:
        """The slices of a file as the method gets them.

        Parameters
        ----------
        simulate
            Apply ``[simulate]`` of the site.
        maps_folder
            Folder that stores estimated coil maps; None: estimate them in every call.
        """
        if simulate:
            raise DataError("--simulate: belongs to a run; leave it out")
        stored = self.kind.arguments(maps_folder=maps_folder, raw_coils=self.raw_coils)
        format = self._format or self.kind.format_of(Path(scan))
        return self.kind.slices([Path(scan)], _NO_SITE, **stored, **({} if format is None else {"format": format}))

    def reconstruct(self, scan: Path | str, *, format: str | None = None) -> Reconstruction:
        """All images of a file, with what the file states of them; :func:`recon.write_reconstruction` writes them.

        Parameters
        ----------
        format
            Name of the reader, where the file has another one than the files of the method or site; None: theirs.
        """
        samples = self.samples(scan) if format is None else self._of_format(Path(scan), format)
        with self.at_work(self.network):
            return reconstructed(self, self.network, samples)

    def at_work(self, network: nn.Module) -> AbstractContextManager[None]:
        """Context with a network on the device of the method."""
        return nullcontext()

    @contextmanager
    def stored_maps(self) -> Iterator[Path]:
        """Folder of the coil maps of a file that is read more than once."""
        with TemporaryDirectory() as folder:
            yield Path(folder)

    def warnings(self, samples: VolumeSlices, height_and_width: tuple[int, ...]) -> list[str]:
        """What makes the image of a scan doubtful for this method, one line each."""
        return []

    @property
    def calibration(self) -> ErrorBarCalibration | None:
        """Calibration of the error bars; None: the method has none."""
        return None

    @property
    def source(self) -> str:
        """What a command names to get this method."""
        return self.name

    @property
    def suffixes(self) -> frozenset[str]:
        """Ends of the names of scans in a folder."""
        return frozenset((".h5", ".hdf5"))

    def takes(self, file: Path) -> bool:
        """Whether a file of a folder is a scan: by its suffix, or told from its content."""
        return file.suffix.lower() in self.suffixes or (file.suffix != ".hdr" and self.kind.format_of(file) is not None)

    @property
    def raw_coils(self) -> bool:
        """Whether the network takes coils and readout as measured, see :class:`recon.KSpaceSlices`."""
        return bool(getattr(self.network, "raw_coils", False))

    @property
    def usual_format(self) -> str | None:
        """Format of the files that the method was trained on; None: unknown."""
        return None

    @property
    def simulates(self) -> bool:
        """Whether scans can be degraded as in training."""
        return False

    def _image_of(self, sample: Sample) -> Tensor:
        with torch.no_grad(), self.at_work(self.network):
            if sample.scale.ndim == 0:
                return reconstruct(self.network, sample) * sample.scale
            images = apply(self.network, to_device_of(self.network, sample)).to(sample.measurement.device)
            return images * per_sample(sample.scale, images.ndim - 1)

    def _image_of_arrays(self, measurement: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self.kind.write_scan is None:
            raise TypeError(f"{self!r}: arrays of this modality are not known; call it with a file or a sample")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "arrays.h5"
            try:
                is_single = self.kind.write_scan(path, measurement, *arguments, **options)
                with self.at_work(self.network):
                    found = reconstructed(self, self.network, self._of_format(path, None)).image
            except DataError as error:
                raise DataError(str(error).replace(str(path), "arrays").replace(f"{folder}/", "")) from error
        images = found[0] if is_single else found
        return torch.from_numpy(images).to(measurement.device) if isinstance(measurement, Tensor) else images

    def _of_format(self, path: Path, format: str | None) -> VolumeSlices:
        """Slices of a file of a format; None: the usual one."""
        raw = self.kind.arguments(raw_coils=self.raw_coils)
        return self.kind.slices([path], _NO_SITE, **raw, **({} if format is None else {"format": format}))


class RunMethod(Method):
    """The network that a site of a run uses."""

    def __init__(self, run: RunFolder, manifest: SiteManifest) -> None:
        state, recipe = run.selected(), run.recipe
        attributes = {
            "site": manifest.name, "recipe": recipe.name, "recipe_digest": recipe.digest(), "round": state.round
        }  # fmt: skip
        name = f"{recipe.name} of round {state.round} at {manifest.name}"
        super().__init__(name, site_network(run, manifest), manifest.kind, attributes)
        self.manifest = manifest
        self._maps = run.maps_folder(manifest.name)
        self._task = ReconstructionTask(manifest, recipe, self._maps)
        self._run, self._calibration = run.path, calibration_of(run, manifest.name)
        self._usual = usual_scans_of(run, manifest.name)

    def warnings(self, samples: VolumeSlices, height_and_width: tuple[int, ...]) -> list[str]:
        return unlike_usual(self._usual, self.network, samples)

    @property
    def calibration(self) -> ErrorBarCalibration | None:
        return self._calibration

    @property
    def source(self) -> str:
        return str(self._run)

    def samples(self, scan: Path | str, *, simulate: bool = False, maps_folder: Path | None = None) -> VolumeSlices:
        if simulate and not self.simulates:
            raise DataError(f"{self.manifest.path}: has no [simulate] to apply; leave out --simulate")
        other = self.kind.format_of_another(Path(scan), self.usual_format)
        return self.manifest.samples(
            [Path(scan)], degraded=simulate, maps_folder=maps_folder, raw_coils=self.raw_coils, format=other
        )

    @property
    def usual_format(self) -> str:
        return str(self.manifest.data.format)

    def at_work(self, network: nn.Module) -> AbstractContextManager[None]:
        return self._task.at_work(network)

    @contextmanager
    def stored_maps(self) -> Iterator[Path]:
        yield self._maps

    @property
    def suffixes(self) -> frozenset[str]:
        files = (Path(name) for _, name in self.manifest.data.named())
        return frozenset(file.suffix.lower() for file in files)

    @property
    def raw_coils(self) -> bool:
        return self._task.raw_coils

    @property
    def simulates(self) -> bool:
        return self.manifest.simulate is not None

    def _of_format(self, path: Path, format: str | None) -> VolumeSlices:
        if format == self.manifest.data.format:
            return self.samples(path)
        keys = self.kind.data_options().keys() - {"format"}
        named = {} if format is None else {"format": format}
        options = {key: getattr(self.manifest.data, key) for key in keys}
        raw = self.kind.arguments(raw_coils=self.raw_coils)
        return self.kind.slices([path], self.manifest.name, **named, **options, **raw)


class WeightsMethod(Method):
    """A network of trained weights."""

    def __init__(self, file: WeightsFile, network: nn.Module, format: str | None) -> None:
        attributes = {"weights": file.name, "weights_sha256": file.sha256()}
        name = Path(file.name).name if file.path != STARTER_WEIGHTS.get(file.name) else file.name
        super().__init__(name, network, MODALITIES[file.modality], attributes, format)
        self.file = file

    def warnings(self, samples: VolumeSlices, height_and_width: tuple[int, ...]) -> list[str]:
        scan: dict[str, float | None] = {"matrix": max(height_and_width), "acceleration": samples.acceleration(0)}
        if least := [key.removeprefix("least_") for key in self.file.limits if key.startswith("least_")]:
            facts = samples.facts()
            scan |= {key: facts.get(key) for key in least}
        beyond = self.file.beyond(**scan)
        return [f"{text} for {self.file.name}; compare the image with another method" for text in beyond]


def reconstructed(method: Method, network: nn.Module, samples: VolumeSlices) -> Reconstruction:
    """Images of all slices of one file; of tilted planes, the axial images between them.

    Parameters
    ----------
    network
        The network of the method, or a version of it that was adapted to the scan.

    Raises
    ------
    DataError
        If an image is not finite, or tilted planes cover no axial image.
    """
    magnitudes, images, half_widths = [], [], []
    network.eval()
    calibration = method.calibration
    listening: AbstractContextManager[list[Tensor]] = (
        nullcontext([]) if calibration is None else recorded_half_widths(network)
    )
    with torch.no_grad(), listening as found_widths, doing("reconstructing", len(samples)):
        for index in range(len(samples)):
            sample = samples[index]
            image = reconstruct(network, sample)
            images.append(image * sample.scale)
            magnitudes.append(sample.magnitude(image) * sample.scale)
            if calibration is not None:
                half_width = sample.magnitude(found_widths[-1][0].to(image.device))
                half_widths.append(calibration.factor * half_width * sample.scale)
                found_widths.clear()
            made(index + 1)
    magnitude, complex_images = (samples.as_stored(torch.stack(stack)).numpy() for stack in (magnitudes, images))
    path = samples.volumes[0].path
    if not (np.isfinite(magnitude).all() and np.isfinite(complex_images).all()):
        found, expected = "NaN or infinite values in the image", "finite ones"
        advice = "check the values of the scan and the weights of the network; nothing was written"
        raise data_error(path, "reconstruction", found, expected, advice)
    header = samples.image_header(0).cropped(magnitude.shape[1:])  # images may be cropped as the reference
    bars = (
        (None, None)
        if calibration is None
        else (samples.as_stored(torch.stack(half_widths)).numpy(), calibration.coverage)
    )
    return axial_reconstruction(
        Reconstruction(magnitude, complex_images, header, path.name, method.name, method.attributes, *bars)
    )
