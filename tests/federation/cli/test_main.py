"""The command line end to end on tiny phantoms, and one clear line for everything that can be wrong."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import federation.rounds
from federation import make_demo_sites, make_task_demo_sites
from federation.cli.main import main
from federation.recipes import LIBRARY, library_entries
from federation.sites import TASK_DEMO_SITES
from physics import CartesianMRI
from recon import nmse, psnr, ssim

RECIPE = LIBRARY / "fedavg.toml"
TINY = [
    "--set", "network.channels=2", "--set", "network.depth=2", "--set", "network.cascades=2",
    "--set", "federation.rounds=2", "--set", "training.steps_per_round=2", "--set", "evaluation.tv_weights=[1e-2]",
    "--set", "evaluation.tv_slices=1", "--set", "training.augment=false",
]  # fmt: skip
ARMS = ["zero_filled", "cg_sense", "tv", "local", "fedavg"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation") / "sites"
    make_demo_sites(folder, size=40, train=1, validation=1, test=2, slices=2)
    return folder


@pytest.fixture(scope="module")
def trained(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "fedavg", "--sites", str(sites), "--out", str(out), "--jobs", "1", *TINY]) == 0
    assert main(["evaluate", str(out), "--jobs", "1"]) == 0
    return out


@pytest.fixture
def copied(sites: Path, tmp_path: Path) -> Path:
    """A federation that a test may break."""
    return Path(shutil.copytree(sites, tmp_path / "sites"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    def run(*arguments: object, code: int = 2) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        error = capsys.readouterr().err.strip()
        assert "Traceback" not in error
        lines = [line for line in error.splitlines() if line.startswith("fedrecon: error: ")]
        assert len(lines) == 1, error
        return lines[0]

    yield run


def test_report_has_every_arm_site_and_promised_key(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert list(report["arms"]) == ARMS
    for arm in report["arms"].values():
        assert set(arm["sites"]) == {"north", "east", "south", "west", "unseen"}
        assert {"psnr", "ssim", "nmse"} <= set(arm["mean"]) & set(arm["worst"])
        for scores in arm["sites"].values():
            assert {"psnr", "ssim", "nmse", "volumes"} <= set(scores)
            assert len(scores["volumes"]) == 2
    assert report["bytes"]["up_per_round"] > 0 < report["bytes"]["down_per_round"]
    assert report["seconds"] > 0
    assert {"torch", "fedrecon", "python"} <= set(report["versions"])
    assert report["metric_card"]["data_range"]
    assert [path.name for path in trained.rglob("report.json")] == ["report.json"]
    page = (trained / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert page.count("data:image/png;base64,") >= 5 * len(ARMS)


def test_anyone_can_recompute_the_table(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    for site in report["arms"]["fedavg"]["sites"]:
        with h5py.File(trained / "test" / f"{site}.h5") as file:
            volumes = file["volume"][:].astype(str)
            reference = file["reference"][:]
            images = {arm: file[f"images/{arm}"][:] for arm in ARMS}
            A = CartesianMRI(torch.from_numpy(file["maps"][:]), torch.from_numpy(file["mask"][:]))
            kspace, truth = (
                torch.from_numpy(file["kspace"][:]),
                torch.from_numpy(file["reference_complex"][:]),
            )
        assert float((A(truth) - kspace).norm() / kspace.norm()) < 0.5  # noise, and coil maps of tiny images
        for arm in ARMS:
            scores = report["arms"][arm]["sites"][site]
            for metric, function in (("psnr", psnr), ("ssim", ssim), ("nmse", nmse)):
                values = [function(reference[volumes == v], images[arm][volumes == v]) for v in np.unique(volumes)]
                assert scores[metric] == pytest.approx(np.mean(values), rel=1e-9)


def test_rounds_are_logged_with_digests_and_bytes(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "rounds.jsonl").read_text().splitlines()]
    assert [(row["round"], row["site"]) for row in rows if row["round"] == 0] == [
        (0, name) for name in ("east", "north", "south", "west")
    ]
    for number in (0, 1, 2):
        assert len({row["loaded_digest"] for row in rows if row["round"] == number}) == 1
    assert len({row["kept_digest"] for row in rows if row["round"] == 1}) == 4
    assert all(row["bytes_down"] > 0 < row["bytes_up"] for row in rows)
    before, after = (next(row for row in rows if row["round"] == n) for n in (0, 1))
    assert before["shared_digest_after"] == after["loaded_digest"]


@pytest.mark.slow
def test_workers_give_the_same_bits(trained: Path, sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    only = ["--set", 'evaluation.arms=["zero_filled"]']
    command = ["train", str(RECIPE), "--sites", str(sites), "--out", str(out), *TINY, *only]
    assert main([*command, "--jobs", "2"]) == 0
    assert digests(out) == digests(trained)


def digests(run: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [(row["loaded_digest"], row["kept_digest"]) for row in rows]


@pytest.mark.slow
def test_ctrl_c_in_a_round_and_resume_gives_the_same_bits(
    trained: Path,
    sites: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    command = ["train", str(RECIPE), "--sites", str(sites), "--out", str(out), "--jobs", "1", *TINY]
    command += ["--set", 'evaluation.arms=["zero_filled"]']
    real, calls = federation.rounds.Replies.take, []

    def interrupted(self: object, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 6:  # the second site of the second round
            raise KeyboardInterrupt
        return real(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(federation.rounds.Replies, "take", interrupted)
        assert main(command) == 130
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert digests(out) == digests(trained)


def test_reconstruct_writes_the_image_in_units_of_the_file(trained: Path, sites: Path, tmp_path: Path) -> None:
    scan = sites / "data" / "north" / "north_test_000.h5"
    out = tmp_path / "recon.h5"
    command = ["reconstruct", str(trained), "--site", "north", str(scan), "--out", str(out)]
    assert main(command) == 0
    with h5py.File(out) as file, h5py.File(scan) as source:
        found, truth = file["reconstruction"][:], source["reconstruction_rss"][:]
        assert file["image"].shape == source["kspace"][:, 0].shape
    assert np.linalg.norm(found - truth) < 0.2 * np.linalg.norm(truth)
    assert main([*command, "--simulate", "--overwrite"]) == 0
    with h5py.File(out) as file:
        assert not np.allclose(file["reconstruction"][:], found)
    assert main([*command, "--site", "unseen", "--overwrite"]) == 0


@pytest.mark.slow
def test_reports_of_measured_data_stay_at_the_site(sites: Path, copied: Path, tmp_path: Path) -> None:
    for manifest in copied.glob("*.toml"):
        manifest.write_text(manifest.read_text().replace("synthetic = true\n", ""))
    out = tmp_path / "run"
    only = ["--set", 'evaluation.arms=["zero_filled"]', "--set", "federation.rounds=1"]
    assert main(["train", str(RECIPE), "--sites", str(copied), "--out", str(out), "--jobs", "1", *TINY, *only]) == 0
    assert main(["evaluate", str(out), "--jobs", "1"]) == 0
    shared = (out / "report.json").read_text()
    assert "north_test_000" not in shared
    assert "data:image/png" not in (out / "report.html").read_text()
    assert not (out / "test").exists()
    assert "north_test_000" in (out / "sites" / "north" / "report.html").read_text()
    assert "east_test_000" not in (out / "sites" / "north" / "report.html").read_text()


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str], fails: Callable[..., str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [tuple(re.split(r"  +", line, maxsplit=1)) for line in lines] == library_entries()
    assert main(["recipes", "fedprox"]) == 0
    assert capsys.readouterr().out == (LIBRARY / "fedprox.toml").read_text()
    assert "did you mean 'fedprox'" in fails("recipes", "fedprx")


@pytest.mark.parametrize(
    "command",
    [
        ["train", "fedavgg", "--sites", "s", "--out", "o"],
        ["demo", "--recipe", "fedavgg", "--out", "o"],
        ["compare", "fedavgg", "--out", "o"],
        ["deploy", "propose", "fed", "fedavgg"],
        ["deploy", "run", "fed", "fedavgg"],
    ],
    ids=lambda command: "_".join(command[:2]),
)
def test_a_wrong_recipe_is_one_line_with_the_nearest_name(
    command: list[str], fails: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "fedavgg: found no such file" in (error := fails(*command)) and "did you mean 'fedavg'" in error
    assert list(tmp_path.iterdir()) == []


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        [],
        ["demo"],
        ["sites"],
        ["sites", "make", "fastmri"],
        ["train"],
        ["evaluate"],
        ["reconstruct"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        assert "usage: fedrecon" in capsys.readouterr().out


def test_wrong_paths(fails: Callable[..., str], sites: Path, trained: Path, tmp_path: Path) -> None:
    assert "nowhere.toml" in fails("train", "nowhere.toml", "--sites", sites, "--out", tmp_path / "a")
    assert "no such folder" in fails("train", RECIPE, "--sites", tmp_path / "nowhere", "--out", tmp_path / "a")
    assert "not a run folder" in fails("evaluate", tmp_path)
    assert "no *.h5" in fails("sites", "make", "fastmri", tmp_path, "--out", tmp_path / "a")
    scan = tmp_path / "missing.h5"
    error = fails("reconstruct", trained, "--site", "north", scan, "--out", tmp_path / "a.h5")
    assert "missing.h5" in error
    error = fails("reconstruct", trained, "--site", "nord", scan, "--out", tmp_path / "a.h5")
    assert "no site 'nord'; it has east, north" in error
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.h5").exists()


def test_a_typo_in_recipe_manifest_or_override(fails: Callable[..., str], copied: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "typo.toml"
    recipe.write_text(RECIPE.read_text().replace("learning_rate", "learnin_rate"))
    out = tmp_path / "run"
    assert "learning_rate" in fails("train", recipe, "--sites", copied, "--out", out)
    assert "did you mean 'rounds'" in fails(
        "train", RECIPE, "--sites", copied, "--out", out, "--set", "federation.round=3"
    )
    manifest = copied / "north.toml"
    manifest.write_text(manifest.read_text().replace("acceleration", "aceleration"))
    error = fails("train", RECIPE, "--sites", copied, "--out", out)
    assert "north.toml" in error and "acceleration" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "size"),
        (lambda path: path.write_bytes(b""), "size"),
        (lambda path: path.unlink(), "no file"),
        (lambda path: flip_a_byte(path), "sha256"),
    ],
    ids=["truncated", "empty", "missing", "altered"],
)
def test_a_damaged_file_is_named_by_check(
    damage: Callable[[Path], object], message: str, copied: Path, fails: Callable[..., str]
) -> None:
    damage(copied / "data" / "north" / "north_train_000.h5")
    error = fails("sites", "check", copied)
    assert message in error and "north_train_000.h5" in error


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_reconstruct_names_what_is_wrong_with_a_scan(
    trained: Path, sites: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    scan, out = tmp_path / "scan.h5", tmp_path / "out.h5"
    command = ("reconstruct", trained, "--site", "north", scan, "--out", out)
    scan.write_text("not HDF5")
    assert "scan.h5" in fails(*command)
    shutil.copy(sites / "data" / "north" / "north_test_000.h5", scan)
    with h5py.File(scan, "r+") as file:
        file["kspace"][0, 0, 0, 0] = np.nan
    assert "NaN" in fails(*command)
    assert not out.exists()


def test_a_run_folder_of_another_recipe_or_in_use(trained: Path, sites: Path, fails: Callable[..., str]) -> None:
    before = (trained / "run.json").read_text()
    command = ("train", RECIPE, "--sites", sites, "--out", trained, "--jobs", 1, *TINY)
    assert "holds a run already; go on with --resume" in fails(*command)
    assert "another recipe" in fails(*command, "--set", "federation.seed=3", "--resume")
    assert (trained / "run.json").read_text() == before


@pytest.mark.slow
def test_a_diverging_site_is_named(sites: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    command = ("train", RECIPE, "--sites", sites, "--out", tmp_path / "run", "--jobs", 1, *TINY)
    steps = ("--set", "training.learning_rate=1.0", "--set", "training.steps_per_round=40")
    error = fails(*command, *steps, "--set", "network.regularizer=unet")
    assert "site" in error and "learning rate" in error


@pytest.mark.slow
def test_the_demo_writes_its_report_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the hospitals of the demo, but smaller and fewer scans."""
    small = partial(make_demo_sites, size=48, test=1, slices=2)
    monkeypatch.setattr("federation.sites.demos.make_demo_sites", small)
    out = tmp_path / "demo"
    command = ["demo", "--out", str(out), "--jobs", "2", *TINY]
    assert main(command) == 0
    assert "* best PSNR of the row" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert list(report["arms"]) == [*ARMS[:-1], "shared", "fedavg_mri"]
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    again = json.loads((out / "report.json").read_text())
    assert again["arms"] == report["arms"]


def test_the_network_before_the_heads_of_the_demo_is_named_once(tmp_path: Path, fails: Callable[..., str]) -> None:
    both = ("--recipe", "fedavg", "--start-from", "brain-mri")
    error = fails("demo", "--kind", "task", "--out", tmp_path / "demo", *both)
    assert "--recipe fedavg and --start-from brain-mri: both name the network before the heads" in error
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_of_heads_trains_three_ways_on_one_network_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(
        make_task_demo_sites, size=32, train=1, validation=1, test=2, slices=2, sites=TASK_DEMO_SITES[:2], seed=2
    )
    monkeypatch.setattr("federation.sites.demos.make_task_demo_sites", small)
    base, out = tmp_path / "base.toml", tmp_path / "demo"
    base.write_text(
        'extends = "demos/fedavg_task"\nname = "base"\n[network]\ncascades = 1\n[training]\nsteps_per_round = 1\n'
        "[federation]\nrounds = 1\n"
    )
    heads = ["federation.rounds=1", "training.steps_per_round=2", "task.head_options={channels=4, depth=1}"]
    options = [word for one in (*heads, "evaluation.tv_weights=[1e-2]") for word in ("--set", one)]
    command = ["demo", "--kind", "task", "--recipe", str(base), "--out", str(out), "--jobs", "1", *options]
    assert main(command) == 0
    told = capsys.readouterr().out
    table = told[told.index("segmentation of lesion: Dice") :].splitlines()
    rows = [tuple(line.split()[:2]) for line in table[2:6]]
    assert table[1].split() == ["run", "arm", "east", "north"]
    assert rows == [
        ("reference", "downstream_reference"), ("two_stage", "downstream_two_stage"), ("two_stage", "local"),
        ("end_to_end", "downstream_end_to_end"),
    ]  # fmt: skip
    trained = (out / "base" / "rounds.jsonl").read_bytes()
    assert main(command) == 2 and "is not empty" in capsys.readouterr().err
    (out / "end_to_end" / "report.html").unlink()
    assert main([*command, "--resume"]) == 0
    assert (out / "end_to_end" / "report.html").exists() and (out / "base" / "rounds.jsonl").read_bytes() == trained


@pytest.mark.parametrize("option", ["--seeds", "--jobs"])
@pytest.mark.parametrize("count", ["0", "two"])
def test_counts_are_at_least_one(option: str, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", option, count])
    words = f"argument {option}: found {count!r}, expected a whole number of at least 1"
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tables", "--out", "nowhere"], "nowhere: holds no comparison; run one with --out"),
        (["missing.toml"], "missing.toml: found no such file"),
        ([str(RECIPE.with_name("int8.toml"))], "its name 'int8' is that of another arm of the comparison"),
    ],
)
def test_compare_says_what_is_wrong_in_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
