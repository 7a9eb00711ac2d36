"""Small fake files in the fastMRI layout, written by plain h5py: reader and writer are tested apart."""

import h5py
import numpy as np
import pytest

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemVendor>Acme</systemVendor><systemModel>One</systemModel>
<systemFieldStrength_T>1.494</systemFieldStrength_T></acquisitionSystemInformation>
<encoding><encodedSpace><matrixSize><x>{enc[0]}</x><y>{enc[1]}</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>{recon[0]}</x><y>{recon[1]}</y><z>1</z></matrixSize></reconSpace>
<encodingLimits><kspace_encoding_step_1>
<minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits></encoding>
<sequenceParameters><sequence_type>TurboSpinEcho</sequence_type></sequenceParameters></ismrmrdHeader>"""


@pytest.fixture
def header():
    """Builds header XML."""

    def build(enc, recon=None, maximum=None, center=None):
        recon = recon or enc
        maximum = enc[1] - 1 if maximum is None else maximum
        center = enc[1] // 2 if center is None else center
        return HEADER.format(enc=enc, recon=recon, maximum=maximum, center=center)

    return build


@pytest.fixture
def fake_file(tmp_path, header):
    """Writes a file with random k-space; keyword arguments replace or (None) leave out datasets."""

    def write(name="file.h5", shape=(3, 4, 24, 20), recon=None, maximum=None, center=None, seed=0, **datasets):
        rng = np.random.default_rng(seed)
        kspace = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        content = {
            "kspace": kspace.astype(np.complex64),
            "ismrmrd_header": header(shape[-2:], recon, maximum, center),
        } | datasets
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, value in content.items():
                if value is not None:
                    file[key] = value
            file.attrs["acquisition"] = "AXT2"
            file.attrs["patient_id"] = "subject-1"
        return path

    return write
