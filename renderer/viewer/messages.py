"""Errors as one-line notifications in the browser window that they belong to."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from dnnlib import UserError, one_line

__all__ = ["show_errors"]

SECONDS = 15.0  # that a message stays
LENGTH = 300


@contextlib.contextmanager
def show_errors(client: Any) -> Iterator[None]:
    """Show an error raised in the block in the client's window and go on; unexpected errors are logged as well."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (UserError, ValueError)):
            logging.getLogger(__name__).exception("an error in the viewer")
        text = one_line(error)[:LENGTH] or type(error).__name__
        client.add_notification("This did not work", text, color="red", auto_close_seconds=SECONDS)
