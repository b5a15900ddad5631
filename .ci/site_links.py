"""MkDocs hook: links from a page to a file outside of `docs/`.

In the repository such a link opens the file. The site has no copy of it, so the hook keeps the text of
the link and drops the target, after it has checked that the file exists.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]+)\)")
_LOG = logging.getLogger("mkdocs.hooks.site_links")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Returns the page's Markdown with links that leave `docs/` replaced by their text."""
    docs = Path(config.docs_dir).resolve()
    folder = docs / Path(page.file.src_uri).parent

    def keep_or_drop(link: re.Match[str]) -> str:
        target = (folder / link[2].partition("#")[0]).resolve()
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            _LOG.warning("%s links to %s, which does not exist", page.file.src_uri, link[2])
        return link[1]

    return _LINK.sub(keep_or_drop, markdown)
