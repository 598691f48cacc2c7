"""The report: report.json rendered as one self-contained HTML file. No torch, no network, no script."""

from medssl.report.page import write_report

__all__ = ["write_report"]
