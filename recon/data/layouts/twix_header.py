"""What the protocol of Siemens raw data states: matrix, fields of view, calibration, dwell time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import data_error
from ..complex_values import Array
from ..mri_header import Header
from .ismrmrd_encoding import Encoding

#: Relative noise bandwidth of the receivers, as siemens_to_ismrmrd states it.
_RECEIVER_BANDWIDTH = 0.793
#: How calibration lines were acquired, by ``ucRefScanMode``.
_CALIBRATION = {2: "embedded", 4: "separate", 8: "separate", 16: "interleaved", 32: "interleaved", 64: "interleaved"}
_TRAJECTORIES = {2: "radial", 4: "spiral", 8: "propeller (BLADE)"}


def refuse_trajectory(path: Path, protocol: Mapping[str, Any], blocks: Sequence[Any]) -> None:
    """Refuse scans whose lines are not those of Cartesian k-space, slice by slice.

    Raises
    ------
    DataError
        If the scan is radial, spiral, BLADE, echo-planar or of several slices at a time.
    """
    convert = "convert it with siemens_to_ismrmrd, with its trajectory"
    trajectory = _number(protocol, "MeasYaps", "sKSpace", "ucTrajectory")
    if trajectory is not None and int(trajectory) in _TRAJECTORIES:
        raise data_error(path, "ucTrajectory", _TRAJECTORIES[int(trajectory)], "Cartesian lines", convert)
    regrid = _entry(protocol, "Meas", "alRegridMode")
    mode = regrid[0] if isinstance(regrid, Sequence) and not isinstance(regrid, str) and regrid else regrid
    turned = [block for block in blocks if block.is_flag_set("REFLECT")]
    if (isinstance(mode, int | float) and mode > 1) or any(block.is_flag_set("PHASCOR") for block in turned):
        advice = "regrid the ramps and correct the phases of the lines, then use recon.write_kspace"
        raise data_error(path, "alRegridMode", "an echo-planar scan", "lines that need no correction", advice)
    if any(block.is_flag_set("SLICE_ACCEL_REFSCAN") for block in blocks):
        advice = "separate the slices, then use recon.write_kspace"
        raise data_error(path, "SLICE_ACCEL_REFSCAN", "several slices in one line", "one slice in a line", advice)


def dwell_us(protocol: Mapping[str, Any]) -> float:
    """Time per sample in microseconds; 0 where it is not stated."""
    times = _entry(protocol, "MeasYaps", "sRXSPEC", "alDwellTime")
    first = times[0] if isinstance(times, Sequence) and times else times
    return float(first) / 1000 if isinstance(first, int | float) else 0.0


def twix_encoding(path: Path, protocol: Mapping[str, Any], blocks: Sequence[Any], image: Array) -> Encoding:
    """Encoding of a measurement.

    Parameters
    ----------
    blocks
        Lines of the measurement.
    image
        Heads of its image lines.

    Raises
    ------
    DataError
        If the matrix is not stated.
    """
    kspace = ("MeasYaps", "sKSpace")
    base = _number(protocol, *kspace, "lBaseResolution")
    if base is None:
        expected = "MeasYaps/sKSpace/lBaseResolution"
        raise data_error(path, "protocol", "no matrix", expected, "use a file with its protocol")
    os_factor = _number(protocol, "Meas", "flReadoutOSFactor") or _number(protocol, "Dicom", "flReadoutOSFactor") or 2.0
    is_3d = _number(protocol, *kspace, "ucDimension") == 4
    slices = _number(protocol, *kspace, "lPartitions") if is_3d else None
    # What the lines need: a protocol without transform lengths counts the lines that were measured.
    last_line, last_partition = (
        int(image["idx"][name].max()) + 1 for name in ("kspace_encode_step_1", "kspace_encode_step_2")
    )
    size = (
        round(_number(protocol, "Meas", "iRoFTLength") or base * os_factor),
        round(
            _number(protocol, "Meas", "iPEFTLength") or _number(protocol, *kspace, "lPhaseEncodingLines") or last_line
        ),
        round(_number(protocol, "Meas", "i3DFTLength") or slices or last_partition) if is_3d else 1,
    )
    imaging = [block.mdh for block in blocks if block.is_image_scan()]
    center = int(imaging[0].CenterLin), int(imaging[0].CenterPar) if is_3d else 0
    left = size[1] // 2 - center[0]
    phase_os, slice_os = (
        1 + (_number(protocol, *kspace, f"d{name}OversamplingForDialog") or 0.0) for name in ("Phase", "Slice")
    )
    fov = [_number(protocol, "MeasYaps", "sSliceArray", "asSlice", 0, f"d{name}") for name in _FIELDS]
    recon_fov = None if fov[0] is None or fov[1] is None else (fov[0], fov[1], fov[2] or 1.0)
    encoded_fov = None
    if recon_fov is not None:
        encoded_fov = (recon_fov[0] * os_factor, recon_fov[1] * phase_os, recon_fov[2] * slice_os)
    lines = _number(protocol, "Meas", "ImageLines") or round(size[1] / phase_os)
    recon = (
        round(_number(protocol, "Meas", "ImageColumns") or base),
        round(lines),
        round(_number(protocol, *kspace, "lImagesPerSlab") or size[2]) if is_3d else 1,
    )
    calibration = _number(protocol, "MeasYaps", "sPat", "ucRefScanMode")
    header = Header(
        encoded_shape=size[:2],
        recon_shape=recon[:2],
        padding=(left, left + last_line),
        vendor=_text(protocol, "Meas", "Manufacturer"),
        model=_text(protocol, "Meas", "ManufacturersModelName"),
        field_T=_number(protocol, "Meas", "flMagneticFieldStrength"),
        encoded_fov_mm=None if encoded_fov is None else encoded_fov[:2],
        recon_fov_mm=None if recon_fov is None else recon_fov[:2],
        partitions=size[2],
        acceleration=_number(protocol, "MeasYaps", "sPat", "lAccelFactPE") or 1.0,
    )
    return Encoding(
        header=header,
        size=size,
        recon_size=recon,
        center=center,
        fov_mm=encoded_fov,
        recon_fov_mm=recon_fov,
        calibration=None if calibration is None else _CALIBRATION.get(int(calibration)),
        lines=last_line,
        averages=int(image["idx"]["average"].max()) + 1,
        receiver_bandwidth=_RECEIVER_BANDWIDTH,
        protocol=_text(protocol, "MeasYaps", "tProtocolName"),
        patient_id=_text(protocol, "Config", "PatientID"),
    )


_FIELDS = ("ReadoutFOV", "PhaseFOV", "Thickness")


def _entry(protocol: Mapping[str, Any], *keys: str | int) -> Any:
    """An entry of nested tables and lists; None: it is not there."""
    found: Any = protocol
    for key in keys:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def _number(protocol: Mapping[str, Any], *keys: str | int) -> float | None:
    """A positive number; None where there is none."""
    found = _entry(protocol, *keys)
    return float(found) if isinstance(found, int | float) and 0 < found < 1e9 else None


def _text(protocol: Mapping[str, Any], *keys: str | int) -> str | None:
    """Text; None where it is blank or was made anonymous by letters x."""
    found = str(_entry(protocol, *keys) or "").strip()
    return found if found.strip("xX ") else None
