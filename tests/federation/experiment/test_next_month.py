"""A finished run goes on: more rounds, a site that joins or leaves, folders that move."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import federation
from federation.cli import main

from ..fake_sites import SMALL, write_file, write_site

TINY = [*SMALL, "--set", "evaluation.arms=['local']"]


def train(sites: Path, out: Path, *options: str) -> list[str]:
    return ["train", "fedavg", "--sites", str(sites), "--out", str(out), *TINY, *options]


def rounds(count: int) -> tuple[str, str]:
    return ("--set", f"federation.rounds={count}")


def digests(run: Path) -> list[tuple[object, ...]]:
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [(row["round"], row["site"], row["loaded_digest"], row["score_before"]) for row in rows]


@pytest.mark.slow
def test_more_rounds_on_a_finished_run_are_those_of_a_longer_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    """With a constant learning rate; the local arm goes on, too."""
    sites, constant = tmp_path / "sites", ("--set", "training.schedule=constant")
    write_site(sites)
    assert main(train(sites, tmp_path / "run", *rounds(1), *constant)) == 0
    assert "holds a run of another recipe" in fails(*train(sites, tmp_path / "run", *rounds(3), *constant))
    capsys.readouterr()
    assert main(train(sites, tmp_path / "run", *rounds(3), *constant, "--resume")) == 0
    printed = capsys.readouterr().out
    assert "going on from 1 to 3 rounds" in printed and "note: the learning rate" not in printed
    assert main(train(sites, tmp_path / "long", *rounds(3), *constant)) == 0
    for arm in ("", "local/north"):
        assert digests(tmp_path / "run" / arm) == digests(tmp_path / "long" / arm)
    assert main(["evaluate", str(tmp_path / "run"), "--jobs", "1"]) == 0
    for other in (rounds(2), (*rounds(4), "--set", "training.learning_rate=1e-3")):
        assert "another recipe" in fails(*train(sites, tmp_path / "run", *other, *constant, "--resume"))


@pytest.mark.slow
def test_more_rounds_with_a_falling_learning_rate_are_said_to_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_site(tmp_path / "sites")
    assert main(train(tmp_path / "sites", tmp_path / "run", *rounds(1))) == 0
    assert main(train(tmp_path / "sites", tmp_path / "run", *rounds(2), "--resume")) == 0
    assert "note: the learning rate from round 1 on is that of a run of 2 rounds" in capsys.readouterr().out


def test_a_site_joins_and_a_site_leaves(tmp_path: Path) -> None:
    """Each begins at the shared parameters of the best round before."""
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, names in ((before, ("north", "south")), (after, ("east", "south"))):
        for name in names:
            write_site(folder, name)
    assert main(train(before, tmp_path / "first", *rounds(1))) == 0
    assert main(train(after, tmp_path / "second", *rounds(1), "--start-from", str(tmp_path / "first"))) == 0
    run = federation.RunFolder.open(tmp_path / "first")
    best = run.selected().round
    first = {digest for number, _, digest, _ in digests(tmp_path / "first") if number == best}
    begun = digests(tmp_path / "second")
    assert {site for _, site, _, _ in begun} == {"east", "south"}
    assert {digest for number, _, digest, _ in begun if number == 0} == first


@pytest.mark.slow
def test_a_run_survives_that_it_moves_with_its_sites(tmp_path: Path, fails: Callable[..., str]) -> None:
    """And that the run folder alone is copied; a move of the sites alone needs --sites."""
    old, new = tmp_path / "old", tmp_path / "new"
    write_site(old / "sites")
    assert main(train(old / "sites", old / "runs" / "knee", *rounds(1))) == 0
    shutil.copytree(old / "runs" / "knee", tmp_path / "copy")
    mask = (np.arange(20) % 2 == 0) | (abs(np.arange(20) - 10) < 4)
    write_file(tmp_path / "scan.h5", mask=mask)
    expected = federation.load(tmp_path / "copy", site="north")(tmp_path / "scan.h5")
    old.rename(new)
    run = new / "runs" / "knee"
    np.testing.assert_array_equal(federation.load(run, site="north")(tmp_path / "scan.h5"), expected)
    assert main(["evaluate", str(run), "--jobs", "1"]) == 0
    assert main(train(new / "sites", run, *rounds(2), "--resume")) == 0
    (new / "sites").rename(new / "moved")
    command = ["reconstruct", str(run), "--site", "north", str(tmp_path / "scan.h5"), "--out", str(tmp_path / "a.h5")]
    assert "name the folder where the manifests are now with --sites" in fails(*command)
    assert main([*command, "--sites", str(new / "moved")]) == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["image"].shape == expected.shape
