"""Helpers without any machine learning in them: errors for users, safe file writing, formatting."""

from dnnlib.util import (
    UserError,
    atomic_write,
    choices_hint,
    expand_home,
    explain_file_trouble,
    format_bytes,
    format_time,
    nearest_name,
    one_line,
    parse_int_list,
    print_any_text,
    run_cli,
    temporary_folder,
)

__version__ = "0.1.0"  # of the program, the only place; pyproject.toml reads it here

__all__ = [
    "UserError",
    "__version__",
    "atomic_write",
    "choices_hint",
    "expand_home",
    "explain_file_trouble",
    "format_bytes",
    "format_time",
    "nearest_name",
    "one_line",
    "parse_int_list",
    "print_any_text",
    "run_cli",
    "temporary_folder",
]
