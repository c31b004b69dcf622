from pathlib import Path

import pytest

from capsule_kernel.errors import ConfigurationError
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.opening import open_promises
from capsule_kernel.promises.place import promises_file
from capsule_kernel.promises.remote import RemotePromises
from capsule_kernel.promises.server import redacted, server_url
from capsule_kernel.settings import Settings


def test_the_settings_choose(tmp_path: Path) -> None:
    path = str(tmp_path / "mine")
    assert open_promises(Settings(durability="off"), {}) is None
    embedded = open_promises(Settings(promises_file=path), {"CAPSULE_PROMISES_FILE": "/elsewhere"})
    assert isinstance(embedded, EmbeddedPromises)
    assert embedded.path == path
    remote = open_promises(Settings(durability="remote"), {"RESONATE_URL": "http://127.0.0.1:8001/"})
    assert isinstance(remote, RemotePromises)
    assert remote.url == "http://127.0.0.1:8001"


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"CAPSULE_PROMISES_FILE": "/x/y"}, "/x/y"),
        ({"JUPYTER_DATA_DIR": "/data", "XDG_DATA_HOME": "/xdg"}, "/data/capsule/promises.sqlite3"),
        ({"XDG_DATA_HOME": "/xdg"}, "/xdg/jupyter/capsule/promises.sqlite3"),
    ],
)
def test_the_file_lies_where_jupyter_keeps_data(environ: dict[str, str], path: str) -> None:
    assert promises_file(environ) == path


@pytest.mark.parametrize(
    ("environ", "setting", "url"),
    [
        ({"RESONATE_URL": "http://a:1"}, "https://b:2/", "https://b:2"),
        ({"RESONATE_URL": "http://a:1"}, "", "http://a:1"),
        ({"RESONATE_HOST": "a"}, "", "http://a:8001"),
        ({"RESONATE_HOST": "a", "RESONATE_SCHEME": "https", "RESONATE_PORT": "2"}, "", "https://a:2"),
    ],
)
def test_the_server_is_named_as_for_resonates_sdk(environ: dict[str, str], setting: str, url: str) -> None:
    assert server_url(environ, setting) == url


@pytest.mark.parametrize("url", ["", "localhost:8001", "ftp://a", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="a URL such as"):
        server_url({"RESONATE_URL": url})


def test_a_url_is_shown_without_secrets() -> None:
    assert redacted("https://user:secret@host:1/path?token=secret") == "https://host:1/path"
