"""The report of attacks: pictures of patients stay at the site; what the page says; it fits a phone."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon import epsilon_text, privacy_text, write_privacy_report
from recon.report.privacy_page import privacy_page

from .test_in_a_browser import in_browser

ROW = {
    "case": "exact_gradient",
    "title": "one exact gradient, batch 1",
    "slice": 0,
    "psnr": 20.25,
    "ssim": 0.5,
    "control_psnr": 15.0,
    "control_ssim": 0.3,
    "blank_psnr": 12.0,
    "blank_ssim": 0.1,
    "inverted_psnr": 25.0,
    "inverted_ssim": 0.8,
    "first_distance": 1.2,
    "last_distance": 0.015,
    "distance_at_truth": 0.01,
    "converged": True,
    "verdict": "recovers",
    "losses": [[1, 1.2], [50, 0.015]],
    "control_losses": [[1, 1.1], [50, 0.2]],
    "seconds": 3.0,
}


def results(**changes: Any) -> dict[str, Any]:
    member = {"site": "north", "network": "shared", "members": 2, "non_members": 3, "auc": 2 / 3, "low": 0.21}
    pooled = {"site": "all sites", "high": 0.94, "tpr": None, "fpr": None, "resolution": None}
    return {
        "method": "fedavg",
        "site": "north",
        "sites_in_sum": ["north"],
        "modality": "mri",
        "synthetic": True,
        "matrix": [48, 40],
        "steps": 50,
        "round": 3,
        "replayed_round": 2,
        "optimizer": "adam",
        "steps_per_round": 8,
        "batch_size": 1,
        "secure_sum": False,
        "noise": False,
        "positive_control": {"bar": 30.0, "psnr": [41.2], "succeeded": True},
        "control_row": ROW | {"title": "linear network"},
        "attacks": [ROW],
        "left_out": {"sum of updates": "there is one site"},
        "epsilon": {"north": None},
        "membership": [member | {"high": 0.93, "tpr": 0.5, "fpr": 0.0, "resolution": 1 / 3}, member | pooled],
    } | changes


def pictures() -> list[dict[str, Any]]:
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    names = ("reference", "attack", "control", "blank", "zero_filled")
    return [{"name": "one exact gradient", "where": "training slice 1", "images": dict.fromkeys(names, image)}]


def test_pictures_of_measured_data_stay_at_the_site(tmp_path: Path) -> None:
    page = write_privacy_report(tmp_path, results(synthetic=False), pictures()).read_text()
    assert "<img" not in page and "stay at the site" in page
    assert "<img" in (tmp_path / "sites" / "north" / "privacy.html").read_text()
    simulated = write_privacy_report(tmp_path / "other", results(), pictures()).read_text()
    assert "<img" in simulated and not (tmp_path / "other" / "sites").exists()


def test_what_the_page_says(tmp_path: Path) -> None:
    page = write_privacy_report(tmp_path, results(epsilon={"north": 4.501, "west": None}), pictures()).read_text()
    membership = ("0.21 to 0.93", "33.3 %", "0.21 to 0.94")
    for text in (*membership, "20.2 / 0.50", "4.51", "not run, there is one site", "round 3", "41.2 dB"):
        assert text in page
    for changes, text in (({"noise": True}, "drawn anew"), ({"replayed_round": None}, "no site has trained")):
        assert text in privacy_page(results(**changes)) and text not in page
    assert "round 2: 8 steps of adam" in page
    assert "states no epsilon" not in page and "Nothing can be concluded" not in page
    assert json.loads((tmp_path / "privacy.json").read_text())["attacks"] == [ROW]
    assert (tmp_path / "privacy.csv").read_text().splitlines()[0].startswith("case,title,slice,psnr")


def test_text_begins_with_the_positive_control() -> None:
    failed = {"bar": 30.0, "psnr": [12.0], "succeeded": False}
    assert "Nothing can be concluded" in privacy_text(results(positive_control=failed)).splitlines()[0]
    assert "works on this network" in privacy_text(results()).splitlines()[0]


def test_epsilon_is_rounded_up() -> None:
    found = {value: epsilon_text(value) for value in (0.0, 3.0, 3.001, 2.129, 0.3, math.inf)}
    assert list(found.values()) == ["0.00", "3.00", "3.01", "2.13", "0.30", "infinite"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_is_wider_than_the_page(tmp_path: Path, width: int) -> None:
    found = in_browser(write_privacy_report(tmp_path, results(), pictures()), width)
    assert found["scroll"] <= found["width"] and found["beyond"] == []
