"""Helpers unrelated to machine learning: errors for users, safe file writing, formatting."""

from dnnlib.processes import print_any_text, run_cli
from dnnlib.text import (
    UserError,
    choices_hint,
    format_bytes,
    format_time,
    is_number,
    nearest_name,
    one_line,
    parse_int_list,
)
from dnnlib.util import (
    append_line,
    atomic_write,
    exclusive_lock,
    expand_home,
    explain_file_trouble,
    file_identity,
    find_ffmpeg,
    link_or_copy,
    listening_port,
    made_folder,
    output_folder,
    require_utf8,
    short_name,
    temporary,
    temporary_folder,
    temporary_name,
)

__version__ = "0.1.0"  # of the program; stated only here, and read by pyproject.toml

__all__ = [
    "UserError",
    "__version__",
    "append_line",
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
    "made_folder",
    "nearest_name",
    "one_line",
    "output_folder",
    "parse_int_list",
    "print_any_text",
    "require_utf8",
    "run_cli",
    "short_name",
    "temporary",
    "temporary_folder",
    "temporary_name",
]
