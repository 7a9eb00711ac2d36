"""`fedrecon deploy`: the commands of its pages exist, bad input is one line, folders say what they are."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from federation import make_demo_sites
from federation.cli.deploy import STOPPED
from federation.cli.main import _parser, main
from federation.deploy.keys import SigningKey
from federation.recipes.recipe_library import LIBRARY
from federation.sites import DEMO_SITES

PAGES = Path(__file__).parents[3] / "federation" / "deploy"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
RECIPE = LIBRARY / "fedavg.toml"
COMMANDS = [
    line.split("#")[0].strip()
    for page in ("README.md", "SECURITY.md")
    for line in (PAGES / page).read_text().splitlines()
    if line.startswith("fedrecon ")
]


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_pages_exists(command: str) -> None:
    assert callable(_parser().parse_args(shlex.split(command)[1:]).run)


def test_files_that_the_pages_name_exist() -> None:
    root = PAGES.parents[1]
    for page in ("README.md", "SECURITY.md"):
        text = (PAGES / page).read_text()
        for name in re.findall(r"`((?:tests|scripts|federation)/[\w/.]+)`", text):
            assert (root / name).exists(), name
        for link in re.findall(r"\]\(([\w./]+)\)", text):
            assert (PAGES / link).exists(), link


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["deploy", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("fedrecon: error: ")
    return error


@pytest.fixture
def server(tmp_path: Path) -> Path:
    assert main(["deploy", "init", str(tmp_path / "fed"), "--host", "localhost"]) == 0
    return tmp_path / "fed"


def test_a_server_folder_has_keys_that_its_owner_alone_can_read(server: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in server.iterdir() if path.suffix == ".key"}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "signing.key": 0o600}


@pytest.fixture
def site(server: Path, tmp_path: Path) -> Path:
    make_demo_sites(tmp_path / "data", size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    command = ["site", "init", tmp_path / "site", "--server", "localhost:1", "--ca", server / "ca.crt", "--server-key",
               server / "signing.key.pub", "--data", tmp_path / "data" / f"{DEMO_SITES[0].name}.toml",
               "--proxy", "http://user:zebra%21zebra@127.0.0.1:1"]  # fmt: skip
    assert main(["deploy", *map(str, command)]) == 0
    return tmp_path / "site"


def test_folders_and_all_their_files_are_for_their_owner_alone(server: Path, site: Path) -> None:
    """Under the usual umask of 022, and in a folder that was there before."""
    before = server.parent / "before"
    before.mkdir(mode=0o777)
    assert main(["deploy", "init", str(before), "--host", "localhost"]) == 0
    for folder in (server, site, before):
        found = {path: path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))}
        assert len(found) > 5 and set(found.values()) == {0}, found


def test_a_folder_with_loose_modes_is_refused_with_the_command_that_corrects_it(
    server: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for folder, command in ((server, "server"), (site, "site")):
        for name, mode in (("", 0o777), ("", 0o755), ("", 0o701), ("audit.jsonl", 0o666), (f"{command}.toml", 0o602)):
            path = folder / name
            right = path.stat().st_mode
            path.chmod(mode)
            error = failed(capsys, command, "status", folder)
            assert f"{path}: mode {mode:03o} lets other users" in error
            assert f"chmod -R go-rwx {folder}" in error
            path.chmod(right)
        assert main(["deploy", command, "status", str(folder)]) == STOPPED
        folder.chmod(0o777)
        subprocess.run(shlex.split(f"chmod -R go-rwx {folder}"), check=True)
        assert main(["deploy", command, "status", str(folder)]) == STOPPED


def test_the_password_of_a_proxy_is_in_no_output(
    server: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    error = failed(capsys, "site", "start", site, "--foreground")
    assert "through http://***@127.0.0.1:1 (" in error and "zebra" not in error
    command = ["site", "init", tmp_path / "other", "--server", "localhost:1", "--ca", server / "ca.crt", "--server-key",
               server / "signing.key.pub", "--data", tmp_path / "data" / f"{DEMO_SITES[0].name}.toml"]  # fmt: skip
    for wrong in ("http://user:zebra zebra@proxy:3128", "user:zebra@proxy:3128", "http://user:zebra@proxy/a/b"):
        error = failed(capsys, *command, "--proxy", wrong)
        assert "site init: proxy: is no address of a proxy" in error and "zebra" not in error
    table, right = site / "site.toml", "http://user:zebra%21zebra@127.0.0.1:1"
    content = table.read_text()
    assert right in content
    for wrong in ("http://u:zebra#zebra@a:3128", "http://u:zebra:zebra@a:port", "http://u:zebra@zebra@a:b"):
        table.write_text(content.replace(right, wrong))
        error = failed(capsys, "site", "start", site, "--foreground")
        assert "site.toml: proxy: is no address of a proxy" in error and "zebra" not in error


def test_a_site_does_not_start_with_a_file_that_training_would_refuse(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (path for path in tmp_path.rglob("*.h5") if "train" in path.name)
    with h5py.File(file, "r+") as content:
        content["kspace"][:] = float("nan")
    for lock in tmp_path.rglob("*.lock.json"):
        lock.unlink()
    assert f"{file}: kspace" in failed(capsys, "site", "start", site, "--foreground")


def test_bad_input_is_one_line(server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not empty; choose another folder" in failed(capsys, "init", server, "--host", "localhost")
    assert "is no folder of a server" in failed(capsys, "server", "status", tmp_path / "none")
    assert "is no folder of a site" in failed(capsys, "site", "status", tmp_path / "none")
    (tmp_path / "no.pub").write_text("no key")
    assert "no.pub: is no public key" in failed(
        capsys, "enroll", server, "--site", "north", "--key", tmp_path / "no.pub"
    )
    SigningKey.create(tmp_path / "north")
    key = tmp_path / "north.pub"
    assert "the server does not run" in failed(capsys, "enroll", server, "--site", "north", "--key", key)
    for name in ("../north", "server", "North"):
        assert "is no name of a site" in failed(capsys, "enroll", server, "--site", name, "--key", key)
    assert "no site 'north' takes part" in failed(capsys, "revoke", server, "--site", "north")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "mine"\n[federation]\nround = 3\n')
    assert "federation.round: unknown key" in failed(capsys, "propose", server, recipe)
    assert "no site is enrolled" in failed(capsys, "run", server, RECIPE)
    assert "expected 1 to 64" in failed(capsys, "propose", server, RECIPE, "--name", "../x")
    assert "deploy init: host" in failed(capsys, "init", tmp_path / "f", "--host", "bad host!", "--port", 1)
    assert "port" in failed(capsys, "init", tmp_path / "f", "--host", "localhost", "--port", 99999)
    assert not (tmp_path / "f").exists()
    own = server / "signing.key.pub"
    assert "is the server's own signing key" in failed(capsys, "enroll", server, "--site", "north", "--key", own)
    assert "no such file" in failed(capsys, "enroll", server, "--site", "north", "--key", tmp_path / "none.pub")
    (tmp_path / "bundle.fab").write_bytes(b"no bundle")
    site_arguments = ("--server", "localhost:1", "--ca", server / "ca.crt", "--server-key", own)
    assert "no such file" in failed(
        capsys, "site", "init", tmp_path / "s", *site_arguments, "--data", tmp_path / "x.toml"
    )
    make_demo_sites(tmp_path / "data", size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    site_arguments += ("--data", tmp_path / "data" / f"{DEMO_SITES[0].name}.toml")
    (tmp_path / "wrong.toml").write_text("minimum_slice = 4\n")
    for option, value, message in (
        ("--server", "localhost", "server: "),
        ("--server", "https://localhost:1", "server: "),
        ("--proxy", "foo", "proxy: "),
        ("--ca", own, "signing.key.pub: is no certificate; expected the federation's ca.crt"),
        ("--ca", server / "ca.key", "ca.key: is no certificate"),
        ("--ca", tmp_path / "none", "no such file"),
        ("--server-key", server / "ca.crt", "ca.crt: is no public key"),
        ("--server-key", tmp_path / "none", "no such file"),
        ("--policy", tmp_path / "none", "no such file"),
        ("--policy", tmp_path / "wrong.toml", "minimum_slice: unknown key"),
    ):
        assert message in failed(capsys, "site", "init", tmp_path / "s", *site_arguments, option, value)
    assert not (tmp_path / "s").exists()
    policy = tmp_path / "policy.toml"
    policy.write_text("# of this hospital\nminimum_slices = 4\n")
    assert (
        main(["deploy", "site", "init", str(tmp_path / "s"), *map(str, site_arguments), "--policy", str(policy)]) == 0
    )
    assert (tmp_path / "s" / "policy.toml").read_text() == policy.read_text()


def test_names_and_keys_are_bound_once(server: Path, tmp_path: Path) -> None:
    from federation.deploy.keys import PublicKey
    from federation.deploy.server_folder import ServerFolder
    from recon import DataError

    for name in ("a", "b"):
        SigningKey.create(tmp_path / name)
    folder = ServerFolder(server)
    a, b = (PublicKey.read(tmp_path / f"{name}.pub") for name in ("a", "b"))
    folder.enroll("north", a, 1)
    with pytest.raises(DataError, match="'north' is enrolled already"):
        folder.enroll("north", b, 2)
    with pytest.raises(DataError, match="this key belongs to site 'north'"):
        folder.enroll("south", a, 2)
    folder.revoke("north")
    assert folder.members() == {} and folder.enrolled()["north"].revoked is not None
    with pytest.raises(DataError, match="this key belongs to site 'north'"):
        folder.enroll("north", a, 3)  # a revoked key stays out
    folder.enroll("north", b, 3)
    assert folder.members()["north"].node_id == 3


def test_a_bundle_is_the_same_bytes_and_holds_no_other_code(server: Path, tmp_path: Path) -> None:
    from federation import load_recipe
    from federation.flower.bundle import read_bundle, write_app
    from recon import DataError

    recipe = load_recipe(RECIPE)
    first, second = (write_app(tmp_path / name / "app", recipe) for name in "ab")
    assert first == second
    (tmp_path / "run.fab").write_bytes(first)
    content, found, approval = read_bundle(tmp_path / "run.fab")
    assert content == first and found == recipe and approval.recipe == recipe.digest()
    (tmp_path / "a" / "app" / "client_app.py").write_text("import os\n")
    from flwr.cli.build import build_fab_from_disk

    (tmp_path / "evil.fab").write_bytes(build_fab_from_disk(tmp_path / "a" / "app"))
    with pytest.raises(DataError, match=r"client_app\.py: differs .* do not approve"):
        read_bundle(tmp_path / "evil.fab")
    (tmp_path / "torn.fab").write_bytes(first[:-40])
    with pytest.raises(DataError, match="is no bundle of fedrecon"):
        read_bundle(tmp_path / "torn.fab")


@pytest.mark.slow
def test_every_flipped_byte_of_a_bundle_is_one_line(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation import load_recipe
    from federation.deploy.approval import Approval
    from federation.flower.bundle import read_bundle, write_app
    from recon import DataError

    content = write_app(tmp_path / "app", load_recipe(RECIPE))
    monkeypatch.setattr(Approval, "of", lambda *arguments: None)
    path, refused = tmp_path / "run.fab", 0
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1 + position % 255
        path.write_bytes(altered)
        try:
            read_bundle(path)  # times and comments are checked by the bundle's digest alone
        except DataError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert refused > len(content) / 2


def made_site(server: Path, tmp_path: Path) -> Path:
    make_demo_sites(tmp_path / "data", size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    arguments = ["--server", "localhost:1", "--ca", server / "ca.crt", "--server-key", server / "signing.key.pub"]
    arguments += ["--data", tmp_path / "data" / f"{DEMO_SITES[0].name}.toml"]
    assert main(["deploy", "site", "init", str(tmp_path / "site"), *map(str, arguments)]) == 0
    return tmp_path / "site"


def test_a_bundle_with_a_huge_network_is_not_even_looked_at(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from federation import load_recipe
    from federation.flower.bundle import write_app

    site, bundle = made_site(server, tmp_path), tmp_path / "huge.fab"
    huge = load_recipe(RECIPE, ["network.cascades=100", "network.channels=4096"])
    bundle.write_bytes(write_app(tmp_path / "huge" / "app", huge))
    for options in ((), ("--yes",)):
        error = failed(capsys, "site", "approve", site, bundle, *options)
        assert "huge.fab: network: found" in error and "expected at most 50000000" in error
    policy = site / "policy.toml"
    policy.write_text(policy.read_text().replace("maximum_parameters = 50000000", "maximum_parameters = 1000"))
    bundle.write_bytes(write_app(tmp_path / "usual" / "app", load_recipe(RECIPE)))
    assert "expected at most 1000" in failed(capsys, "site", "approve", site, bundle)


def test_limits_of_differential_privacy_are_said_before_an_approval(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from federation import load_recipe
    from federation.flower.bundle import write_app

    site, bundle = made_site(server, tmp_path), tmp_path / "private.fab"
    small = ["network.channels=4", "federation.rounds=1", "training.steps_per_round=2"]
    recipe = load_recipe("fedavg_private", [*small, "privacy.patients_per_step=1", "privacy.noise_multiplier=2.0"])
    bundle.write_bytes(write_app(tmp_path / "app", recipe))
    capsys.readouterr()
    assert main(["deploy", "site", "approve", str(site), str(bundle)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"(?m)^differential privacy of 1 patient: epsilon up to \d+\.\d\d after all rounds", said)
    assert re.search(rf"(?m)^warning: few patients \({DEMO_SITES[0].name} 1\)", said) and "not approved yet" in said


def test_a_stolen_signing_key_is_replaced_and_each_site_trusts_the_new_one(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from federation.deploy.audit_log import read_log
    from federation.deploy.keys import PublicKey
    from federation.deploy.server_folder import ServerFolder
    from federation.deploy.site_folder import SiteFolder

    site, public = made_site(server, tmp_path), server / "signing.key.pub"
    stolen = tmp_path / "stolen.pub"
    stolen.write_bytes(public.read_bytes())
    certificate = (server / "server.crt").read_bytes()
    arguments = ["deploy", "site", "trust", str(site), "--server-key"]
    assert "server.pub: is this key already" in failed(capsys, *arguments[1:], public)
    assert main(["deploy", "rotate", str(server), "--signing"]) == 0
    new = ServerFolder(server).key.public
    assert new.text == PublicKey.read(public).text != PublicKey.read(stolen).text
    assert (server / "signing.key").stat().st_mode & 0o777 == 0o600
    assert (server / "server.crt").read_bytes() == certificate  # which the sites need not know
    assert new.fingerprint in capsys.readouterr().out
    assert main([*arguments, str(public)]) == 0
    shown = capsys.readouterr().out
    assert new.fingerprint in shown and "not trusted yet" in shown
    assert SiteFolder(site).server_key.text == PublicKey.read(stolen).text
    assert main([*arguments, str(public), "--yes"]) == 0
    assert SiteFolder(site).server_key.text == new.text
    assert "this key was replaced, it may be stolen" in failed(capsys, *arguments[1:], stolen, "--yes")
    assert "is this site's own key" in failed(capsys, *arguments[1:], site / "site.key.pub", "--yes")
    assert [PublicKey.read(path).text for path in SiteFolder(site).former_server_keys()] == [
        PublicKey.read(path).text for path in server.glob("signing-until-*.pub")
    ]
    events = [entry.event for log in (server, site) for entry in read_log(log / "audit.jsonl")]
    assert "signing key rotated" in events and events[-1] == "server key replaced"


@pytest.mark.slow
def test_the_base_of_adapters_goes_beside_the_bundle(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from federation.deploy.site_folder import SiteFolder

    sites, tiny = tmp_path / "data", ("--set", "network.cascades=2", "--set", "network.channels=4")
    tiny += ("--set", "federation.rounds=1", "--set", "training.steps_per_round=1", "--set", "evaluation.arms=[]")
    make_demo_sites(sites, size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    assert main(["train", str(RECIPE), "--sites", str(sites), "--out", str(tmp_path / "base"), *tiny]) == 0
    scales, based = RECIPE.with_name("fed_scales.toml"), ("--set", f"network.base='{tmp_path / 'base'}'")
    assert "network.base: found none with the adapter 'scale'" in failed(capsys, "propose", server, scales, *tiny)
    for _ in range(2):  # the same bytes again
        assert main(["deploy", "propose", str(server), str(scales), *tiny, *based]) == 0
    assert "beside it, fed_scales.base to the sites" in capsys.readouterr().out
    other = ("--set", f"network.base='{server / 'runs' / 'fed_scales' / 'fed_scales.base'}'")  # the file serves too
    assert main(["deploy", "propose", str(server), str(scales), *tiny, *other]) == 0
    arguments = ["--server", "localhost:1", "--ca", str(server / "ca.crt")]
    arguments += ["--server-key", str(server / "signing.key.pub"), "--data", str(sites / f"{DEMO_SITES[0].name}.toml")]
    site, bundle = tmp_path / "site", tmp_path / "mail" / "fed_scales.fab"
    assert main(["deploy", "site", "init", str(site), *arguments]) == 0
    bundle.parent.mkdir()
    bundle.write_bytes((server / "runs" / "fed_scales" / "fed_scales.fab").read_bytes())
    assert "fed_scales.base: no such file; the recipe needs it" in failed(capsys, "site", "approve", site, bundle)
    bundle.with_suffix(".base").write_bytes(b"another")
    assert "is it the base of another run?" in failed(capsys, "site", "approve", site, bundle, "--yes")
    assert SiteFolder(site).approvals.all() == []
    bundle.with_suffix(".base").write_bytes((server / "runs" / "fed_scales" / "fed_scales.base").read_bytes())
    capsys.readouterr()
    assert main(["deploy", "site", "approve", str(site), str(bundle), "--yes"]) == 0
    assert re.search(r'base = "sha256:[0-9a-f]{64}"', capsys.readouterr().out)
    (approval,) = SiteFolder(site).approvals.all()
    folder = site / "approvals" / approval.run
    assert main(["deploy", "site", "approve", str(site), str(folder / "bundle.fab"), "--yes"]) == 0  # its own copy
    shutil.rmtree(tmp_path / "base")
    error = failed(capsys, "propose", server, scales, *tiny, *based)
    assert "expected the folder of a trained run" in error and "use the copy of this run: --set network.base=" in error
    wider = ("--set", "network.channels=5", "--name", "wider")
    assert "use the same [network]" in failed(capsys, "propose", server, scales, *tiny, *other, *wider)
    assert not (server / "runs" / "wider").exists()
    assert SiteFolder(site).approvals.recipe_of(approval.run).network.base == str(folder / "bundle.base")


def test_the_status_page_can_be_read_and_nothing_else(server: Path) -> None:
    import asyncio

    import httpx

    from federation.deploy.server_folder import ServerFolder
    from federation.flower.status_page import page_app

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(page_app(ServerFolder(server)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            calls = (("GET", "/"), ("POST", "/"), ("GET", "/signing.key"), ("GET", "/../signing.key"))
            own = [await client.request(method, path) for method, path in calls]
            hosts = (
                "localhost:8080",
                "127.0.0.1",
                "evil.example",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "",
            )
            return own + [await client.get("/", headers={"host": host}) for host in hosts]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [200, 405, 404, 404, 200, 200, 400, 400, 400, 400]
    assert "fedrecon server localhost" in answers[0].text and all("fedrecon" not in a.text for a in answers[6:])


def test_a_site_with_a_broken_folder_does_not_start(server: Path, tmp_path: Path) -> None:
    from federation.deploy.policy import Policy
    from federation.deploy.site_folder import SiteFolder
    from federation.flower.run_site import serve_site
    from recon import DataError

    make_demo_sites(tmp_path / "data", size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    folder = SiteFolder.create(
        tmp_path / "site",
        server="localhost:1",
        authority=server / "ca.crt",
        server_key=server / "signing.key.pub",
        data=tmp_path / "data" / f"{DEMO_SITES[0].name}.toml",
    )
    assert Policy.read(folder.path / "policy.toml") == Policy()
    assert main(["deploy", "site", "status", str(folder.path)]) == STOPPED
    assert main(["deploy", "server", "status", str(server)]) == STOPPED
    with pytest.raises(DataError, match="localhost:1: cannot be reached directly"):
        serve_site(folder)
    for name, text, message in (
        ("policy.toml", "minimum_steps = four", "policy.toml"),
        ("policy.toml", "minimum_slice = 4", "minimum_slice: unknown key"),
        ("site.toml", 'nam = "north"', "nam: unknown key"),
        ("site.toml", f'name = "other"\nserver = "a:1"\ndata = "{folder.settings.data}"', "expected 'other'"),
        ("server.pub", "no key", "is no public key"),
        ("audit.jsonl", '{"n": 7}\n', "audit.jsonl"),
    ):
        path = folder.path / name
        before = path.read_bytes()
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            serve_site(SiteFolder(folder.path))
        path.write_bytes(before)
    manifest = folder.settings.data
    Path(manifest).write_text('device = "cuda:99"\n' + Path(manifest).read_text())
    with pytest.raises(DataError, match="device: found 'cuda:99' where PyTorch sees"):
        serve_site(SiteFolder(folder.path))


def test_a_second_driver_of_a_run_ends_without_a_word(server: Path, tmp_path: Path) -> None:
    from federation.flower.driver import DRIVER, run_job
    from federation.flower.processes import held, is_held
    from recon import DataError

    code = "import sys; from pathlib import Path; from federation.flower.processes import held\n"
    code += f"with held(Path({str(tmp_path / DRIVER)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        assert is_held(tmp_path / DRIVER)
        with pytest.raises(DataError, match="is running already"):
            run_job(tmp_path, None)  # type: ignore[arg-type]
        first.kill()
    assert not is_held(tmp_path / DRIVER) and not (tmp_path / "outcome.json").exists()
    with held(tmp_path / DRIVER):
        pass
