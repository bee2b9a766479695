"""How Sphinx makes the site from the documents of the repository (see docs/site/build).

The documents are written for GitHub, and the site does not copy or change their texts.
Therefore, this file reads the navigation from the lists in docs/README.md and
docs/decisions/README.md.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]
LIST_OF_DOCUMENTS = "docs/README"
LIST_OF_DECISIONS = "docs/decisions/README"

project = "maskd"
version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["**.md"]
# Documents in hidden folders are for GitHub only.
exclude_patterns = ["target", "**/target", ".*", "**/.*"]

# The same anchors as on GitHub.
myst_heading_anchors = 4
myst_enable_extensions = ["linkify"]
# Without this, a name such as `door.lan` in a sentence becomes a link.
myst_linkify_fuzzy_links = False
# Some examples of JSON and TOML leave out a part with "…".
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"maskd {version}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False


def links(text):
    """The documents that a list names, each once, in the order of the list."""
    return list(dict.fromkeys(re.findall(r"\]\(([^)#:]+)\.md\)", text)))


def hidden_toctree(caption, documents):
    """A part of the navigation. Sphinx fails if a document does not exist."""
    options = [":hidden:"] + ([f":caption: {caption}"] if caption else [])
    return "\n".join(["", "```{toctree}", *options, "", *documents, "```", ""])


def navigation(all_documents):
    """The navigation as in docs/README.md, and then all other documents."""
    text = (ROOT / f"{LIST_OF_DOCUMENTS}.md").read_text()
    groups = re.findall(r"^([^-\n].*):\n\n((?:[- ].*\n)+)", text, re.M)
    if not groups:
        raise ExtensionError(f"{LIST_OF_DOCUMENTS}.md has no lists")
    listed = [
        (caption, [f"docs/{document}" for document in links(items)])
        for caption, items in groups
    ]
    decisions = links((ROOT / f"{LIST_OF_DECISIONS}.md").read_text())
    known = {root_doc, *(f"docs/decisions/{decision}" for decision in decisions)}
    known.update(*(documents for _, documents in listed))
    return [*listed, ("More", sorted(all_documents - known))]


def add_navigation(app, document, source):
    if document == root_doc:
        source[0] += "".join(hidden_toctree(*group) for group in navigation(app.env.found_docs))
    elif document == LIST_OF_DECISIONS:
        decisions = [name for name in links(source[0]) if not name.startswith("..")]
        source[0] += hidden_toctree(None, decisions)


def diagrams_as_tables(app, doctree):
    """Shows each Mermaid flowchart as a table, because drawing it needs a script of 3 MB."""
    for block in list(doctree.findall(nodes.literal_block)):
        if block.get("language") == "mermaid":
            block.replace_self(diagram_as_table(block.astext()))


def diagram_as_table(text):
    node = r'(\w+)(?:\["([^"]*)"\])?'
    labels = {}
    edges = []
    for line in text.splitlines()[1:]:
        edge = re.fullmatch(rf'\s*{node}(?: -- "?([^"]*?)"?)? --> {node}', line)
        if edge is None:
            raise ExtensionError(f"docs/site/conf.py cannot read this line of a diagram: {line}")
        start, start_label, passed, end, end_label = edge.groups()
        for name, label in ((start, start_label), (end, end_label)):
            if label is not None:
                labels[name] = label
        edges.append((start, passed or "", end))
    rows = [(labels[start], passed, labels[end]) for start, passed, end in edges]
    head = ("from", "passes on", "to")
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", table_row(head))
    group += nodes.tbody("", *(table_row(row) for row in rows))
    return nodes.table("", group)


def table_row(cells):
    row = nodes.row()
    for cell in cells:
        # The first line of a node is the name of a folder or file.
        name, _, rest = cell.rpartition("<br>")
        text = [nodes.strong("", name), nodes.Text(" ")] if name else []
        row += nodes.entry("", nodes.paragraph("", "", *text, nodes.Text(rest)))
    return row


def copy_start_page(app, error):
    """A server shows index.html for the address of the site."""
    if error is None and app.builder.name == "html":
        start = Path(app.outdir)
        (start / "index.html").write_bytes((start / f"{root_doc}.html").read_bytes())


def setup(app):
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", diagrams_as_tables)
    app.connect("build-finished", copy_start_page)
