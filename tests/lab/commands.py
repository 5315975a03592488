"""Commands as the tests give them."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from regrow.lab.cli.app import app


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def assert_one_line(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    return result.stderr
