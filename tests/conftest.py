"""Skips for what a machine may lack: a GPU (`cuda`), the folder of measured data (`real_data`)."""

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacks = {
        "cuda": None if torch.cuda.is_available() else "no GPU",
        "real_data": None if os.environ.get("FEDRECON_DATA") else "FEDRECON_DATA is not set",
    }
    for item in items:
        for marker, reason in lacks.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
