"""Rich displays, updates, clearing and figures (issue, point 4)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .client import Client

PNG = b"\x89PNG\r\n\x1a\n"


def test_display_shows_every_object(shared_kernel: Client) -> None:
    shown = shared_kernel.run("display(1, 'two', [3])").displays
    assert [content["data"]["text/plain"] for content in shown] == ["1", "'two'", "[3]"]


def test_rich_representations_are_sent_together(shared_kernel: Client) -> None:
    code = (
        "class Rich:\n"
        "    def __repr__(self): return 'plain'\n"
        "    def _repr_html_(self): return '<i>html</i>'\n"
        "    def _repr_markdown_(self): return '*markdown*'\n"
        "    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n'\n"
        "    def _repr_json_(self): return {'a': [1, None]}\n"
        "Rich()"
    )
    data = shared_kernel.run(code).result
    assert data["text/plain"] == "plain"
    assert data["text/html"] == "<i>html</i>"
    assert data["text/markdown"] == "*markdown*"
    assert base64.b64decode(data["image/png"]) == PNG
    assert data["application/json"] == {"a": [1, None]}


def test_mimebundle_and_metadata_are_sent(shared_kernel: Client) -> None:
    code = (
        "class Bundle:\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'text/plain': 'p', 'application/x-own+json': {'n': 1}}, {'application/x-own+json': {'m': 2}}\n"
        "display(Bundle())"
    )
    (shown,) = shared_kernel.run(code).displays
    assert shown["data"] == {"text/plain": "p", "application/x-own+json": {"n": 1}}
    assert shown["metadata"] == {"application/x-own+json": {"m": 2}}


@pytest.mark.parametrize(
    ("expression", "mime"),
    [
        ("HTML('<b>1</b>')", "text/html"),
        ("Markdown('# 1')", "text/markdown"),
        ("Latex('$1$')", "text/latex"),
        ("SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>')", "image/svg+xml"),
        ("JSON({'a': 1})", "application/json"),
        ("Javascript('1')", "application/javascript"),
        ("Math('1')", "text/latex"),
        (f"Image(data={PNG!r})", "image/png"),
        ("Code('x = 1')", "text/html"),
    ],
)
def test_the_display_classes_of_ipython_work(expression: str, mime: str, shared_kernel: Client) -> None:
    (shown,) = shared_kernel.run(f"from IPython.display import *\ndisplay({expression})").displays
    assert mime in shown["data"]


def test_a_raw_bundle_is_displayed_as_it_is(shared_kernel: Client) -> None:
    (shown,) = shared_kernel.run("display({'text/x-own': 'kept'}, raw=True)").displays
    assert shown["data"] == {"text/x-own": "kept"}


def test_a_display_is_updated_by_its_id(shared_kernel: Client) -> None:
    cell = shared_kernel.run("handle = display('one', display_id=True)\nhandle.update('two')")
    first, second = cell.displays
    assert first["msg_type"] == "display_data"
    assert second["msg_type"] == "update_display_data"
    assert first["transient"]["display_id"] == second["transient"]["display_id"]
    assert (first["data"]["text/plain"], second["data"]["text/plain"]) == ("'one'", "'two'")
    (third,) = shared_kernel.run("handle.update('three')").displays
    assert third["msg_type"] == "update_display_data"
    assert third["transient"] == first["transient"]


def test_update_display_with_a_given_id(shared_kernel: Client) -> None:
    shown = shared_kernel.run(
        "from IPython.display import update_display\n"
        "display('a', display_id='mine')\n"
        "update_display('b', display_id='mine')"
    ).displays
    assert [content["transient"]["display_id"] for content in shown] == ["mine", "mine"]


@pytest.mark.parametrize("wait", [True, False])
def test_clear_output_stands_in_its_place(wait: bool, shared_kernel: Client) -> None:
    cell = shared_kernel.run(
        f"from IPython.display import clear_output\nprint('before')\nclear_output(wait={wait})\nprint('after')"
    )
    messages = cell.claim()
    assert [message.msg_type for message in messages] == ["execute_input", "stream", "clear_output", "stream"]
    assert messages[2].content == {"wait": wait}


def test_displays_part_the_streams_and_stdout_comes_first_between_two(shared_kernel: Client) -> None:
    code = "\n".join(f"print('out', {n})\ndisplay({n})\nprint('err', {n}, file=sys.stderr)" for n in range(20))
    cell = shared_kernel.run("import sys\n" + code)
    kinds = [m.content.get("name") or m.msg_type for m in cell.claim()[1:]]
    assert kinds == ["stdout", "display_data", *["stdout", "stderr", "display_data"] * 19, "stderr"]


def test_a_display_from_a_thread_is_shown(shared_kernel: Client) -> None:
    code = "import threading\nt = threading.Thread(target=lambda: display('from a thread'))\nt.start()\nt.join()"
    (shown,) = shared_kernel.run(code).displays
    assert shown["data"]["text/plain"] == "'from a thread'"


def test_a_thread_updates_a_display_after_its_cell(shared_kernel: Client) -> None:
    """VS Code's variable viewer works so: display(raw=True, display_id=True), later update from a thread."""
    code = (
        "import threading\n"
        "output = display({'text/x-own': ''}, raw=True, display_id=True)\n"
        "go = threading.Event()\n"
        "def later():\n"
        "    go.wait(30)\n"
        "    output.update({'text/x-own': 'result'}, raw=True)\n"
        "threading.Thread(target=later).start()"
    )
    cell = shared_kernel.run(code, store_history=False)
    assert len(cell.displays) == 1
    shared_kernel.run("go.set()", store_history=False)

    def updates() -> list[dict[str, Any]]:
        found = [m for m in cell.late if m.msg_type == "update_display_data"]
        cell.claimed.update(id(m) for m in found)
        return [m.content for m in found]

    shared_kernel.wait_until(lambda: bool(updates()), "update_display_data of the first cell")
    assert updates()[0]["data"] == {"text/x-own": "result"}


def test_matplotlib_figures_are_shown_as_png_without_asking(kernel: Client) -> None:
    cell = kernel.execute("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2, 3])", timeout_s=40)
    cell.succeeded()
    (shown,) = cell.displays
    assert base64.b64decode(shown["data"]["image/png"]).startswith(PNG)
    assert "Figure" in shown["data"]["text/plain"]


def test_percent_matplotlib_inline_honours_its_settings(kernel: Client) -> None:
    kernel.run("%matplotlib inline\n%config InlineBackend.figure_formats = ['svg']", timeout_s=40)
    cell = kernel.run(
        "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])\nplt.show()\n_ = plt.plot([3])", timeout_s=40
    )
    shown = cell.displays
    assert len(shown) == 2
    assert all("image/svg+xml" in content["data"] for content in shown)
    # Figures are closed after their cell.
    kernel.run("pass")


def test_a_dataframe_is_an_html_table(kernel: Client) -> None:
    cell = kernel.execute("import pandas as pd\npd.DataFrame({'a': [1, 2]})", timeout_s=40)
    assert "<table" in cell.result["text/html"]


def test_display_hooks_of_users_work(shared_kernel: Client) -> None:
    shared_kernel.run(
        "formatter = get_ipython().display_formatter.formatters['text/html']\n"
        "_ = formatter.for_type(complex, lambda value: f'<u>{value}</u>')"
    )
    assert shared_kernel.run("1 + 2j").result["text/html"] == "<u>(1+2j)</u>"
