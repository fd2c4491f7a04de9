"""The viewer's command and server: the address it listens on, and its errors."""

import re
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import click.testing
import pytest

from dnnlib import UserError
from renderer.cameras import CameraPrior
from renderer.viewer.__main__ import main
from renderer.viewer.server import ViewerServer
from tests.renderer.viewer.browser import write_snapshot
from tests.renderer.viewer.fakes import Queue, Source

viser = pytest.importorskip("viser", reason="viser is not installed")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkpoints():
    source = Source(CameraPrior(), Queue())
    return types.SimpleNamespace(
        names=["a"], newest="a", states={}, newest_source=lambda: ("a", source), refresh=lambda: False
    )


@pytest.fixture
def taken():
    """A port that is in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_it_listens_at_its_address_and_nowhere_else(checkpoints):
    server = ViewerServer(checkpoints, host="127.0.0.1", port=0)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
            assert connection.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OSError):  # another address of this machine
            socket.create_connection(("127.0.0.2", server.port), timeout=1)
        assert server._server.request_share_url() is None, "no window can publish the server"
    finally:
        server.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
    assert server.sessions == []


def test_a_window_that_is_closed_while_its_network_is_loaded(checkpoints, monkeypatch):
    server = ViewerServer(checkpoints, host="127.0.0.1", port=0)
    try:
        closed, offered = [], []
        session = types.SimpleNamespace(close=lambda: closed.append(True), offer=lambda *names: offered.append(names))
        monkeypatch.setattr("renderer.viewer.server.Session", lambda *_: session)
        server._connect(types.SimpleNamespace(client_id=3))  # viser knows it no longer
        assert server.sessions == [] and closed == [True] and offered == []
        monkeypatch.setattr(server._server, "get_clients", lambda: {3: None})
        server._connect(types.SimpleNamespace(client_id=3))
        assert server.sessions == [session] and closed == [True]
        assert offered == [(checkpoints.names, checkpoints.newest)], "files may have been replaced meanwhile"
    finally:
        server.stop()


def test_a_port_that_is_taken_is_not_replaced_by_another(checkpoints, taken):
    with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1, port {taken}: Address already in use; choose"):
        ViewerServer(checkpoints, host="127.0.0.1", port=taken)


def test_an_address_of_another_machine(checkpoints):
    with pytest.raises(UserError, match="Cannot listen on 192.0.2.1, port 8080"):
        ViewerServer(checkpoints, host="192.0.2.1", port=8080)
    with pytest.raises(UserError, match="Cannot listen on no.such.host.invalid"):
        ViewerServer(checkpoints, host="no.such.host.invalid", port=8080)
    with pytest.raises(UserError, match="^Cannot listen on a..b, port 8080: it is not a host name; choose another"):
        ViewerServer(checkpoints, host="a..b", port=8080)


def test_without_viser_one_line_says_what_to_install(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(UserError, match="pip install 'viser"):
        ViewerServer(checkpoints, host="127.0.0.1", port=0)


def test_the_command_says_where_and_ends_with_ctrl_c(tmp_path):
    write_snapshot(tmp_path / "a.pkl")
    command = [sys.executable, "-m", "renderer.viewer", "--network_pkl", str(tmp_path / "a.pkl")]
    process = subprocess.Popen(
        [*command, "--port", "0", "--device", "cpu"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background lets its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        port = re.match(r"Open http://localhost:([0-9]+) ", process.stdout.readline())[1]
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),  # localhost may be an IPv4 address, which such a server does not listen on
    ],
)
def test_the_address_that_is_printed_can_be_opened(tmp_path, monkeypatch, host, shown):
    server = types.SimpleNamespace(port=46875, wait=lambda: None, stop=lambda: None)
    monkeypatch.setattr("renderer.viewer.__main__.start", lambda *_, **options: server)
    result = click.testing.CliRunner().invoke(main, ["--network_pkl", str(tmp_path), "--host", host])
    assert result.output == f"Open http://{shown}:46875 (Ctrl-C ends it).\n" and result.exit_code == 0


def test_the_command_tells_a_broken_checkpoint_in_one_line(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"PK\x03\x04 and nothing else")
    result = click.testing.CliRunner().invoke(main, ["--network_pkl", str(path), "--port", "0", "--device", "cpu"])
    assert isinstance(result.exception, UserError) and result.output == ""
    assert str(result.exception) == f"{path} is damaged or incomplete; copy or download it again."


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "99999"], "99999 is not in the range"),
        (["--device", "warp"], "--device: 'warp' cannot be used here"),
        ([], "no network snapshot"),
    ],
)
def test_mistakes_end_the_command(tmp_path, arguments, message):
    result = click.testing.CliRunner().invoke(main, ["--network_pkl", str(tmp_path), *arguments])
    assert result.exit_code != 0 and message in f"{result.output} {result.exception}"


def test_a_folder_of_runs_names_one(tmp_path):
    (tmp_path / "00000-clips").mkdir()
    (tmp_path / "00000-clips" / "network-snapshot-000001.pt").touch()
    result = click.testing.CliRunner().invoke(main, ["--network_pkl", str(tmp_path), "--device", "cpu"])
    assert str(result.exception).endswith(f"inside it, such as {tmp_path / '00000-clips'}: name one of them.")


def test_help_needs_no_pytorch():
    code = "import renderer.viewer.__main__, sys; sys.exit('torch' in sys.modules or 'viser' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
