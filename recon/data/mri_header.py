"""The ISMRMRD header of a fastMRI file: sizes, padding and facts about the scanner."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ..errors import data_error

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
_ACCELERATION = "encoding/parallelImaging/accelerationFactor/kspace_encoding_step_1"


@dataclass(frozen=True)
class Header:
    """Facts of an ISMRMRD header; None: not stated.

    ``encoded_shape`` and ``recon_shape`` are ``(readout, phase)`` in pixels, ``encoded_fov_mm`` and ``recon_fov_mm``
    the fields of view of both. Columns ``padding[0]:padding[1]`` of k-space were encoded; the others are zero-filled.
    ``partitions`` is the size of the encoded matrix along the slab, 1 in 2-D scans, ``acceleration`` the factor of
    parallel imaging, ``trajectory`` the kind of trajectory, in the words of the standard.
    """

    encoded_shape: tuple[int, int]
    recon_shape: tuple[int, int]
    padding: tuple[int, int]
    vendor: str | None = None
    model: str | None = None
    field_T: float | None = None
    encoded_fov_mm: tuple[float, float] | None = None
    recon_fov_mm: tuple[float, float] | None = None
    partitions: int = 1
    acceleration: float = 1.0
    trajectory: str = "cartesian"


def read_header(xml: bytes | str, path: Path | str = "ismrmrd_header", *, cartesian: bool = True) -> Header:
    """Read an ISMRMRD header.

    Padding follows fastMRI: encoded columns begin at half the encoded width less ``encodingLimits/.../center``
    and end ``maximum + 1`` columns further. Without limits every column is encoded. Without ``reconSpace`` the images
    are of the encoded size.

    Parameters
    ----------
    xml
        The header, without document type declaration and entities.
    path
        The file of the header, for errors.
    cartesian
        Refuse other trajectories.

    Raises
    ------
    DataError
        If the XML is broken or holds entities, a size is missing or not a positive integer, or the trajectory is not
        Cartesian.
    """
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except DefusedXmlException:
        found = "XML with a document type or entities"
        raise data_error(path, "ismrmrd_header", found, "plain ISMRMRD XML", "remove the DOCTYPE") from None
    except (ParseError, ValueError) as error:
        raise data_error(path, "ismrmrd_header", f"broken XML ({error})", "ISMRMRD XML", "write it again") from None
    trajectory = _text(root, "encoding/trajectory") or "cartesian"
    if cartesian:
        require_cartesian(trajectory, path)
    encoded = _matrix(root, "encodedSpace", path)
    recon = encoded if root.find("{*}encoding/{*}reconSpace") is None else _matrix(root, "reconSpace", path)
    limits = "encoding/encodingLimits/kspace_encoding_step_1/"
    padding = (0, encoded[1])
    if _text(root, limits + "maximum") is not None:
        left = encoded[1] // 2 - _integer(root, limits + "center", path, minimum=0)
        padding = (left, left + _integer(root, limits + "maximum", path, minimum=0) + 1)
    system = "acquisitionSystemInformation/"
    return Header(
        encoded_shape=encoded,
        recon_shape=recon,
        padding=padding,
        vendor=_text(root, system + "systemVendor"),
        model=_text(root, system + "systemModel"),
        field_T=_number(root, system + "systemFieldStrength_T", path),
        encoded_fov_mm=_field_of_view(root, "encodedSpace", path),
        recon_fov_mm=_field_of_view(root, "reconSpace", path),
        partitions=int(_number(root, "encoding/encodedSpace/matrixSize/z", path) or 1),
        acceleration=_number(root, _ACCELERATION, path) or 1.0,
        trajectory=trajectory.lower(),
    )


def header_xml(header: Header) -> bytes:
    """XML of a header; :func:`read_header` returns the same header."""

    def space(name: str, shape: tuple[int, int], fov_mm: tuple[float, float] | None) -> str:
        size = f"<matrixSize><x>{shape[0]}</x><y>{shape[1]}</y><z>{header.partitions}</z></matrixSize>"
        if fov_mm is not None:
            size += f"<fieldOfView_mm><x>{fov_mm[0]}</x><y>{fov_mm[1]}</y><z>0</z></fieldOfView_mm>"
        return f"<{name}>{size}</{name}>"

    def element(name: str, value: str | float | None) -> str:
        return "" if value is None else f"<{name}>{escape(str(value))}</{name}>"

    left, right = header.padding
    center = header.encoded_shape[1] // 2 - left
    system = element("systemVendor", header.vendor) + element("systemModel", header.model)
    system += element("systemFieldStrength_T", header.field_T)
    limits = f"<minimum>0</minimum><maximum>{right - left - 1}</maximum><center>{center}</center>"
    limits = f"<kspace_encoding_step_1>{limits}</kspace_encoding_step_1>"
    parallel = ""
    if header.acceleration != 1:
        parallel = f"<kspace_encoding_step_1>{header.acceleration}</kspace_encoding_step_1>"
        parallel = f"<parallelImaging><accelerationFactor>{parallel}</accelerationFactor></parallelImaging>"
    spaces = space("encodedSpace", header.encoded_shape, header.encoded_fov_mm)
    spaces += space("reconSpace", header.recon_shape, header.recon_fov_mm)
    xml = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<ismrmrdHeader xmlns="{NAMESPACE}">'
        f"<acquisitionSystemInformation>{system}</acquisitionSystemInformation>"
        f"<encoding>{spaces}<encodingLimits>{limits}</encodingLimits><trajectory>{escape(header.trajectory)}</trajectory>{parallel}</encoding>"
        "<sequenceParameters></sequenceParameters></ismrmrdHeader>"
    )
    return xml.encode()


def require_cartesian(trajectory: str, path: Path | str) -> None:
    """Refuse a trajectory that is not Cartesian.

    Raises
    ------
    DataError
        If it is not.
    """
    if trajectory.lower() == "cartesian":
        return
    advice = "write radial or spiral samples with recon.write_non_cartesian, or leave out the file"
    if trajectory.lower() == "epi":
        advice = "regrid the ramps, put the lines in order and correct their phases, then write cartesian"
    raise data_error(path, "ismrmrd_header encoding/trajectory", repr(trajectory), "cartesian", advice)


def _text(root: Element, element: str) -> str | None:
    # Any namespace: some writers leave it out.
    found = root.find("/".join(f"{{*}}{name}" for name in element.split("/")))
    text = (found.text or "").strip() if found is not None else ""
    return text or None


def _integer(root: Element, element: str, path: Path | str, minimum: int) -> int:
    text = _text(root, element)
    if text is None or not text.isdecimal() or len(text) > 9 or int(text) < minimum:
        found, expected = "nothing" if text is None else repr(text), f"an integer from {minimum} to 999999999"
        raise data_error(path, f"ismrmrd_header {element}", found, expected, "correct the header")
    return int(text)


def _number(root: Element, element: str, path: Path | str) -> float | None:
    text = _text(root, element)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        key, advice = f"ismrmrd_header {element}", "correct or remove the element"
        raise data_error(path, key, repr(text), "a number", advice) from None
    return value if np.isfinite(value) and value > 0 else None


def _matrix(root: Element, space: str, path: Path | str) -> tuple[int, int]:
    readout = _integer(root, f"encoding/{space}/matrixSize/x", path, minimum=1)
    return readout, _integer(root, f"encoding/{space}/matrixSize/y", path, minimum=1)


def _field_of_view(root: Element, space: str, path: Path | str) -> tuple[float, float] | None:
    x, y = (_number(root, f"encoding/{space}/fieldOfView_mm/{axis}", path) for axis in "xy")
    return None if x is None or y is None else (x, y)
