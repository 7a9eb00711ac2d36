"""`fedrecon deploy rehearse`: its commands, what it refuses, and that it stops what it started."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from federation import make_demo_sites
from federation.cli.main import _parser, main
from federation.cli.rehearsal import SIMULATED, Rehearsal, perform
from federation.deploy.policy import Policy
from federation.flower.processes import is_running
from federation.sites import DEMO_SITES, SimulatedSite
from recon import DataError, Simulation

from ..flower.running import processes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
TINY = [
    word
    for value in (
        "network.cascades=2", "network.channels=4", "network.depth=2", "federation.rounds=1",
        "training.steps_per_round=4", "evaluation.arms=['zero_filled']", "evaluation.validation_slices=1",
    )
    for word in ("--set", value)
]  # fmt: skip
PAGE = Path(__file__).parents[3] / "docs" / "howto" / "rehearsal.md"


def rehearsal(out: Path, **changes: object) -> Rehearsal:
    given: dict[str, object] = {
        "out": out,
        "recipe": ("fedavg", "--set", "federation.rounds=2"),
        "run": "fedavg",
        "plugins": (),
        "manifests": {name: out / "data" / f"{name}.toml" for name in SIMULATED},
        "policy": None,
        "port": 9092,
        "simulated": True,
    }
    return Rehearsal(**{**given, **changes})  # type: ignore[arg-type]


class Engineer:
    """Types no command but writes down its words; the one with ``wrong`` fails by ``error``."""

    def __init__(self, wrong: str = "", error: BaseException | None = None) -> None:
        self.typed: list[str] = []
        self.wrong, self.error = wrong, error

    def __call__(self, words: Sequence[str]) -> int:
        self.typed.append(shlex.join(words))
        if self.wrong and self.wrong in self.typed[-1]:
            self.wrong = ""
            if self.error is not None:
                raise self.error
            return 3
        return 0


def stops(engineer: Engineer) -> list[str]:
    return [command for command in engineer.typed if " stop " in command]


def test_every_command_of_a_rehearsal_exists_and_simulated_sites_are_those_of_the_demo(tmp_path: Path) -> None:
    plan = rehearsal(tmp_path, plugins=("sha256:" + 64 * "a",), policy=tmp_path / "policy.toml")
    steps = [*plan.opening(), *plan.closing("0123456789ab"), *(plan.service(who, "stop") for who in ("server", "east"))]
    assert all(callable(_parser().parse_args(step.words).run) for step in steps)
    assert {"init", "enroll", "propose", "approve", "run", "export", "verify"} <= {w for s in steps for w in s.words}
    assert set(SIMULATED) <= {site.name for site in DEMO_SITES if not site.unseen}


def test_a_site_without_test_data_is_not_scored(tmp_path: Path) -> None:
    plan = rehearsal(tmp_path, untested=frozenset({"north"}))
    assert [step.who for step in plan.closing("") if step.words[0] == "evaluate"] == ["east", "south"]


def test_the_page_shows_the_commands_of_a_rehearsal_in_their_order() -> None:
    """Those of the server and of the first site."""
    page = PAGE.read_text("utf-8")
    run = re.search(r"^run: +(\w{12})", page, re.MULTILINE)
    assert run is not None
    plan = rehearsal(Path("runs/rehearsal"))
    steps = [step for step in (*plan.opening(), *plan.closing(run[1])) if step.who in ("sites", "server", "east")]
    expected = [f"$ {step.command}" for step in steps if not step.about.startswith(("enroll north", "enroll south"))]
    assert [line for line in page.splitlines() if line.startswith("$ ")] == expected


@pytest.mark.parametrize("error", [DataError("no reply"), None])
def test_a_failed_step_is_named_and_everything_that_was_started_is_stopped(
    tmp_path: Path, error: DataError | None
) -> None:
    (tmp_path / "sites" / "north" / "logs").mkdir(parents=True)
    engineer = Engineer(f"site start {tmp_path / 'sites' / 'north'}", error)
    with pytest.raises(DataError) as caught:
        perform(rehearsal(tmp_path), engineer)
    reason = "no reply" if error else "it ended with exit code 3"
    assert str(caught.value) == f"step 15 of 35, north: start: {reason}; logs: {tmp_path / 'sites' / 'north' / 'logs'}"
    folders = [tmp_path / "sites" / "north", tmp_path / "sites" / "east", tmp_path / "server"]
    assert [command.split()[-1] for command in engineer.typed[-3:]] == [str(folder) for folder in folders]
    assert stops(engineer) == engineer.typed[-3:] and "status" not in " ".join(engineer.typed)


def test_a_failed_run_shows_what_server_and_sites_say_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engineer = Engineer("deploy run", DataError("round 0: refused"))
    with pytest.raises(DataError, match=r"step 18 of 35, server: run the recipe at the sites: round 0: refused"):
        perform(rehearsal(tmp_path), engineer)
    verbs = [next(word for word in command.split() if word in ("status", "stop")) for command in engineer.typed[-8:]]
    assert verbs == ["status"] * 4 + ["stop"] * 4
    assert f"$ fedrecon deploy site status {tmp_path / 'sites' / 'south'}\n" in capsys.readouterr().out


def test_an_interruption_stops_everything_and_a_failed_stop_does_not_hinder_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    engineer = Engineer("deploy run", KeyboardInterrupt())

    def execute(words: Sequence[str]) -> int:
        code = engineer(words)
        if shlex.join(words).endswith(f"site stop {tmp_path / 'sites' / 'north'}"):
            raise DataError("process 7 does not end")
        return code

    with pytest.raises(KeyboardInterrupt):
        perform(rehearsal(tmp_path), execute)
    assert len(stops(engineer)) == 4 and stops(engineer) == engineer.typed[-4:]
    assert "warning: process 7 does not end" in capsys.readouterr().out
    assert {number: signal.getsignal(number) for number in before} == before


def test_everything_is_stopped_if_nobody_reads_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engineer = Engineer()

    def say(text: str) -> None:
        if any("deploy run" in command for command in engineer.typed):
            raise BrokenPipeError

    def execute(words: Sequence[str]) -> int:
        code = engineer(words)
        say("")
        return code

    monkeypatch.setattr("federation.cli.rehearsal.say", say)
    with pytest.raises(DataError):
        perform(rehearsal(tmp_path), execute)
    assert len(stops(engineer)) == 4


def test_an_interrupted_rehearsal_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("federation.cli.rehearsal.perform", lambda plan, execute: signal.default_int_handler(2, None))
    assert main(["deploy", "rehearse", "--out", str(tmp_path / "out")]) == 130
    said = "interrupted; all processes of the rehearsal have ended. Remove " + str(tmp_path / "out")
    assert said in capsys.readouterr().err


def test_an_interrupted_stop_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.cli.rehearsal._digest", lambda plan: "0123")
    engineer = Engineer("site stop", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        perform(rehearsal(tmp_path), engineer)
    first = f"deploy site stop {tmp_path / 'sites' / 'south'}"
    assert stops(engineer)[:2] == [first, first] and len(stops(engineer)) == 5


def test_a_signal_to_end_is_an_interruption(tmp_path: Path) -> None:
    engineer = Engineer()

    def execute(words: Sequence[str]) -> int:
        if "run" in words:
            os.kill(os.getpid(), signal.SIGTERM)
        return engineer(words)

    with pytest.raises(KeyboardInterrupt):
        perform(rehearsal(tmp_path), execute)
    assert len(stops(engineer)) == 4


def test_what_can_be_refused_is_refused_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, out, sites = tmp_path / "full", tmp_path / "out", tmp_path / "sites"
    for folder in (full, sites):
        folder.mkdir()
    (full / "file").touch()
    (tmp_path / "policy.toml").write_text("minimum_slice = 2\n")
    for words, message in (
        (("--out", full), f"{full}: is not empty; remove it, or choose another --out"),
        (("--out", full / "file"), f"{full / 'file'}: is not empty"),
        (("no_such_recipe",), "no_such_recipe"),
        (("--set", "federation.round=2"), "federation.round: unknown key"),
        (("--sites", tmp_path / "none"), "none: found no such folder"),
        (("--sites", sites), "sites: found no *.toml"),
        (("--policy", tmp_path / "policy.toml"), "minimum_slice: unknown key"),
    ):
        assert main(["deploy", "rehearse", "--out", str(out), *map(str, words)]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not out.exists()


def test_sites_of_the_demo_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sites", "make", "demo", "--size", "24", "--out", str(tmp_path / "data"), "--only"]
    assert main([*command, "south,nort"]) == 2
    assert "--only: found 'nort', expected one of north, east, south" in capsys.readouterr().err
    assert main([*command, "unseen"]) == 0
    assert [path.name for path in (tmp_path / "data").glob("*.toml")] == ["unseen.toml"]
    assert main(["deploy", "rehearse", "--out", str(tmp_path / "out"), "--sites", str(tmp_path / "data")]) == 2
    assert f"{tmp_path / 'data'}: no site trains" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a small rehearsal with two sites whose policy allows two training slices; its folder is missing."""
    folder = tmp_path_factory.mktemp("small")
    sites = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in ("east", "north")]
    make_demo_sites(folder / "data", size=24, train=1, validation=1, test=1, slices=2, sites=sites)
    (folder / "policy.toml").write_text(Policy(minimum_slices=2).to_toml())
    choices = ["--sites", folder / "data", "--policy", folder / "policy.toml"]
    return ["deploy", "rehearse", "fedavg", *map(str, choices), *TINY]


@pytest.mark.deployment
def test_a_rehearsal_trains_over_tls_and_leaves_reports_and_no_process(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, policy = tmp_path / "out", Path(small[6])
    code = main([*small, "--out", str(out)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    for name in ("east", "north"):
        assert (out / "sites" / name / "policy.toml").read_text() == policy.read_text()
        assert f">{name}<" in (out / "reports" / name / "report.html").read_text()
        assert f"report of {name}: {out / 'reports' / name / 'report.html'}" in captured.out
    assert "round   1/1" in captured.out and "agrees with" in captured.out
    assert not any(is_running(folder) for folder in (out / "server", *(out / "sites").iterdir()))
    assert processes(out) == []


@pytest.mark.deployment
def test_an_interrupted_rehearsal_leaves_no_process(small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from federation.cli.main import main; sys.exit(main(sys.argv[1:]))"  # a background shell ignores SIGINT
    command = [sys.executable, "-c", code, *small, "--out", str(out)]
    with (tmp_path / "log").open("wb") as log:
        ended = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    end = time.monotonic() + 400
    while b"waits for the reply" not in (tmp_path / "log").read_bytes() and ended.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.2)
    ended.send_signal(signal.SIGINT)
    assert ended.wait(120) == 130
    said = (tmp_path / "log").read_text()
    assert said.endswith(
        f"fedrecon: interrupted; all processes of the rehearsal have ended. Remove {out} before another one\n"
    )
    assert "Traceback" not in said
    assert processes(out) == []
