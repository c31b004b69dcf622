"""jupyter_kernel_test 0.7 with every feature switched on (issue, section "Tests")."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import jupyter_kernel_test

from .jupyter import Installed


class OwnKernel:
    """Starts the kernel under test instead of one that is installed under a name."""

    home: ClassVar[Path]

    @classmethod
    def start_own(cls, *, with_client: bool) -> tuple[object, object]:
        cls.home = Path(tempfile.mkdtemp())
        installed = Installed.into(cls.home)
        manager = installed.manager()
        manager.start_kernel(env=installed.environment, cwd=str(cls.home))
        client = manager.client()
        if with_client:
            client.start_channels()
            client.wait_for_ready(timeout=30)
        return manager, client

    @classmethod
    def remove_home(cls) -> None:
        shutil.rmtree(cls.home)


class TestKernel(OwnKernel, jupyter_kernel_test.KernelTests):
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples: ClassVar = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "import colors", "matches": {"colorsys"}},
        {"text": "sorte", "matches": {"sorted"}},
    ]
    complete_code_samples: ClassVar = [
        "1",
        "print('hello, world')",
        "def f(x):\n  return x*2\n\n\n",
        "%time",
        "await f()",
    ]
    incomplete_code_samples: ClassVar = ["print('''hello", "def f(x):\n  x*2", "for n in range(3):"]
    invalid_code_samples: ClassVar = ["import = 7q", "x = ]"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('on purpose')"
    code_execute_result: ClassVar = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
        {"code": "'%s' % 1", "result": "'1'"},
        {"code": "await __import__('asyncio').sleep(0, 5)", "result": "5"},
    ]
    code_display_data: ClassVar = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        cls.km, cls.kc = cls.start_own(with_client=True)

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.remove_home()


class TestWelcome(OwnKernel, jupyter_kernel_test.IopubWelcomeTests):
    support_iopub_welcome = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.km, cls.kc = cls.start_own(with_client=False)

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.remove_home()
