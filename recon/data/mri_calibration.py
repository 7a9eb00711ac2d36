"""Calibration scans: files of the same coils that give the maps of scans with too few lines at the center."""

from pathlib import Path

from physics import CalibrationScan

from ..errors import data_error
from .mri_volume import KSpaceVolume

_ROUNDED = 1.01


def calibration_path(scan: Path, pattern: str) -> Path:
    """File of the calibration scan, relative to the folder of the scan.

    ``{stem}`` is the name of the scan without its end.
    """
    return scan.parent / pattern.replace("{stem}", scan.stem)


def require_calibration(volume: KSpaceVolume, calibration: KSpaceVolume) -> None:
    """Refuse a calibration scan that does not hold the maps of a scan.

    Raises
    ------
    DataError
        If it has other coils, another number of slices than that of the scan or one, lines left out, no field of view,
        or a smaller one than the scan.
    """
    path, key = calibration.path, "kspace"
    advice = f"use the calibration scan of {volume.path.name}"
    if calibration.shape[1] != volume.shape[1]:
        found = f"{calibration.shape[1]} coils"
        raise data_error(path, key, found, f"{volume.shape[1]}, those of {volume.path.name}", advice)
    if calibration.shape[0] not in (1, volume.shape[0]):
        raise data_error(path, key, f"{calibration.shape[0]} slices", f"1 or {volume.shape[0]}", advice)
    if calibration.undersampled:
        raise data_error(path, "mask", "undersampled k-space", "a fully sampled calibration scan", advice)
    fov, wanted = _field_mm(calibration), _field_mm(volume)
    if any(own * _ROUNDED < scan for own, scan in zip(fov, wanted, strict=True)):
        key, found = "ismrmrd_header encodedSpace/fieldOfView_mm", f"{fov[0]:g}x{fov[1]:g}"
        raise data_error(path, key, found, f"at least {wanted[0]:g}x{wanted[1]:g}, that of the scan", advice)


def calibration_scan(volume: KSpaceVolume, calibration: KSpaceVolume, index: int) -> CalibrationScan:
    """The calibration scan of one slice."""
    own = calibration.read_slice(index if calibration.shape[0] > 1 else 0) * calibration.available
    fields = zip(_field_mm(volume), _field_mm(calibration), strict=True)
    height, width = (scan / whole for scan, whole in fields)
    return CalibrationScan(own, (height, width))


def _field_mm(volume: KSpaceVolume) -> tuple[float, float]:
    """Field of view of k-space as stored, whose readout may have lost its oversampling."""
    header = volume.header
    if header.encoded_fov_mm is None:
        key, expected = "ismrmrd_header encodedSpace/fieldOfView_mm", "that of the scan, for its calibration scan"
        raise data_error(volume.path, key, "nothing usable", expected, "add it, or leave out calibration_scan")
    readout, phase = header.encoded_fov_mm
    return readout * volume.shape[2] / header.encoded_shape[0], phase
