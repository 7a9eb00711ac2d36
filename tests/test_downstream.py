"""Labeled sites of real anatomy (benchmarks/downstream.py): who is where."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from federation.sites import ImageLabels, parse_classes

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("downstream", ROOT / "benchmarks" / "downstream.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("persons", "tested"), [(4, 14), (6, 6)])
def test_every_person_is_in_one_place(benchmark: ModuleType, persons: int, tested: int) -> None:
    labels = ImageLabels(benchmark.LABELS, parse_classes(benchmark.CLASSES))
    images = benchmark._dealt(labels, ["north", "east", "south", "west"], persons, 0)
    assert len({image.person for image in images}) == len(images) == 34
    assert Counter(image.split for image in images) == {"train": 4 * persons, "validation": 4, "test": tested}
    assert len({(image.site, image.split) for image in images}) == 12
