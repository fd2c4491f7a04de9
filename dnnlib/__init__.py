"""Helpers without any machine learning in them: errors for users, safe file writing, formatting."""

from dnnlib.util import (
    UserError,
    atomic_write,
    explain_file_trouble,
    format_bytes,
    format_time,
    one_line,
    parse_int_list,
    run_cli,
)

__all__ = [
    "UserError",
    "atomic_write",
    "explain_file_trouble",
    "format_bytes",
    "format_time",
    "one_line",
    "parse_int_list",
    "run_cli",
]
