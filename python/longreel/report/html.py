"""Pieces of a self-contained HTML page: text, tables, pictures, everything in the one file."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; margin: 0 auto; padding: 1.5rem;
  max-width: 96rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { margin: 2.4rem 0 .6rem; border-bottom: 2px solid #2a9d4e; padding-bottom: .2rem; }
h3 { margin: 1.6rem 0 .4rem; } p { margin: .4rem 0; } .soft { color: #5c6674; }
nav a { margin-right: 1rem; } a { color: #1d6f3a; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .4rem; border-bottom: 1px solid #e3e7ec; text-align: right; white-space: nowrap; }
th { background: #f3f6f8; font-weight: 600; white-space: normal; vertical-align: bottom; } td.left, th.left { text-align: left; }
td.said, th.said { text-align: left; white-space: normal; min-width: 15rem; }
tr.noisy td { color: #9a6700; } pre { background: #f3f6f8; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: 13px; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; } figure { margin: 0; } figcaption { font-size: 13px; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
"""

# Characters from which a cell is read, not compared.
_SENTENCE = 44


def page(title: str, parts: Iterable[str], about: str = "", style: str = "") -> str:
    """A whole page; `about` stands under the title."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title>"
    body = "\n".join(parts)
    said = f'<p class="soft">{escape(about)}</p>\n' if about else ""
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}{style}</style></head>\n<body>\n'
        f"<h1>{escape(title)}</h1>\n{said}{body}\n</body></html>\n"
    )


def _tag(name: str, text: str, **attributes: str | None) -> str:
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{given}>{escape(text)}</{name}>"


def heading(level: int, text: str, anchor: str | None = None) -> str:
    return _tag(f"h{level}", text, id=anchor)


def paragraph(text: str, soft: bool = False) -> str:
    return _tag("p", text, class_="soft" if soft else None)


def contents(names: Sequence[tuple[str, str]]) -> str:
    """Links to (anchor, text) of this page."""
    return "<nav>" + " ".join(f'<a href="#{escape(anchor)}">{escape(text)}</a>' for anchor, text in names) + "</nav>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int, marked: Sequence[bool] = ()) -> str:
    """The first `left` columns to the left, and those with sentences, in lines; the `marked` rows are set off as noisy."""
    read = [any(len(row[i]) > _SENTENCE for row in rows) for i in range(len(head))]

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = ("left" if i < left else "said" if read[i] else None for i in range(len(row)))
        return "".join(_tag(tag, cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))

    noisy = [*marked, *[False] * (len(rows) - len(marked))]
    opened = ['<tr class="noisy">' if mark else "<tr>" for mark in noisy]
    body = "".join(f"{start}{cells('td', row)}</tr>\n" for start, row in zip(opened, rows, strict=True))
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>\n{body}</tbody></table></div>'


def commands(lines: Iterable[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def listed(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def picture(data: bytes, kind: str, said: str) -> str:
    """An image inside the page; kind: "svg+xml", "png" or "jpeg"; `said` describes it where it cannot be shown."""
    coded = base64.b64encode(data).decode("ascii")
    return f'<img alt="{escape(said)}" src="data:image/{kind};base64,{coded}">'
