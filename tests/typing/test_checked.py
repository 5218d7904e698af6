"""mypy checks ``api.py`` in strict mode, and the file has all public names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mypy.config_parser import parse_config_file
from mypy.find_sources import create_source_list
from mypy.options import Options

import sealbus
import sealbus.testing

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "tests" / "typing" / "api.py"
MODULE = "tests.typing.api"


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Options:
    """The options with which `make types` runs mypy."""
    monkeypatch.chdir(ROOT)
    options = Options()

    def set_strict() -> None:
        options.warn_unused_ignores = True

    parse_config_file(options, set_strict, "pyproject.toml")
    assert capsys.readouterr().err == ""
    return options


def test_make_types_runs_mypy_as_configured() -> None:
    assert "types: $(READY)" in (ROOT / "Makefile").read_text()
    assert "\n\t$(BIN) -m mypy\n" in (ROOT / "Makefile").read_text()


def test_mypy_checks_the_file(options: Options) -> None:
    assert options.files is not None
    sources = create_source_list(options.files, options)
    assert (MODULE, API) in [(one.module, Path(one.path or "").resolve()) for one in sources]


def test_mypy_checks_the_file_strictly(options: Options) -> None:
    applied = options.clone_for_module(MODULE)
    assert applied.warn_unused_ignores
    assert not applied.ignore_errors
    assert applied.follow_imports == "normal"


def test_every_public_name_is_in_the_file() -> None:
    used = {node.id for node in ast.walk(ast.parse(API.read_text())) if isinstance(node, ast.Name)}
    assert {*sealbus.__all__, *sealbus.testing.__all__} - used == set()
