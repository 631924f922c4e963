"""The command line, as far as it needs no server."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hubbub_client import cli


@pytest.mark.parametrize("who", [["alice"], ["alice", "bob", "--conversation", "c1"]])
def test_chat_wants_either_a_name_or_a_conversation(who: list[str]) -> None:
    result = CliRunner().invoke(cli.app, ["chat", *who])

    assert result.exit_code == 2
    assert "--conversation" in result.output


def test_a_script_is_never_asked_for_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner(env={"HUBBUB_PASSWORD": ""}).invoke(cli.app, ["chat", "alice", "bob", "--json"])

    assert result.exit_code == 2
    assert "HUBBUB_PASSWORD" in result.output


def test_a_password_file_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    arguments = ["chat", "alice", "bob", "--password-file", str(missing)]
    result = CliRunner(env={"HUBBUB_PASSWORD": "", "COLUMNS": "500"}).invoke(cli.app, arguments)

    assert result.exit_code == 2
    assert str(missing) in result.output


def test_a_broken_server_does_not_take_the_client_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("server", "hubbub_nothing.cli:register", "hubbub.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [broken] if group == "hubbub.commands" else [])
    monkeypatch.setattr("sys.argv", ["hubbub", "chat", "--help"])

    with pytest.raises(SystemExit) as exit_:
        cli.main()

    assert exit_.value.code == 0
    output = capsys.readouterr()
    assert "hubbub_nothing" in output.err
    assert "--json" in output.out
