import h5py
import pytest
from fastmri.data.mri_data import SliceDataset

from recon import DataError, Header, header_xml, read_header

BILLION_LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><ismrmrdHeader>&c;</ismrmrdHeader>"""
EXTERNAL_ENTITY = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>
<ismrmrdHeader>&e;</ismrmrdHeader>"""


def test_reads_facts(header):
    facts = read_header(header((640, 368), (320, 320), maximum=321, center=161))
    assert facts == Header(
        encoded_shape=(640, 368),
        recon_shape=(320, 320),
        padding=(23, 345),
        vendor="Acme",
        model="One",
        field_T=1.494,
    )


@pytest.mark.parametrize("maximum", [321, 367])
@pytest.mark.parametrize("center", [161, 184, 150])
def test_sizes_and_padding_equal_fastmri(fake_file, maximum, center):
    path = fake_file(shape=(1, 2, 64, 368), recon=(32, 320), maximum=maximum, center=center)
    (sample,) = SliceDataset(path.parent, challenge="multicoil").raw_samples
    theirs = sample.metadata
    with h5py.File(path) as file:
        ours = read_header(file["ismrmrd_header"][()])
    assert ours.padding == (theirs["padding_left"], theirs["padding_right"])
    assert ours.encoded_shape == theirs["encoding_size"][:2]
    assert ours.recon_shape == theirs["recon_size"][:2]


@pytest.mark.parametrize(
    "header",
    [
        Header((640, 368), (320, 320), (23, 345), "A & B <C>", "One", 2.89),
        Header((12, 11), (12, 11), (0, 11)),
    ],
)
def test_written_header_reads_back(header):
    assert read_header(header_xml(header)) == header


def test_absent_facts_and_limits():
    xml = """<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>8</x><y>6</y></matrixSize></encodedSpace>
    <reconSpace><matrixSize><x>4</x><y>6</y></matrixSize></reconSpace></encoding></ismrmrdHeader>"""
    assert read_header(xml) == Header((8, 6), (4, 6), (0, 6))


@pytest.mark.parametrize("xml", [BILLION_LAUGHS, EXTERNAL_ENTITY], ids=["billion laughs", "external entity"])
def test_entities_are_refused(xml):
    with pytest.raises(DataError, match=r"scan\.h5: ismrmrd_header: found .*entities.*remove"):
        read_header(xml, "scan.h5")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</ismrmrdHeader>", "", "broken XML"),
        ("<x>8</x>", "<x>eight</x>", "encodedSpace/matrixSize/x: found 'eight'"),
        ("<x>8</x>", "<x>0</x>", "encodedSpace/matrixSize/x: found '0'"),
        ("<x>8</x>", "", "encodedSpace/matrixSize/x: found nothing"),
        ("<center>3</center>", "", "kspace_encoding_step_1/center: found nothing"),
        ("1.494", "strong", "systemFieldStrength_T: found 'strong'"),
    ],
)
def test_broken_headers_are_one_line(header, old, new, message):
    xml = header((8, 6), (4, 6))
    assert old in xml
    with pytest.raises(DataError, match=message) as error:
        read_header(xml.replace(old, new), "scan.h5")
    assert str(error.value).startswith("scan.h5: ismrmrd_header") and "\n" not in str(error.value)
