"""The command line: `sidecar`. What a subcommand needs is imported when it is asked for."""

import sys

_USAGE = """\
usage: sidecar COMMAND ...

Cluster tokens from exchanged, for a workload, kubectl and other programs.

commands:
  run              fetch tokens, keep them fresh, hand them out as files or on a socket
  exec-credential  a credential plugin for kubectl and every client-go program

Each has its own --help.
"""


def main() -> int:
    """The command; its exit code."""
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["run"]:
        from sidecar.command import main as run  # noqa: PLC0415 - the other command is to be quick

        return run(arguments)
    if command == ["exec-credential"]:
        from sidecar.execplugin import main as answer  # noqa: PLC0415 - as above

        return answer(arguments)
    if command in (["--version"], ["version"]):
        from sidecar import __version__  # noqa: PLC0415 - as above

        print(f"sidecar {__version__}")  # noqa: T201 - a command prints
        return 0
    asked = command in (["--help"], ["-h"])
    if command and not asked:
        print(f"sidecar: there is no command {command[0]!r}", file=sys.stderr)  # noqa: T201 - as above
    print(_USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
