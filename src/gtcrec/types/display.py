"""Values as HTML, for notebooks."""

import tempfile
import webbrowser
from collections.abc import Sequence
from html import escape
from pathlib import Path

__all__ = ["html_table", "show_html"]


def html_table(rows: Sequence[Sequence[str]], headers: Sequence[str] = (), caption: str = "") -> str:
    """Return a table; the first cell of a row is its name, the others are aligned right. All text is escaped.

    >>> html_table([["users", "60"]])
    '<table><tr><td style="text-align:left">users</td><td>60</td></tr></table>'
    """
    head = f"<caption><b>{escape(caption)}</b></caption>" if caption else ""
    if headers:
        head += f"<tr>{''.join(f'<th>{escape(one)}</th>' for one in headers)}</tr>"
    body = ""
    for name, *cells in rows:
        rest = "".join(f"<td>{escape(one)}</td>" for one in cells)
        body += f'<tr><td style="text-align:left">{escape(name)}</td>{rest}</tr>'
    return f"<table>{head}{body}</table>"


def show_html(html: str) -> None:
    """Display HTML in the notebook that this is called from, or in the browser where it is none."""
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if shell is not None:
        display(HTML(html))
        return
    page = f'<!doctype html><meta charset="utf-8"><body style="font-family:sans-serif">{html}'
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".html", delete=False) as file:
        file.write(page)
    webbrowser.open(Path(file.name).as_uri())
