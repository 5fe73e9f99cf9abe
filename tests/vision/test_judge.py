"""A judge that is hostile, broken or slow: its answer is bounded, its words do not count, and it learns no key."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from sharelora.evaluation.vision import judge as module
from sharelora.evaluation.vision.judge import Judge, within
from sharelora.support.errors import UserError

KEY = "sk-a-key-of-its-own"
Reply = Callable[[socket.socket], None]


class Raw:
    """A server that reads a request and then does with the connection whatever a test likes."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.requests = reply, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    self.requests.append(connection.recv(2**16).decode())
                    self.reply(connection)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(2**16):  # a close with unread bytes would take the answer away
                        pass


Start = Callable[[Reply | bytes], Raw]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SHARELORA_JUDGE_KEY", KEY)
    servers = []

    def start(reply: Reply | bytes) -> Raw:
        servers.append(Raw((lambda connection: connection.sendall(reply)) if isinstance(reply, bytes) else reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def answer(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


GOOD = json.dumps({"choices": [{"message": {"content": "8 6"}}]}).encode()


def refused(match: str) -> AbstractContextManager[pytest.ExceptionInfo[UserError]]:
    return pytest.raises(UserError, match=match)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(serve: Start, status: int) -> None:
    other = serve(answer(GOOD))
    first = serve(f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}/v1/{KEY}\r\nContent-Length: 0\r\n\r\n".encode())
    with refused(f"gave status {status}, a redirect, and none is followed; need a server") as caught:
        Judge(first.url, "stub", tries=1).ask("x")
    assert not other.requests and len(first.requests) == 1
    assert f"Authorization: Bearer {KEY}\r\n" in first.requests[0] and KEY not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"  {KEY}\r\n"])
def test_a_key_with_a_line_end_is_the_key(serve: Start, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(answer(GOOD))
    monkeypatch.setenv("SHARELORA_JUDGE_KEY", key)
    assert Judge(server.url, "stub", tries=1).ask("x") == "8 6"
    assert f"Authorization: Bearer {KEY}\r\n" in server.requests[0]


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY}ü"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARELORA_JUDGE_KEY", key)
    with refused("found a key in SHARELORA_JUDGE_KEY that no header can carry") as caught:
        Judge("http://127.0.0.1:9", "stub", tries=1).ask("x")
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_and_a_password_in_the_url_go_into_a_header(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARELORA_JUDGE_KEY")
    server = serve(answer(GOOD))
    url = server.url.replace("//", "//me:my%20password@") + "/v1/?api-key=a+long+key&version=2"
    assert Judge(url, "stub", tries=1).ask("x") == "8 6"
    pair = base64.b64encode(b"me:my password").decode()
    assert f"Authorization: Basic {pair}\r\n" in server.requests[0]
    assert server.requests[0].startswith("POST /v1/chat/completions?api-key=a+long+key&version=2 HTTP/1.1\r\n")
    server.close()
    with refused("the judge at http://127") as caught:
        Judge(url, "stub", tries=1).ask("x")
    assert "password" not in str(caught.value) and "long" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://", "http://host:port", "http://host:99999", "http://[::1", "file:///etc/x", "http://u:hunter2@"],
)
def test_a_url_that_names_no_host_is_refused(url: str) -> None:
    with refused("found --judge_url .*; need one that begins with http") as caught:
        Judge(url, "stub")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" * 20,
        b"",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    ],
)
def test_what_is_no_http_is_one_line(serve: Start, body: bytes) -> None:
    with refused(r"the judge at .* gave .*; need a server that speaks") as caught:
        Judge(serve(body).url, "stub", tries=1).ask("x")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"choices":' * 50_000, b'{"choices": [1]}', b"\xff\xfe", b"1" * 9000, b"[]"]
)
def test_what_is_no_chat_completion_is_one_line(serve: Start, body: bytes) -> None:
    with refused("gave an answer that is not a chat completion"):
        Judge(serve(answer(body)).url, "stub", tries=1).ask("x")


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * 2**16)


def test_an_endless_body_is_left(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 2**18)
    with refused("gave more than 262,144 bytes"):
        Judge(serve(endless).url, "stub", tries=1).ask("x")


def drip(head: bytes) -> Reply:
    """A byte now and then, each before a socket's timeout."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(40):
            connection.sendall(b"a")
            time.sleep(0.02)

    return reply


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"])
def test_the_time_of_a_whole_answer_is_bounded(serve: Start, head: bytes) -> None:
    began = time.monotonic()
    with refused("gave no whole answer within 0.1 seconds"):
        Judge(serve(drip(head)).url, "stub", seconds=0.1, tries=1).ask("x")
    assert time.monotonic() - began < 0.6


def test_work_in_time_is_done_and_its_errors_are_raised() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])
