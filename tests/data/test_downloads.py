"""Fetching and verifying, against a server on this machine."""

from __future__ import annotations

import gc
import hashlib
import http.server
import threading

import pytest

from bnkit.data.downloads import FileState, PublishedFile, cache_directory
from bnkit.errors import DataError

CONTENT = b"published" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server of one file; counts what it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        requests = 0
        content = CONTENT

        def do_GET(self):
            type(self).requests += 1
            self.send_response(200 if self.content is not None else 404)
            body = self.content or b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield Handler, f"http://127.0.0.1:{running.server_port}/file.gz"
    running.shutdown()
    running.server_close()
    thread.join(60)


def test_a_file_is_fetched_once_and_verified(server):
    handler, address = server
    file = PublishedFile("set/file.gz", address, DIGEST)
    assert file.state() is FileState.MISSING
    path = file.fetch()
    assert path == cache_directory() / "set" / "file.gz"
    assert path.read_bytes() == CONTENT
    assert file.fetch() == path
    assert handler.requests == 1
    assert file.state() is FileState.THERE


def test_what_comes_with_another_digest_is_refused_and_not_kept(server):
    handler, address = server
    handler.content = b"tampered with"
    file = PublishedFile("set/file.gz", address, DIGEST)
    with pytest.raises(DataError, match="what came has another SHA-256"):
        file.fetch()
    assert file.state() is FileState.MISSING
    assert list((cache_directory() / "set").iterdir()) == []


def test_a_broken_file_is_named_and_left_alone(server):
    handler, address = server
    path = cache_directory() / "set" / "file.gz"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    file = PublishedFile("set/file.gz", address, DIGEST)
    assert file.state() is FileState.BROKEN
    with pytest.raises(DataError, match=f"{path} is broken: its SHA-256 is .* expected {DIGEST}; delete it"):
        file.fetch()
    assert path.read_bytes() == CONTENT[:-1]
    assert handler.requests == 0


@pytest.mark.slow
# pooch does not close the response of a request that was refused; it goes with the exception, here and now.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("cause", ["no server listens", "not found"])
def test_no_connection_is_one_line_with_a_way_out(server, cause):
    handler, address = server
    handler.content = None
    if cause == "no server listens":
        address = "http://127.0.0.1:9/file.gz"
    with pytest.raises(DataError, match=r"could not be fetched from http://127.0.0.1.*BNKIT_DATA") as caught:
        PublishedFile("set/file.gz", address, DIGEST).fetch()
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()


def test_the_cache_is_the_platforms_where_nothing_is_set(monkeypatch):
    monkeypatch.delenv("BNKIT_DATA")
    assert cache_directory().name == "bnkit"


def test_a_cache_that_cannot_be_written_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("BNKIT_DATA", str(tmp_path / "a-file"))
    with pytest.raises(DataError, match="a-file"):
        PublishedFile("set/file.gz", server[1], DIGEST).fetch()
