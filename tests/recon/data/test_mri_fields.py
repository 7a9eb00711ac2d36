"""Fields of view that contradict each other or the matrix sizes, and partial Fourier that the header states."""

import re

import pytest

from recon import Header, KSpaceSlices, open_volume
from recon.data.mri_fields import without_contradiction

from .test_mri_checks import only_line, scan

MATRIX = ((640, 368), (320, 320))
#: Readout oversampled, phase oversampled; rectangular; a rectangular matrix of square pixels; interpolated to double.
SOUND = [
    (MATRIX, (600, 345), (300, 300)),
    (MATRIX, (280, 162), (140, 140)),
    (((512, 228), (512, 432)), (460, 204.5), (230, 194)),
    (((230, 180), (230, 180)), (230, 180), (180, 180)),
    (((640, 276), (320, 260)), (440, 189.8), (220, 178.8)),
    (((256, 128), (256, 256)), (512, 256), (256, 256)),
    (((512, 256), (256, 256)), (256, 256), (256, 256)),
    (((80, 65), (128, 128)), (256, 216), (256, 216)),
    (((640, 128), (320, 320)), (440, 220), (220, 220)),
    (((256, 256), (256, 256)), (0.256, 0.256), (0.256, 0.256)),
]
WRONG = [
    (MATRIX, (345, 600), (300, 300), "exchange x and y of encodedSpace"),
    (((640, 276), (320, 260)), (189.8, 440), (220, 178.8), "exchange x and y of encodedSpace"),
    (((640, 276), (320, 208)), (440, 189.8), (143, 220), "exchange x and y of reconSpace"),
    (MATRIX, (600, 345), (30, 30), "reconSpace may be in cm"),
    (MATRIX, (600, 345), (0.3, 0.3), "reconSpace may be in m:"),
    (MATRIX, (60, 34.5), (300, 300), "encodedSpace may be in cm"),
    (MATRIX, (0.6, 0.345), (300, 300), "encodedSpace may be in m:"),
    (MATRIX, (300, 300), (600, 345), "correct the header"),
]


def stated_header(sizes, encoded, recon):
    return Header(*sizes, (0, sizes[0][1]), encoded_fov_mm=encoded, recon_fov_mm=recon)


@pytest.mark.parametrize(("sizes", "encoded", "recon"), SOUND)
def test_sound_fields_of_view_are_kept(tmp_path, sizes, encoded, recon):
    stated = stated_header(sizes, encoded, recon)
    assert without_contradiction(stated, tmp_path) == (stated, ())


@pytest.mark.parametrize(("sizes", "encoded", "recon", "words"), WRONG)
def test_contradictions_are_said_and_not_used(tmp_path, sizes, encoded, recon, words):
    kept, (line,) = without_contradiction(stated_header(sizes, encoded, recon), tmp_path)
    assert kept.encoded_fov_mm is None and kept.recon_fov_mm is None
    assert words in line and "images are cut to the size of reconSpace" in line


def test_fields_in_another_unit_do_not_cut_the_image(written, header_of):
    path = written(scan(1), recon=(32, 48), ismrmrd_header=header_of((64, 48), (32, 48), (512, 192), (25.6, 19.2)))
    assert open_volume(path).crop_shape == (32, 48)
    assert re.search("found 25.6x19.2 of 512x192 encoded.*may be in cm", only_line(path))


@pytest.fixture
def header_of(header):
    def build(encoded, recon, encoded_fov, recon_fov):
        xml = header(encoded, recon)
        for x, y in (encoded_fov, recon_fov):
            fov = f"</matrixSize><fieldOfView_mm><x>{x}</x><y>{y}</y><z>5</z></fieldOfView_mm><!-- -->"
            xml = re.sub("</matrixSize>(?!<f)", fov, xml, count=1)
        return xml

    return build


@pytest.mark.parametrize(
    ("maximum", "center", "share"), [(35, 24, 0.75), (35, 12, 0.75), (41, 24, 0.875), (29, 24, 0.625)]
)
def test_partial_fourier_in_the_header_is_said(written, maximum, center, share):
    kspace, first = scan(2), 24 - center
    kspace[..., :first] = kspace[..., first + maximum + 1 :] = 0
    path = written(kspace, maximum=maximum, center=center)
    assert open_volume(path).partial_fourier == pytest.approx(share)
    columns = f"columns {first} to {first + maximum} of 48"
    found = f"encodingLimits: found {columns}, partial Fourier ({share:.0%} of lines)"
    assert found in only_line(path)
    data = KSpaceSlices([path], "north")
    assert data.completeness(0) == f"partial Fourier, {share:.0%} of the lines"


@pytest.mark.parametrize(("maximum", "center"), [(47, 24), (39, 20), (38, 20), (38, 19), (37, 20), (30, 15)])
def test_padding_of_both_sides_is_no_partial_fourier(written, maximum, center):
    kspace, first = scan(2), 24 - center
    kspace[..., :first] = kspace[..., first + maximum + 1 :] = 0
    path = written(kspace, maximum=maximum, center=center)
    assert open_volume(path).partial_fourier is None and open_volume(path).notes == ()
    assert KSpaceSlices([path], "north").completeness(0) == "fully sampled"
