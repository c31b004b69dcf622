"""What a start does not wait for is there for whoever asks: TLS over asyncio, when asyncio was imported without it."""

import subprocess
import sys

SCRIPT = """\
import sys
from capsule_kernel.postponed import postponed

with postponed("ssl", "asyncio.sslproto"):
    import asyncio
assert not {"ssl", "asyncio.sslproto"} & sys.modules.keys()

async def main():
    import ssl

    # No certificate is needed where nobody says who they are.
    def context(side):
        made = ssl.SSLContext(side)
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        made.maximum_version = ssl.TLSVersion.TLSv1_2
        made.set_ciphers("AECDH:@SECLEVEL=0")
        return made

    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async with asyncio.timeout(30):
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context(ssl.PROTOCOL_TLS_SERVER))
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context(ssl.PROTOCOL_TLS_CLIENT), server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.write(b"hello\\n")
        print((await reader.readline()).decode().strip())
        writer.close()
        server.close()

asyncio.run(main())
"""


def test_tls_over_asyncio() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_catching_up_leaves_no_trace() -> None:
    code = (
        "import sys\nfrom capsule_kernel.postponed import catch_up, postponed\n"
        "with postponed('ssl', 'asyncio.sslproto'):\n    import asyncio\n"
        "early = asyncio.base_events.ssl\ncatch_up('asyncio')\n"
        "from asyncio import base_events, selector_events\nimport ssl\n"
        "assert early is not ssl and base_events.ssl is ssl is selector_events.ssl\n"
        "assert base_events.sslproto is asyncio.sslproto is sys.modules['asyncio.sslproto'] is selector_events.sslproto"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_was_there_already_is_left_alone() -> None:
    code = (
        "import json\nfrom capsule_kernel.postponed import postponed\n"
        "with postponed('json', 'wave'):\n    import json as again, wave\n    early = wave\n"
        "assert again is json\nimport wave\nassert early is not wave and early.open is wave.open\n"
        "try:\n    early.missing\nexcept AttributeError as exc:\n    print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("module 'wave' has no attribute 'missing'\n", 0), done.stderr


def test_who_asks_while_it_is_postponed_gets_it() -> None:
    code = (
        "import sys\nfrom capsule_kernel.postponed import postponed\n"
        "with postponed('pydoc'):\n    import pydoc\n    early = pydoc\n    assert callable(early.render_doc)\n"
        "    assert sys.modules['pydoc'].render_doc is early.render_doc\n"
        "import pydoc\nassert pydoc is not early and pydoc.render_doc is early.render_doc"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
