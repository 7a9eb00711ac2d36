"""DICOM-CT-PD files of ellipsoids, written from the words of the manual and not with the reader's geometry.

Angle 0 is at the top, seen from the table, and angles grow counter-clockwise; z grows away from the table. With the
detector at the bottom, column 1 is the leftmost one and row 1 the farthest. Both are counted from 1.
"""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from physics import EllipsoidPhantom

CREATOR = "CtProjectionData-MayoClinc-v1"
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
SLOPE, INTERCEPT = 0.0002, -0.05
#: Positions of a flying focal spot: angle in rad, distance from the axis and z in mm.
NO_FLYING = ((0.0, 0.0, 0.0),)


def scan_views(
    *, views_per_turn=60, turns=3.0, rows=16, row_mm=4.0, pitch=1.0, radius_mm=400.0, distance_mm=800.0, sense=-1,
    start=0.4, travel=1, spots=NO_FLYING, z_mm=0.0,
):  # fmt: skip
    """Angle, z and shifts of the views of a helix about ``z_mm``, as a file states them; pitch 0: axial."""
    count = round(views_per_turn * turns)
    turn = np.arange(count) / views_per_turn
    feed = pitch * rows * row_mm * radius_mm / distance_mm
    angles = np.mod(start + sense * 2 * np.pi * turn, 2 * np.pi)
    return angles, z_mm + travel * (turn - turn.mean()) * feed, np.array(spots)[np.arange(count) % len(spots)]


def line_integrals(
    phantom: EllipsoidPhantom, angle, z, shift, *, columns=48, rows=16, column_mm=14.0, row_mm=4.0, center=(24.8, 8.5),
    radius_mm=400.0, distance_mm=800.0,
):  # fmt: skip
    """Exact line integrals of a view ``(columns, rows)``, both in the order of the file."""
    turned, farther, higher = shift
    rho, phi = radius_mm + farther, angle + turned
    source = np.array([-rho * np.sin(phi), rho * np.cos(phi), z + higher])
    beside = (np.arange(1, columns + 1) - center[0]) * column_mm / distance_mm
    # About the focal center at the top, with the detector at the bottom; then turned counter-clockwise.
    x, y = distance_mm * np.sin(beside), radius_mm - distance_mm * np.cos(beside)
    ends = np.empty((columns, rows, 3))
    ends[..., 0] = (x * np.cos(angle) - y * np.sin(angle))[:, None]
    ends[..., 1] = (x * np.sin(angle) + y * np.cos(angle))[:, None]
    ends[..., 2] = z + (center[1] - np.arange(1, rows + 1)) * row_mm
    directions = ends - source
    return phantom.line_integrals(source, directions / np.linalg.norm(directions, axis=-1, keepdims=True))


def write_view(
    path: Path, lines, number, angle, z, shift, *, photons=None, transposed=False, explicit=False, rows=16, columns=48,
    column_mm=14.0, row_mm=4.0, center=(24.8, 8.5), radius_mm=400.0, distance_mm=800.0, water="0.0192",
    series="1.2.3", patient="P1", kind="HELICAL", field_mm=300.0, **changed,
):  # fmt: skip
    """Write one file; ``changed`` replaces elements by keyword, or private ones by ``tag_70311001`` and the like."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RAW_DATA, generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = RAW_DATA, meta.MediaStorageSOPInstanceUID, series
    data.Modality, data.Manufacturer, data.ManufacturerModelName, data.PatientID = "CT", "MAKER", "Scanner 1", patient
    data.SeriesDescription, data.BodyPartExamined, data.InstanceNumber = "Full dose projections", "ABDOMEN", number
    data.DataCollectionDiameter = field_mm
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = SLOPE, INTERCEPT
    image = lines.T if transposed else lines
    data.Rows, data.Columns = image.shape
    for group in (0x7029, 0x7031, 0x7033, 0x7037, 0x7039, 0x7041):
        data.add_new((group, 0x0010), "LO", CREATOR)
    turned, farther, higher = shift
    private = {
        0x70291002: ("FL", column_mm), 0x70291006: ("FL", row_mm), 0x7029100B: ("CS", "CYLINDRICAL"),
        0x70291010: ("US", rows), 0x70291011: ("US", columns), 0x70311001: ("FL", angle), 0x70311002: ("FL", z),
        0x70311003: ("FL", radius_mm), 0x70311031: ("FL", distance_mm), 0x70311033: ("FL", list(center)),
        0x7033100B: ("FL", turned), 0x7033100C: ("FL", higher), 0x7033100D: ("FL", farther),
        0x70371009: ("CS", kind), 0x7037100A: ("CS", "FANBEAM"), 0x70391009: ("CS", "YES"),
        0x70411001: ("DS", water),
    }  # fmt: skip
    if photons is not None:
        private[0x70331065] = ("FL", list(photons))
    for tag, (kind_of_value, value) in private.items():
        value = changed.pop(f"tag_{tag:08x}", value)
        if value is not None:
            data.add_new(tag, kind_of_value, value)
    data.PixelData = np.clip(np.round((image - INTERCEPT) / SLOPE), 0, 65535).astype("<u2").tobytes()
    for name, value in changed.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def write_scan(folder: Path, phantom: EllipsoidPhantom, *, first=1, photons=None, noise=None, **options):
    """Write a folder of views of a phantom; the options are those of the functions above."""
    folder.mkdir(parents=True, exist_ok=True)
    of_scan = ("views_per_turn", "turns", "pitch", "sense", "start", "travel", "spots", "z_mm")
    of_detector = ("rows", "columns", "column_mm", "row_mm", "center", "radius_mm", "distance_mm")
    detector = {name: options[name] for name in of_detector if name in options}
    lengths = {name: detector[name] for name in ("rows", "row_mm", "radius_mm", "distance_mm") if name in detector}
    angles, z, shifts = scan_views(**lengths, **{name: options.pop(name) for name in of_scan if name in options})
    for view in range(len(angles)):
        lines = line_integrals(phantom, angles[view], z[view], shifts[view], **detector)
        if noise is not None:
            lines = lines + noise.normal(size=lines.shape) * np.exp(lines / 2) / np.sqrt(np.array(photons)[:, None])
        path = folder / f"view_{(view * 7919) % 100003:06d}.dcm"  # names do not tell the order
        write_view(path, lines, first + view, angles[view], z[view], shifts[view], photons=photons, **options)
    return angles, z, shifts
