"""The short form's figures, as one table behind the tests' results."""

from __future__ import annotations

from typing import Any

from tests.chaos.report import Figure, table


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    kept = [figures for report in reports for name, figures in report.user_properties if name == "figures"]
    if kept and terminalreporter.verbosity >= 0:
        terminalreporter.section("promises")
        terminalreporter.write_line(table(Figure(*figure) for figures in kept for figure in figures))
