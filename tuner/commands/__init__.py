"""The subcommands of `tune`, one module or folder each.

Each has `add_parser(subparsers)`, which adds its arguments, and `run(options)`, which returns the exit code. Both are
in the module, or in the folder's `__init__.py`, and import slow modules only when the command runs.
"""
