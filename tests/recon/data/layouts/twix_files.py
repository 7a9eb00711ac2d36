"""Siemens raw data written by the layout of its blocks: VD and later with a directory of measurements, and VB."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

END, SYNC, PHASE_CORRECTION, REFERENCE, REFERENCE_AND_IMAGE, REFLECT, NOISE, MULTI_BAND = (
    1 << bit for bit in (0, 5, 21, 22, 23, 24, 25, 38)
)
COUNTERS = ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg", "Ida", "Idb", "Idc", "Idd", "Ide")


def protocol(
    lines: int,
    base: int,
    *,
    partitions: int = 1,
    trajectory: int = 1,
    reference: int = 1,
    acceleration: int = 1,
    dwell_ns: int = 5000,
    regrid: int = 1,
) -> dict[str, str]:
    """Texts of the header by name."""
    yaps = {
        "tProtocolName": '"t1_fl2d"',
        "sKSpace.lBaseResolution": base,
        "sKSpace.lPhaseEncodingLines": lines,
        "sKSpace.lPartitions": partitions,
        "sKSpace.lImagesPerSlab": partitions,
        "sKSpace.ucDimension": "0x4" if partitions > 1 else "0x2",
        "sKSpace.ucTrajectory": f"0x{trajectory:x}",
        "sSliceArray.asSlice[0].dThickness": 40.0 if partitions > 1 else 4.0,
        "sSliceArray.asSlice[0].dPhaseFOV": 200.0,
        "sSliceArray.asSlice[0].dReadoutFOV": 240.0,
        "sRXSPEC.alDwellTime[0]": dwell_ns,
        "sPat.lAccelFactPE": acceleration,
        "sPat.ucRefScanMode": f"0x{reference:x}",
    }
    text = "".join(f"{key}\t = \t{value}\n" for key, value in yaps.items())
    longs = {"iRoFTLength": 2 * base, "iPEFTLength": lines, "i3DFTLength": partitions}
    meas = "".join(f'<ParamLong."{key}">  {{ {value} }}\n' for key, value in longs.items())
    meas += f'<ParamLong."alRegridMode">  {{ {regrid} 1 }}\n'
    meas += '<ParamDouble."flReadoutOSFactor">  { <Precision> 6  2.0 }\n'
    meas += '<ParamDouble."flMagneticFieldStrength">  { <Precision> 6  2.89362 }\n'
    meas += '<ParamString."ManufacturersModelName">  { "Skyra" }\n<ParamString."Manufacturer">  { "SIEMENS" }\n'
    return {
        "Config": '<ParamString."PatientID">  { "p7" }\n',
        "Dicom": '<ParamString."SoftwareVersions">  { "syngo MR E11" }\n',
        "Meas": meas,
        "MeasYaps": f"### ASCCONV BEGIN ###\n{text}\n### ASCCONV END ###",
    }


@dataclass
class Measurement:
    """One measurement; ``add`` appends a line."""

    header: dict[str, str]
    is_vd: bool = True
    blocks: list[bytes] = field(default_factory=list)

    def add(
        self,
        samples: Array,
        *,
        flags: int = 0,
        center: tuple[int, int, int] | None = None,
        cut: tuple[int, int] = (0, 0),
        place: tuple[float, float, float] = (0.0, 0.0, 0.0),
        **counters: int,
    ) -> None:
        """Samples ``(coils, samples)``; ``center`` is that of column, line and partition."""
        column, line, partition = center or (samples.shape[1] // 2, 0, 0)
        count = struct.pack("<14H", *(counters.get(name, 0) for name in COUNTERS))
        middle = struct.pack("<HH", samples.shape[1], len(samples)) + count
        middle += struct.pack("<HHHHfIHH", *cut, column, 0, 0.0, 0, line, partition)
        slice_data = struct.pack("<3f4f", *place, 1, 0, 0, 0)
        values = [np.ascontiguousarray(one, np.complex64).tobytes() for one in samples]
        if self.is_vd:
            size = 192 + sum(32 + len(one) for one in values)
            head = struct.pack("<IiIIIHHiiii", size, 1, len(self.blocks) + 1, 0, 0, 0, 0, 0, 0, 0, 0)
            head += struct.pack("<Q", flags) + middle + slice_data
            head += bytes(192 - len(head))
            self.blocks.append(head + b"".join(bytes(32) + one for one in values))
        else:
            block = b""
            for channel, one in enumerate(values):
                head = struct.pack("<IiIII", 128 + len(one), 1, len(self.blocks) + 1, 0, 0) + struct.pack("<Q", flags)
                head += middle + bytes(16) + slice_data + struct.pack("<HH", channel, 0)
                assert len(head) == 128
                block += head + one
            self.blocks.append(block)

    def add_slices(
        self, kspace: Array, lines: Any = None, center: int | None = None, shift: int = 0, **keys: Any
    ) -> None:
        """Lines of ``(slices, coils, readout, phase)``; ``shift`` is added to a column to get its counter."""
        middle = kspace.shape[-1] // 2 if center is None else center
        for number, one in enumerate(kspace):
            for line in range(kspace.shape[-1]) if lines is None else lines:
                at = (kspace.shape[2] // 2, middle, 0)
                self.add(one[..., line], **{"Sli": number, "Lin": line + shift, "center": at, **keys})

    def add_sync(self) -> None:
        """A block of another device, without samples."""
        head = struct.pack("<I", 192 + 64) + bytes(36) + struct.pack("<Q", SYNC)
        self.blocks.append(head + bytes(192 - len(head)) + bytes(64))

    def content(self, ends: bool = True) -> bytes:
        buffers = b"".join(
            name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode() for name, text in self.header.items()
        )
        length = 8 + len(buffers)
        length += -length % 32 + (0 if self.is_vd else 10240)  # those of VB are long, which tells the two apart
        start = struct.pack("<II", length, len(self.header)) + buffers
        last = Measurement(self.header, self.is_vd)
        last.add(np.zeros((1, 16)), flags=END)
        return start + bytes(length - len(start)) + b"".join(self.blocks) + last.blocks[0] * ends


def write_twix(path: Path, *measurements: Measurement) -> Path:
    """A file of VD with its directory, or the content of one measurement of VB."""
    contents = [measurement.content() for measurement in measurements]
    if not measurements[0].is_vd:
        path.write_bytes(contents[0])
        return path
    places, at = [], 10240
    for content in contents:
        places.append(at)
        at += len(content) + -len(content) % 512
    directory = struct.pack("<II", 0, len(contents))
    for number, (place, content) in enumerate(zip(places, contents, strict=True)):
        directory += struct.pack("<IIQQ64s64s", number, number, place, len(content), b"x", b"t1")
    data = directory + bytes(10240 - len(directory))
    for content in contents:
        data += content + bytes(-len(content) % 512)
    path.write_bytes(data)
    return path
