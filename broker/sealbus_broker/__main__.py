"""The ``sealbus`` command, also as ``python -m sealbus_broker``.

The command is installed with the client alone too, and then the libraries of the operators' tools
are missing. So this module imports only the standard library before it knows that they are there.
"""

from __future__ import annotations

import gc
import sys

# Nothing that an import makes is garbage. The collector would look at all of it several times, at
# the start and at the end of the process. That took a quarter of a short command's time.
# ``sealbus_broker.cli.main`` turns the collector on again when everything is imported.
gc.disable()

from sealbus_broker.cli.shared import output


def main() -> int:
    """Run the command line.

    Returns the exit code: 1 with a hint on stderr where the ``broker`` extra is not installed.
    """
    output.install()
    try:
        return _command_line()
    except KeyboardInterrupt:  # while the libraries were being read
        print("stopped", file=sys.stderr)
        return 130
    finally:
        output.finish()


def _command_line() -> int:
    try:
        from sealbus_broker.cli.main import main as command_line

        return command_line()  # which reads the modules of the command that it is given
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "sealbus", "sealbus_broker"}:
            raise  # a broken installation, not a missing extra
        print(
            f"error: the sealbus command needs the Python package {missing!r}, which is not here\n"
            "hint: only the client library is installed; for the relay and the tools:"
            " pip install 'sealbus[broker]'",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
