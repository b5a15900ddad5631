"""The formats of the report of `grapevine_tui.host.report`."""

from __future__ import annotations

from enum import StrEnum


class ReportFormat(StrEnum):
    MARKDOWN = "markdown"
    HTML = "html"

    @property
    def suffix(self) -> str:
        return ".html" if self is ReportFormat.HTML else ".md"
