"""Encodings of an ISMRMRD header: sizes, centers and fields of view along three axes."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ...errors import data_error
from ..mri_header import Header, read_header


@dataclass(frozen=True)
class Encoding:
    """One encoding; sizes and centers are along readout, phase and partitions.

    Parameters
    ----------
    header
        That of a file of the fastMRI layout, 2-D.
    size, recon_size
        Encoded and reconstructed matrix.
    center
        Value of the counter at the center of phase and of partitions; None: half the size.
    fov_mm, recon_fov_mm
        Encoded and reconstructed fields of view; None: not stated.
    calibration
        How calibration lines were acquired, such as ``embedded``; None: not stated.
    lines
        Number of values of the counter of phase encoding; None: not stated.
    averages
        Number of averages; 1 where it is not stated.
    receiver_bandwidth
        Relative noise bandwidth of the receiver; 1 where it is not stated.
    protocol, patient_id
        None: not stated.
    """

    header: Header
    size: tuple[int, int, int]
    recon_size: tuple[int, int, int]
    center: tuple[int | None, int | None]
    fov_mm: tuple[float, float, float] | None
    recon_fov_mm: tuple[float, float, float] | None
    calibration: str | None
    lines: int | None
    averages: int
    receiver_bandwidth: float
    protocol: str | None
    patient_id: str | None

    @property
    def is_cartesian(self) -> bool:
        """Whether lines are sorted by their counters; echo-planar ones, too, would be, were they not refused."""
        return self.header.trajectory in ("cartesian", "epi")

    def oversampling(self, axis: int) -> float:
        """Encoded over reconstructed field of view along an axis; 1 where they are not stated."""
        if self.fov_mm is None or self.recon_fov_mm is None:
            return 1.0
        return self.fov_mm[axis] / self.recon_fov_mm[axis]


def read_encodings(xml: str, path: Path, *, cartesian: bool = True) -> list[Encoding]:
    """All encodings of a header.

    Parameters
    ----------
    cartesian
        Refuse other trajectories.

    Raises
    ------
    DataError
        If the XML is broken, holds entities or no encoding, a size is missing, or a trajectory is not Cartesian where
        `cartesian` is set.
    """
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except (DefusedXmlException, ParseError, ValueError):
        read_header(xml, path, cartesian=cartesian)  # says what is wrong
        raise
    encodings = root.findall("{*}encoding")
    if not encodings:
        raise data_error(path, "ismrmrd_header encoding", "nothing", "an encoding", "use a file with its header")
    found = []
    for encoding in encodings:
        for other in encodings:
            if other in root:
                root.remove(other)
        root.append(encoding)
        found.append(_encoding(root, encoding, read_header(tostring(root), path, cartesian=cartesian)))
    return found


def _encoding(root: Element, encoding: Element, header: Header) -> Encoding:
    limits = "encodingLimits/kspace_encoding_step_"
    depth = _number(encoding, "encodedSpace/matrixSize/z") or 1
    return Encoding(
        header=header,
        size=(*header.encoded_shape, int(depth)),
        recon_size=(*header.recon_shape, int(_number(encoding, "reconSpace/matrixSize/z") or depth)),
        center=(_integer(encoding, f"{limits}1/center"), _integer(encoding, f"{limits}2/center")),
        fov_mm=_fov(encoding, "encodedSpace"),
        recon_fov_mm=_fov(encoding, "reconSpace"),
        calibration=_text(encoding, "parallelImaging/calibrationMode"),
        lines=None if (last := _integer(encoding, f"{limits}1/maximum")) is None else last + 1,
        averages=1 + (_integer(encoding, "encodingLimits/average/maximum") or 0),
        receiver_bandwidth=_number(root, "acquisitionSystemInformation/relativeReceiverNoiseBandwidth") or 1.0,
        protocol=_text(root, "measurementInformation/protocolName"),
        patient_id=_text(root, "subjectInformation/patientID"),
    )


def _text(root: Element, element: str) -> str | None:
    found = root.find("/".join(f"{{*}}{name}" for name in element.split("/")))
    return (found.text or "").strip() or None if found is not None else None


def _number(root: Element, element: str) -> float | None:
    try:
        value = float(_text(root, element) or "nan")
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None


def _integer(root: Element, element: str) -> int | None:
    text = _text(root, element)
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else None


def _fov(encoding: Element, space: str) -> tuple[float, float, float] | None:
    x, y, z = (_number(encoding, f"{space}/fieldOfView_mm/{axis}") for axis in "xyz")
    return None if x is None or y is None else (x, y, z or 1.0)
