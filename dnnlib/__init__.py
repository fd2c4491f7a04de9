"""Helpers unrelated to machine learning: errors for users, safe file writing, formatting."""

from dnnlib.processes import print_any_text, run_cli
from dnnlib.util import (
    UserError,
    atomic_write,
    choices_hint,
    exclusive_lock,
    expand_home,
    explain_file_trouble,
    file_identity,
    find_ffmpeg,
    format_bytes,
    format_time,
    is_number,
    link_or_copy,
    listening_port,
    make_folder,
    nearest_name,
    one_line,
    parse_int_list,
    temporary_folder,
    temporary_name,
)

__version__ = "0.1.0"  # of the program; stated only here, and read by pyproject.toml

__all__ = [
    "UserError",
    "__version__",
    "atomic_write",
    "choices_hint",
    "exclusive_lock",
    "expand_home",
    "explain_file_trouble",
    "file_identity",
    "find_ffmpeg",
    "format_bytes",
    "format_time",
    "is_number",
    "link_or_copy",
    "listening_port",
    "make_folder",
    "nearest_name",
    "one_line",
    "parse_int_list",
    "print_any_text",
    "run_cli",
    "temporary_folder",
    "temporary_name",
]
