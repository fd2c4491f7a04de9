"""The web server: one session per browser window, all of them rendered by one thread."""

import contextlib
import io
import threading
from typing import Any

from dnnlib import UserError, listening_port
from renderer.cameras import CameraPrior
from renderer.viewer.checkpoint_list import CheckpointList
from renderer.viewer.orbit import OrbitLimits, position_of
from renderer.viewer.render_queue import RenderQueue
from renderer.viewer.session import Session

__all__ = ["ViewerServer"]

WATCH_EVERY = 2.0  # seconds between checks of the run folder


class ViewerServer:
    """Web server of the viewer, until it is stopped.

    Args:
        checkpoints: Checkpoints to choose from.
        host: Address to listen on.
        port: 0 for any free one.

    Raises:
        UserError: viser is missing, the address cannot be used, or no checkpoint can be loaded.
    """

    def __init__(self, checkpoints: CheckpointList, *, host: str, port: int):
        viser = _import_viser()
        listening_port(host, port)
        _, source = checkpoints.newest_source()
        self._checkpoints = checkpoints
        self._queue = RenderQueue()
        self._queue.start()
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        with contextlib.redirect_stdout(io.StringIO()):  # viser's banner
            self._server = _private_server(viser)(host=host, port=port, label="3D-aware video", verbose=False)
        if port not in (0, self._server.get_port()):  # taken in the meantime: viser moved on to the next one
            self.stop()
            raise UserError(f"Cannot listen on port {port} of {host} any more; choose another --port.")
        self._set_appearance(source.prior)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)
        self._watch = threading.Thread(target=self._watch_checkpoints, name="watch", daemon=True)
        self._watch.start()

    @property
    def port(self) -> int:
        return self._server.get_port()

    @property
    def sessions(self) -> list[Session]:
        """One for each open window."""
        with self._lock:
            return list(self._sessions.values())

    def wait(self) -> None:
        """Block until `stop` is called, or Ctrl-C."""
        while not self._stopped.wait(1.0):
            pass

    def stop(self) -> None:
        """Close all sessions and the port."""
        self._stopped.set()
        for session in self.sessions:
            session.close()
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()
        self._queue.stop()

    def _set_appearance(self, prior: CameraPrior) -> None:
        """The initial state of all windows: a frontal camera, and no share button."""
        camera = self._server.initial_camera
        camera.position = position_of(OrbitLimits.of(prior, beyond=False).front(prior.fov))
        camera.look_at = (0.0, 0.0, 0.0)
        camera.up = (0.0, 0.0, 1.0)
        self._server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._server.gui.main_panel.dock_right()
        self._server.scene.world_axes.visible = False

    def _connect(self, client: Any) -> None:
        session = Session(client, self._checkpoints, self._queue)
        with self._lock:
            self._sessions[client.client_id] = session
        # While its network was loaded, the window may have been closed and files replaced.
        if client.client_id not in self._server.get_clients():
            self._disconnect(client)
        else:
            session.offer(self._checkpoints.names, self._checkpoints.newest)

    def _disconnect(self, client: Any) -> None:
        with self._lock:
            session = self._sessions.pop(client.client_id, None)
        if session is not None:
            session.close()

    def _watch_checkpoints(self) -> None:
        while not self._stopped.wait(WATCH_EVERY):
            if self._checkpoints.refresh():
                for session in self.sessions:
                    session.offer(self._checkpoints.names, self._checkpoints.newest)


def _import_viser() -> Any:
    try:
        import viser
    except ImportError as error:
        raise UserError("The viewer needs viser: pip install 'viser>=1.1'.") from error
    return viser


def _private_server(viser: Any) -> type:
    """viser's server without its tunnel to a public address, which any window may ask for."""

    class PrivateServer(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            return None

    return PrivateServer
