"""MkDocs hook: links from a page to a file outside of `docs/`.

In the repository such a link opens the file. The site has copies of those in `screenshots/` only: links
to them lead there. Of other links the hook keeps the text and drops the target, after it has checked that the
file exists.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_SCREENSHOTS = "screenshots"
_PICTURE = re.compile(r"(!\[[^\]]*\]\((?:\.\./)*)\.\./(screenshots/[^)\s]+\))")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]+)\)")
_LOG = logging.getLogger("mkdocs.hooks.site_links")


def on_files(files: Any, *, config: Any, **_: Any) -> Any:
    """Adds the screenshots to the files of the site, as if they lay in `docs/`."""
    root = Path(config.docs_dir).resolve().parent
    for picture in sorted((root / _SCREENSHOTS).glob("*.svg")):
        uri = picture.relative_to(root).as_posix()
        files.append(File(uri, str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Returns the page's Markdown with links to screenshots led to those of the site, and other links that
    leave `docs/` replaced by their text."""
    docs = Path(config.docs_dir).resolve()
    folder = docs / Path(page.file.src_uri).parent

    def keep_or_drop(link: re.Match[str]) -> str:
        target = (folder / link[2].partition("#")[0]).resolve()
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            _LOG.warning("%s links to %s, which does not exist", page.file.src_uri, link[2])
        return link[1]

    return _LINK.sub(keep_or_drop, _PICTURE.sub(r"\1\2", markdown))
