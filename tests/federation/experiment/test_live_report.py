"""A run in training has a report; the report of the end replaces it."""

from pathlib import Path

import pytest

from federation import load_federation, load_recipe, train_run
from federation.experiment import Planning, evaluate_run
from federation.experiment.live_report import LiveReport

from ..fake_sites import write_site

TINY = (
    "network.cascades=1", "network.regularizer=cnn", "network.channels=2", "network.depth=2",
    "training.steps_per_round=1", "federation.rounds=2", "evaluation.arms=['zero_filled', 'local']",
)  # fmt: skip


def test_the_report_of_a_training_shows_its_rounds_and_keeps_pictures_of_patients_at_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = tmp_path / "sites"
    write_site(sites, "north")
    write_site(sites, "south")
    manifest = sites / "south.toml"
    manifest.write_text("synthetic = true\n" + manifest.read_text())
    seen: list[tuple[str, str, str]] = []
    write = LiveReport._write

    def keep(self: LiveReport, *, reload: bool) -> None:
        write(self, reload=reload)
        site = self.run.path / "sites/north/report.html"
        seen.append(((self.run.path / "report.html").read_text(), site.read_text() if site.exists() else "", self.now))

    monkeypatch.setattr(LiveReport, "_write", keep)
    recipe = load_recipe("fedavg", TINY)
    planning = Planning(fixed_jobs=True)
    run = train_run(recipe, load_federation(sites), tmp_path / "run", jobs=1, resume=False, say=str, planning=planning)
    first, after_one, last = seen[0][0], seen[1], seen[-1][0]
    assert "0 of at most 2 rounds are made" in first and 'http-equiv="refresh" content="15"' in first
    assert "1 of at most 2 rounds are made" in after_one[0] and "network of round 1" in after_one[0]
    shared, at_site = after_one[:2]
    assert shared.count("data:image/png") > 0 and "sites/north/report.html" in shared and ">south<" in shared
    assert at_site.count("data:image/png") == shared.count("data:image/png") and "stays at the site" in at_site
    assert 'href="sites/north/report.html"' in shared and 'href="../../report.html"' in at_site
    assert "2 of at most 2 rounds" in last and 'http-equiv="refresh"' not in last
    assert "fedrecon evaluate" in last and "local arm" in last
    evaluate_run(run.path, jobs=1, say=str)
    final = (run.path / "report.html").read_text()
    assert "Every arm at every site" in final
    # A run that is scored keeps its report.
    train_run(recipe, load_federation(sites), tmp_path / "run", jobs=1, resume=True, say=str, planning=planning)
    assert (run.path / "report.html").read_text() == final


def test_an_interrupted_training_says_so_in_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_site(tmp_path / "sites")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("federation.experiment.train._train_at_each", interrupted)
    recipe, sites = load_recipe("fedavg", [*TINY, "evaluation.arms=['local']"]), load_federation(tmp_path / "sites")
    with pytest.raises(KeyboardInterrupt):
        train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=str, planning=Planning(fixed_jobs=True))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "was interrupted; the same command with --resume continues it" in page and 'http-equiv="refresh"' not in page


def test_a_report_that_fails_ends_no_training_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_site(tmp_path / "sites")
    for name in ("_results", "_picture"):
        monkeypatch.setattr(LiveReport, name, lambda *arguments: 1 / 0)
    run = train_run(
        load_recipe("fedavg", [*TINY, "evaluation.arms=[]"]),
        load_federation(tmp_path / "sites"),
        tmp_path / "run",
        jobs=1,
        resume=False,
        say=str,
        planning=Planning(fixed_jobs=True),
    )
    assert run.selected().history and not (run.path / "report.html").exists()
    assert [line for line in caplog.messages if "cannot be made (ZeroDivisionError" in line] == caplog.messages
    assert len(caplog.messages) == 1
