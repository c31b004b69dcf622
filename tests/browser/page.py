"""One JupyterLab page in a browser: what a person does there, and what a person sees.

Everything waits for a condition with a deadline. The page also remembers what went by: the execution states that the
kernel's websocket carried, the dialogs that JupyterLab opened, and the addresses that the browser asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from playwright.sync_api import BrowserContext, Locator, Page, Request, WebSocket, expect

from .server import DISPLAY_NAME, KERNEL, LabServer

CELL_DEADLINE_MS = 30_000.0
LOAD_DEADLINE_MS = 60_000.0
STATE = re.compile(rb'"execution_state": ?"(\w+)"')
KERNEL_STATES = {"starting", "idle", "busy"}
"""What a kernel that lives publishes; `restarting` and `dead` are jupyter_server's words for one that died."""
WATCH = """
window.dialogsSeen = [];
new MutationObserver(() => {
  for (const dialog of document.querySelectorAll('.jp-Dialog')) {
    if (!dialog.dataset.seen) {
      dialog.dataset.seen = 'yes';
      window.dialogsSeen.push(dialog.innerText);
    }
  }
}).observe(document, {childList: true, subtree: true});

window.historiesSeen = 0;
window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    this.addEventListener('message', ({data}) => {
      const text = typeof data === 'string' ? data : new TextDecoder('latin1').decode(data);
      window.historiesSeen += /"msg_type": ?"history_reply"/.test(text);
    });
  }
};
"""


@dataclass(kw_only=True)
class LabPage:
    """A page of JupyterLab with one document open."""

    server: LabServer
    page: Page
    notebook: str
    states: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, server: LabServer, context: BrowserContext, notebook: str) -> Self:
        """Open a notebook by its address and wait until its kernel is idle."""
        lab = cls(server=server, page=context.new_page(), notebook=notebook)
        page = lab.page
        page.set_default_timeout(CELL_DEADLINE_MS)
        page.add_init_script(WATCH)
        page.on("websocket", lab._watch_websocket)
        page.on("request", lab._watch_request)
        # A workspace of its own: nothing that another test left open comes back.
        workspace = Path(notebook).stem
        page.goto(f"{server.url}lab/workspaces/{workspace}/tree/{notebook}?token={server.token}")
        lab.wait_connected()
        return lab

    # --- what a person sees ------------------------------------------------------------------------------------------

    @property
    def panel(self) -> Locator:
        """The notebook in front."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def cell(self, number: int) -> Locator:
        """A cell, counted from 0."""
        return self.panel.locator(".jp-Notebook .jp-Cell").nth(number)

    def output(self, number: int) -> Locator:
        """A cell's output area."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def prompt(self, number: int) -> Locator:
        """The brackets to the left of a cell."""
        return self.cell(number).locator(".jp-InputArea-prompt")

    def wait_prompt(self, number: int, text: str, timeout_ms: float = CELL_DEADLINE_MS) -> None:
        """Wait until a cell's brackets show a text, such as `3`, `*` or a space."""
        expect(self.prompt(number)).to_have_text(f"[{text}]:", timeout=timeout_ms)

    def wait_output(self, number: int, text: str | re.Pattern[str], timeout_ms: float = CELL_DEADLINE_MS) -> None:
        """Wait until a cell's output contains a text."""
        expect(self.output(number)).to_contain_text(text, timeout=timeout_ms)

    def wait_kernel(self, status: str) -> None:
        """Wait until the circle at the toolbar's end shows a status."""
        expect(self.panel.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute(
            "data-status", status, timeout=CELL_DEADLINE_MS
        )

    def wait_connected(self) -> None:
        """Wait until the kernel of the notebook in front is connected and idle.

        Only the status bar tells; the circle is empty also when no kernel is there yet, and a cell that is run then
        is not executed, without a word from JupyterLab.
        """
        bar = self.page.locator("#jp-main-statusbar")
        expect(bar).to_contain_text(f"{DISPLAY_NAME} | Idle", timeout=LOAD_DEADLINE_MS)

    def wait_source(self, number: int, text: str) -> None:
        """Wait until a cell's editor contains exactly a text."""
        expect(self.cell(number).locator(".cm-content")).to_have_text(text, timeout=CELL_DEADLINE_MS)

    def wait_tooltip(self, text: str) -> None:
        """Wait for the tooltip of Shift+Tab with a text."""
        expect(self.page.locator(".jp-Tooltip")).to_contain_text(text, timeout=CELL_DEADLINE_MS)

    def wait_completions(self, *names: str) -> None:
        """Wait for the list of completions and compare the names in it, whatever their order."""
        items = self.page.locator(".jp-Completer .jp-Completer-item .jp-Completer-match")
        expect(items).to_have_count(len(names), timeout=CELL_DEADLINE_MS)
        assert sorted(items.all_inner_texts()) == sorted(names)

    def dialogs(self) -> list[str]:
        """The texts of every dialog that was opened since the page was loaded."""
        seen: list[str] = self.page.evaluate("window.dialogsSeen")
        return seen

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole window."""
        self.page.screenshot(path=path)

    # --- what a person does ------------------------------------------------------------------------------------------

    def run(self, number: int) -> None:
        """Run a cell as people do: click into it, Shift+Enter."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def write(self, number: int, code: str) -> None:
        """Type into a cell, in place of what it contains."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.press("Delete")
        self.page.keyboard.type(code)

    def press_toolbar(self, command: str) -> None:
        """Click a button in the notebook's toolbar."""
        self.panel.locator(f'.jp-Toolbar [data-command="notebook:{command}"]').first.click()

    def interrupt(self) -> None:
        """Click the square."""
        self.press_toolbar("interrupt-kernel")

    def restart(self, command: str = "restart-kernel") -> None:
        """Click the arrow and confirm."""
        self.press_toolbar(command)
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(self.page.locator(".jp-Dialog")).to_have_count(0, timeout=CELL_DEADLINE_MS)

    def menu(self, *path: str) -> None:
        """Choose from the menus at the top, by the items' exact labels."""
        for label in path:
            item = re.compile(rf"^{re.escape(label)}$")
            self.page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel").filter(has_text=item).first.click()

    def save(self) -> None:
        """Press Ctrl+S and wait until the server has the file."""
        with self.page.expect_response(lambda r: r.request.method == "PUT" and "/api/contents/" in r.url) as response:
            self.page.keyboard.press("Control+s")
        assert response.value.ok

    def saved(self) -> Any:
        """Save the notebook and read the file."""
        self.save()
        return self.server.read_notebook(self.notebook)

    def reload(self) -> None:
        """Press F5 and wait until the notebook is back, with its kernel."""
        self.page.reload()
        self.wait_connected()

    def open_console(self) -> LabConsole:
        """Open a code console on the notebook's kernel and wait until it has the kernel's history.

        JupyterLab drops from its own list what was run before the history came.
        """
        before = self.page.evaluate("window.historiesSeen")
        self.menu("File", "New Console for Notebook")
        self.page.wait_for_function("before => window.historiesSeen > before", arg=before)
        return LabConsole(panel=self.page.locator(".jp-ConsolePanel"))

    # --- what went by ------------------------------------------------------------------------------------------------

    def assert_kernel_never_died(self) -> None:
        """No state and no dialog told of a death, and the browser talked to the server only."""
        assert set(self.states) <= KERNEL_STATES, self.states
        told = [text for text in self.dialogs() if not text.startswith("Do you want to restart")]
        assert not told, told
        assert "died" not in self.server.log(), self.server.log()
        foreign = [url for url in self.requested if not url.startswith((self.server.url, "data:", "blob:"))]
        assert not foreign, foreign

    def assert_nothing_was_dropped(self) -> None:
        """Neither the page nor the server's log speaks of a rate that was exceeded."""
        for text in (self.panel.inner_text(), self.server.log()):
            assert "rate exceeded" not in text

    def kernel_id(self) -> str:
        """The kernel that the server runs for this notebook."""
        mine = [each["kernel"] for each in self.server.sessions() if each["path"] == self.notebook]
        assert [each["name"] for each in mine] == [KERNEL]
        return str(mine[0]["id"])

    def _watch_websocket(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._watch_frame)

    def _watch_frame(self, payload: str | bytes) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        self.states += [state.decode() for state in STATE.findall(data)]

    def _watch_request(self, request: Request) -> None:
        self.requested.append(request.url)


@dataclass(frozen=True, kw_only=True)
class LabConsole:
    """A code console, where Enter runs what is complete."""

    panel: Locator

    @property
    def editor(self) -> Locator:
        """Where the next input is typed."""
        return self.panel.locator(".jp-CodeConsole-promptCell .cm-content")

    def type(self, text: str) -> None:
        """Type at the prompt."""
        self.editor.press_sequentially(text)

    def press(self, key: str) -> None:
        """Press a key at the prompt."""
        self.editor.press(key)

    def wait_lines(self, *lines: str) -> None:
        """Wait until the prompt contains these lines; white space at their ends does not count."""
        expect(self.editor.locator(".cm-line")).to_have_text([line.strip() for line in lines], timeout=CELL_DEADLINE_MS)

    def wait_shown(self, text: str) -> None:
        """Wait until the console shows a text, the banner included."""
        expect(self.panel).to_contain_text(text, timeout=CELL_DEADLINE_MS)

    def wait_prompts(self, *prompts: str) -> None:
        """Wait until the inputs that have run are numbered like this."""
        ran = self.panel.locator(".jp-CodeConsole-content .jp-CodeCell .jp-InputArea-prompt")
        expect(ran).to_have_text([f"[{prompt}]:" for prompt in prompts], timeout=CELL_DEADLINE_MS)
