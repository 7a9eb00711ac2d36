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


@dataclass(frozen=True)
class Header:
    """Facts of an ISMRMRD header; None: not stated.

    ``encoded_shape`` and ``recon_shape`` are ``(readout, phase)`` in pixels. Columns
    ``padding[0]:padding[1]`` of k-space were encoded; the others are zero-filled.
    """

    encoded_shape: tuple[int, int]
    recon_shape: tuple[int, int]
    padding: tuple[int, int]
    vendor: str | None = None
    model: str | None = None
    field_T: float | None = None


def read_header(xml: bytes | str, path: Path | str = "ismrmrd_header") -> Header:
    """Read an ISMRMRD header.

    Padding follows fastMRI: encoded columns begin at half the encoded width less ``encodingLimits/.../center``
    and end ``maximum + 1`` columns further. Without limits every column is encoded.

    Parameters
    ----------
    xml
        The header, without document type declaration and entities.
    path
        The file of the header, for errors.

    Raises
    ------
    DataError
        If the XML is broken or holds entities, or a size is missing or not a positive integer.
    """
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except DefusedXmlException:
        found = "XML with a document type or entities"
        raise data_error(path, "ismrmrd_header", found, "plain ISMRMRD XML", "remove the DOCTYPE") from None
    except (ParseError, ValueError) as error:
        raise data_error(path, "ismrmrd_header", f"broken XML ({error})", "ISMRMRD XML", "write it again") from None
    encoded = _matrix(root, "encodedSpace", path)
    recon = _matrix(root, "reconSpace", path)
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
    )


def header_xml(header: Header) -> bytes:
    """XML of a header; :func:`read_header` returns the same header."""

    def space(name: str, shape: tuple[int, int]) -> str:
        return f"<{name}><matrixSize><x>{shape[0]}</x><y>{shape[1]}</y><z>1</z></matrixSize></{name}>"

    def element(name: str, value: str | float | None) -> str:
        return "" if value is None else f"<{name}>{escape(str(value))}</{name}>"

    left, right = header.padding
    center = header.encoded_shape[1] // 2 - left
    system = element("systemVendor", header.vendor) + element("systemModel", header.model)
    system += element("systemFieldStrength_T", header.field_T)
    limits = f"<minimum>0</minimum><maximum>{right - left - 1}</maximum><center>{center}</center>"
    limits = f"<kspace_encoding_step_1>{limits}</kspace_encoding_step_1>"
    xml = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<ismrmrdHeader xmlns="{NAMESPACE}">'
        f"<acquisitionSystemInformation>{system}</acquisitionSystemInformation>"
        f"<encoding>{space('encodedSpace', header.encoded_shape)}{space('reconSpace', header.recon_shape)}"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory></encoding>"
        "<sequenceParameters></sequenceParameters></ismrmrdHeader>"
    )
    return xml.encode()


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
