"""ISMRMRD files as the standard states them, written by h5py: reader and writer are tested apart."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

IDX = [
    (name, "<u2")
    for name in (
        "kspace_encode_step_1",
        "kspace_encode_step_2",
        "average",
        "slice",
        "contrast",
        "phase",
        "repetition",
        "set",
        "segment",
    )
] + [("user", "<u2", (8,))]
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("idx", IDX),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
LINE = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32))])
NOISE, CALIBRATION, BOTH, REVERSE, NAVIGATOR = (1 << (number - 1) for number in (19, 20, 21, 22, 23))


def encoding_xml(
    size: tuple[int, int, int],
    recon: tuple[int, int, int] | None = None,
    *,
    oversampling: float = 1.0,
    limits: tuple[int, int] | None = None,
    trajectory: str = "cartesian",
    calibration: str | None = None,
    slab: float = 1.0,
) -> str:
    """One encoding; ``limits`` are maximum and center of the phase encoding."""
    recon = recon or (round(size[0] / oversampling), size[1], round(size[2] / slab))
    last, center = limits or (size[1] - 1, size[1] // 2)

    def space(name: str, n: tuple[int, int, int], fov: tuple[float, ...]) -> str:
        matrix, field_ = (
            "".join(f"<{axis}>{value}</{axis}>" for axis, value in zip("xyz", of, strict=True)) for of in (n, fov)
        )
        return f"<{name}><matrixSize>{matrix}</matrixSize><fieldOfView_mm>{field_}</fieldOfView_mm></{name}>"

    parallel = (
        ""
        if calibration is None
        else (
            "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
            f"<calibrationMode>{calibration}</calibrationMode></parallelImaging>"
        )
    )
    return (
        f"<encoding><trajectory>{trajectory}</trajectory>"
        + space("encodedSpace", size, (240 * oversampling, 200.0, 60 * slab))
        + space("reconSpace", recon, (240.0, 200.0, 60.0))
        + f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>"
        f"<center>{center}</center></kspace_encoding_step_1><kspace_encoding_step_2><minimum>0</minimum>"
        f"<maximum>{size[2] - 1}</maximum><center>{size[2] // 2}</center></kspace_encoding_step_2></encodingLimits>"
        f"{parallel}</encoding>"
    )


def header_of(*encodings: str, bandwidth: float | None = None) -> str:
    receiver = (
        "" if bandwidth is None else (f"<relativeReceiverNoiseBandwidth>{bandwidth}</relativeReceiverNoiseBandwidth>")
    )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<subjectInformation><patientID>p7</patientID></subjectInformation>"
        "<measurementInformation><protocolName>t2_tse</protocolName></measurementInformation>"
        "<acquisitionSystemInformation><systemVendor>Acme</systemVendor><systemModel>One</systemModel>"
        f"<systemFieldStrength_T>2.8936</systemFieldStrength_T>{receiver}</acquisitionSystemInformation>"
        f"<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"{''.join(encodings)}</ismrmrdHeader>"
    )


@dataclass
class RawFile:
    """Lines to write; ``add`` appends one."""

    xml: str
    lines: list[Any] = field(default_factory=list)
    positions: dict[int, Array] = field(default_factory=dict)

    def add(
        self,
        samples: Array,
        *,
        center: int | None = None,
        flags: int = 0,
        space: int = 0,
        discard: tuple[int, int] = (0, 0),
        time_us: float = 5.0,
        positions: Array | None = None,
        **counters: int,
    ) -> None:
        """Samples ``(coils, samples)``; positions ``(samples, axes)``."""
        head = np.zeros((), HEAD)
        head["version"], head["flags"], head["encoding_space_ref"], head["sample_time_us"] = 1, flags, space, time_us
        head["active_channels"] = head["available_channels"] = len(samples)
        head["number_of_samples"] = samples.shape[1]
        head["center_sample"] = samples.shape[1] // 2 if center is None else center
        head["discard_pre"], head["discard_post"] = discard
        if positions is not None:
            head["trajectory_dimensions"] = positions.shape[-1]
            self.positions[len(self.lines)] = np.asarray(positions, np.float32).ravel()
        for name, value in counters.items():
            head["idx"][name] = value
        self.lines.append((head, np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()))

    def add_slices(self, kspace: Array, columns: Any = None, shift: int = 0, **keys: Any) -> None:
        """Lines of ``(slices, coils, readout, phase)``; ``shift`` is added to a column to get its counter."""
        for number, one in enumerate(kspace):
            for column in range(kspace.shape[-1]) if columns is None else columns:
                self.add(one[..., column], slice=number, kspace_encode_step_1=column + shift, **keys)

    def write(self, path: Path, group: str = "dataset") -> Path:
        with h5py.File(path, "w") as file:
            held = file.create_group(group)
            xml = held.create_dataset("xml", (1,), h5py.vlen_dtype(bytes))
            xml[0] = self.xml.encode()
            data = held.create_dataset("data", (len(self.lines),), LINE, maxshape=(None,))
            records = np.zeros(len(self.lines), LINE)
            for number, (head, values) in enumerate(self.lines):
                records["head"][number] = head
                records["traj"][number] = self.positions.get(number, np.zeros(0, np.float32))
                records["data"][number] = values
            data[:] = records
        return path
