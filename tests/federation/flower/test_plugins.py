"""A bundle whose recipe names a plugin: refused unless the engineer of the site gave it; nothing beside it is run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from federation import load_recipe, make_demo_sites
from federation.cli.main import main
from federation.config import loaded_plugins
from federation.deploy.site_folder import SiteFolder
from federation.sites import DEMO_SITES
from recon import REGULARIZERS, DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports

PARTS = """
from pathlib import Path

import torch
from recon import REGULARIZERS, Regularizer

with Path({log!r}).open("a") as file:
    file.write(f"{{__file__}}\\n")


@REGULARIZERS.add("shrink")
class Shrink(Regularizer):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))

    def refine(self, channels, condition):
        return self.factor * channels
"""
RECIPE = """
extends = "fedavg"
name = "mine"
plugins = ["parts.py"]

[network]
cascades = 1
regularizer = "shrink"
"""


@pytest.fixture
def bundle(tmp_path: Path, forget_plugins: Callable[[], None]) -> Path:
    """The bundle in the mail of a site, beside it a folder ``plugins`` as in the server's folder of the run."""
    for name, text in {"parts.py": PARTS.format(log=str(tmp_path / "ran")), "mine.toml": RECIPE}.items():
        (tmp_path / name).write_text(text)
    assert main(["deploy", "init", str(tmp_path / "fed"), "--host", "localhost"]) == 0
    assert main(["deploy", "propose", str(tmp_path / "fed"), str(tmp_path / "mine.toml")]) == 0
    run, mail = tmp_path / "fed" / "runs" / "mine", tmp_path / "mail"
    shutil.copytree(run / "plugins", mail / "plugins")
    shutil.copy(run / "mine.fab", mail)
    forget_plugins()
    (tmp_path / "ran").unlink()
    return mail / "mine.fab"


def test_a_plugin_never_travels_and_is_never_run_from_beside_a_bundle(bundle: Path, tmp_path: Path) -> None:
    from federation.flower.bundle import read_bundle

    assert b"class Shrink" not in bundle.read_bytes()
    name = f"sha256:{next((bundle.parent / 'plugins').glob('*.py')).stem}"
    with pytest.raises(DataError) as error:
        read_bundle(bundle)
    assert f"recipe.toml: plugins: found '{name}', expected a plugin that you give" in str(error.value)
    assert "read it, and add --plugin FILE" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists() and loaded_plugins() == () and "shrink" not in REGULARIZERS


def test_a_site_approves_a_plugin_by_its_content(
    bundle: Path, tmp_path: Path, forget_plugins: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sites, site, server = tmp_path / "data", tmp_path / "site", tmp_path / "fed"
    make_demo_sites(sites, size=24, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:1])
    arguments = ["--server", "localhost:1", "--ca", str(server / "ca.crt")]
    arguments += ["--server-key", str(server / "signing.key.pub"), "--data", str(sites / f"{DEMO_SITES[0].name}.toml")]
    assert main(["deploy", "site", "init", str(site), *arguments]) == 0
    approve = ["deploy", "site", "approve", str(site), str(bundle), "--yes"]
    changed = tmp_path / "changed.py"
    changed.write_text((tmp_path / "parts.py").read_text() + "# another content\n")
    for given in ([], ["--plugin", str(changed)]):
        capsys.readouterr()
        assert main([*approve, *given]) == 2
        assert "plugins: found 'sha256:" in capsys.readouterr().err
        assert SiteFolder(site).approvals.all() == []
        forget_plugins()
    assert main([*approve, "--plugin", str(tmp_path / "parts.py")]) == 0
    assert (tmp_path / "ran").read_text().splitlines() == [str(changed), str(tmp_path / "parts.py")]
    forget_plugins()
    # The site runs the copy in its own folder, as long as it is the one that was approved.
    (approval,) = SiteFolder(site).approvals.all()
    recipe = SiteFolder(site).approvals.recipe_of(approval.run)
    assert recipe.network.regularizer == "shrink" and recipe.digest() == approval.recipe
    (copy,) = (site / "approvals" / approval.run / "plugins").iterdir()
    assert (tmp_path / "ran").read_text().splitlines()[2:] == [str(copy)]
    forget_plugins()
    copy.write_text(copy.read_text() + "# another content\n")
    with pytest.raises(DataError, match=f"{copy}: found content with sha256:"):
        SiteFolder(site).approvals.recipe_of(approval.run)
    assert len((tmp_path / "ran").read_text().splitlines()) == 3


@pytest.mark.parametrize("value", ["3", '"sha256:0"', "[3]", "{a = 1}", '["parts.py"]', '["plugins/parts.py"]'])
def test_a_bundle_with_other_plugins_is_refused_in_one_line(bundle: Path, tmp_path: Path, value: str) -> None:
    from flwr.cli.build import build_fab_from_disk

    from federation.flower.bundle import read_bundle, write_app

    write_app(tmp_path / "app", load_recipe("fedavg"))
    (tmp_path / "app" / "recipe.toml").write_text(f'name = "mine"\nplugins = {value}\n')
    bundle.write_bytes(build_fab_from_disk(tmp_path / "app"))
    with pytest.raises(DataError, match=r"recipe\.toml: plugins: found ") as error:
        read_bundle(bundle)
    assert "\n" not in str(error.value) and loaded_plugins() == ()
