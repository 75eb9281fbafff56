"""The documentation site builds without a warning, and every link and picture inside it leads somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from install import ROOT

pytest.importorskip("sphinx_book_theme")
pytest.importorskip("torch")
pytest.importorskip("jax")


class Page(HTMLParser):
    """What a page refers to, and what it can be referred to by."""

    def __init__(self, file):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.add(value)
            elif key in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", out / "doctrees", "docs", out / "html"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


@pytest.mark.slow
def test_links(site):
    pages = {file: Page(file) for file in site.rglob("*.html") if "_static" not in file.parts}
    assert len(pages) > 50
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            assert target.exists(), f"{file.relative_to(site)} links to {link}"
            if parts.fragment and target in pages:
                known = pages[target].anchors
                assert unquote(parts.fragment) in known, f"{file.relative_to(site)} links to {link}"


@pytest.mark.slow
def test_every_data_set_and_notebook_has_its_page(site):
    from strfcube.catalog import entries

    ours = {name for name in entries() if (site / "generated" / "datasets" / f"{name}.html").is_file()}
    assert ours >= {"aa1", "aa2", "aa4", "ac1", "demo", "nat4", "ns1"}
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        page = (site / "generated" / "notebooks" / f"{notebook.stem}.html").read_text("utf-8")
        assert "_images/" in page, f"{notebook.name} has no pictures: make notebooks"


@pytest.mark.slow
def test_no_page_names_a_folder_of_this_machine(site):
    for file in site.rglob("*.html"):
        assert str(ROOT) not in file.read_text("utf-8"), file
