"""What an approval covers."""

from pathlib import Path

import pytest

from federation.deploy import approval


@pytest.mark.parametrize("name", ["physics/__init__.py", "physics/__init__.pyi", "federation/deploy/keys.py"])
def test_software_digest_covers_code_and_stubs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "__file__", str(tmp_path / "federation" / "deploy" / "approval.py"))
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text("from .mri import CartesianMRI as CartesianMRI\n")
    before = approval.software_digest()
    file.with_name("README.md").write_text("no code\n")
    assert approval.software_digest() == before
    file.write_text("from .ct import RadonOperator as CartesianMRI\n")
    assert approval.software_digest() != before
