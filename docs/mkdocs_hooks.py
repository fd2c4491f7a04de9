"""Files of the documentation site (MkDocs hook, see mkdocs.yml).

The site mirrors the repository: README.md is its home, docs/python.md is docs/python.html, and a file of another folder
that a page links to (an option file, the notebook) is copied to the same place. The links in the pages therefore hold
on the site as in a repository browser, and MkDocs checks them, without being rewritten.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(([^)\s#]+)")
API = "api/"  # pages made from docstrings


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The pages of the navigation and of docs/, and the files that they link to, in place of all files of docs/."""
    root = Path(config.config_file_path).resolve().parent
    listed = list(_pages(config.nav))
    pages = [page for page in listed if not page.startswith(API)]
    pages += sorted(path.relative_to(root).as_posix() for path in (root / "docs").glob("*.md"))
    pages = [page for page in dict.fromkeys(pages) if (root / page).is_file()]  # MkDocs reports the others
    linked = sorted({name for page in pages for name in _linked_files(root, page)})
    result = [file for file in files if file.src_dir != config.docs_dir]  # style sheets and scripts of the theme
    result += [File(name, str(root), config.site_dir, config.use_directory_urls) for name in [*pages, *linked]]
    for page in listed:
        if page.startswith(API):
            module = page.removeprefix(API).removesuffix(".md")
            result.append(File.generated(config, page, content=f"# {module}\n\n::: {module}\n"))
    return Files(result)


def _pages(nav: list | dict | str) -> Iterator[str]:
    """Paths of the pages in the navigation, in order."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(entry)


def _linked_files(root: Path, page: str) -> set[str]:
    """Files of the repository that a page links to, other than pages, as paths from its root."""
    links = LINK.findall((root / page).read_text(encoding="utf-8"))
    paths = {((root / page).parent / link).resolve() for link in links if "://" not in link}
    return {
        path.relative_to(root).as_posix()
        for path in paths
        if path.is_relative_to(root) and path.is_file() and path.suffix != ".md"
    }
