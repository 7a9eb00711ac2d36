"""k-space files of any shape."""

import pytest


@pytest.fixture
def written(fake_file):
    """Writes k-space of any shape; returns the path."""

    def write(kspace, **content):
        return fake_file(shape=kspace.shape, kspace=kspace, **content)

    return write
