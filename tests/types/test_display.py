"""HTML goes to the notebook where there is one, else to the browser."""

import sys
import types
import webbrowser
from pathlib import Path
from urllib.parse import urlparse

import numpy as np

import gtcrec
from gtcrec.types.display import html_table, show_html

REPORT = gtcrec.Report(np.arange(2), {"ndcg@20": np.array([0.5, 1.0])}, {"ndcg@20": 0.75}, {"ndcg@20": (0.5, 1.0)})


def fake_ipython(monkeypatch, shell):
    """Put an IPython in place that says it runs in `shell`; return what it is asked to display."""
    shown = []
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: shell
    module.display = types.ModuleType("IPython.display")
    module.display.HTML, module.display.display = str, shown.append
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    return shown


def test_a_report_is_displayed_in_a_notebook(monkeypatch):
    shown = fake_ipython(monkeypatch, shell=object())
    REPORT.show()
    assert len(shown) == 1
    assert "0.7500 (0.5000 to 1.0000)" in shown[0]


def test_elsewhere_the_browser_opens_a_page(monkeypatch):
    fake_ipython(monkeypatch, shell=None)
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    show_html("<b>tea</b>")
    page = Path(urlparse(opened[0]).path)
    assert page.read_text().endswith("<b>tea</b>")
    page.unlink()


def test_a_table_escapes_its_text():
    assert html_table([["<i>", "&"]], ["<b>"]).count("&lt;") == 2
