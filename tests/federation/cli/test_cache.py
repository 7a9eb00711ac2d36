"""`fedrecon cache` lists and clears, and asks before."""

import pytest

from federation.cli.main import main
from recon import require_maps_cache


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path))
    path = require_maps_cache() / ("a" * 64 + ".safetensors")
    path.write_bytes(bytes(2_000_000))
    return path


def test_it_lists(stored, capsys):
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    assert str(stored.parent) in out and "files    1\n" in out and "2.0 MB" in out and "oldest   20" in out


def test_it_asks_before_it_clears(stored, capsys, monkeypatch):
    assert main(["cache", "clear"]) == 2
    assert "add --yes" in capsys.readouterr().err and stored.exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, left in (("", True), ("n", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda text, answer=answer: answer)
        assert main(["cache", "clear"]) == 0
        assert stored.exists() == left
    assert "removed 1 files, 2.0 MB" in capsys.readouterr().out


def test_yes_clears_and_says_how_much(stored, capsys):
    assert main(["cache", "clear", "--yes"]) == 0
    assert not stored.exists() and "removed 1 files, 2.0 MB" in capsys.readouterr().out
