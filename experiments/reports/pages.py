"""Pages in one file: tables and figures as HTML, with nothing to load."""

import base64
import functools
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.reports import drawings

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .35rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { vertical-align: bottom; border-bottom: 2px solid #888; white-space: pre-line; }
.text td, .text th, td:first-child, th:first-child, .verdicts td:last-child,
  .verdicts th:last-child { text-align: left; }
.text td { white-space: normal; overflow-wrap: anywhere; }
.verdicts td:last-child { white-space: normal; min-width: 9rem; }
.verdicts td:last-child, .verdicts th:last-child { padding-left: 1rem; }
tr.winning { background: #e6f4ea; }
figure { margin: 1.5rem 0; overflow-x: auto; }
img { max-width: 100%; min-width: 34rem; height: auto; }
figcaption { color: #555; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1rem; }
summary { cursor: pointer; font-weight: 600; margin-top: 1.5rem; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page; title and parts are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def table(
    headers: Iterable[str],
    lines: Iterable[Iterable[str]],
    *,
    kind: str = "",
    marks: Sequence[str] = (),
) -> str:
    """A table that scrolls sideways on a narrow screen."""

    def line(tag: str, values: Iterable[str], mark: str = "") -> str:
        inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values)
        return f'<tr class="{mark}">{inner}</tr>'

    head = line("th", headers)
    body = itertools.starmap(
        functools.partial(line, "td"), itertools.zip_longest(lines, marks, fillvalue="")
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead>{head}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def pairs(values: dict[str, Any]) -> str:
    """A table of names and values."""
    lines = [(name, value(x)) for name, x in values.items()]
    return table(("name", "value"), lines, kind="text")


def value(x: Any) -> str:
    """A setting or a number as text; NaN as a dash."""
    if isinstance(x, float):
        return "–" if math.isnan(x) else f"{x:.6g}"
    return x if isinstance(x, str) else json.dumps(x)


def figure(path: Path, caption: str) -> str:
    """A PNG file inside the page, in the size that it was drawn in."""
    content = path.read_bytes()
    pixels = int.from_bytes(content[16:20], "big")  # as its header says
    width = pixels * 96 // drawings.DPI
    data = base64.b64encode(content).decode()
    caption = escape(caption)
    source = f"data:image/png;base64,{data}"
    return (
        f'<figure><img alt="{caption}" width="{width}" src="{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
