"""``sealbus``: what an operator types. stdout is data, stderr is talk.

Exit codes: 0 it worked, 1 it failed, 2 the command line is wrong, 3 the answer is no (refused, invalid, not in force).
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import click

from sealbus.errors import Refused, SealbusError
from sealbus_broker.cli.bots import pub, request, sub
from sealbus_broker.cli.check import check
from sealbus_broker.cli.init import init
from sealbus_broker.cli.inspect import inspect
from sealbus_broker.cli.keys import keys
from sealbus_broker.cli.quarantine import quarantine
from sealbus_broker.cli.serve import ping, prepare, relay, up


@click.group(
    context_settings={"auto_envvar_prefix": "SEALBUS", "help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(version("sealbus"), message="%(version)s")
def cli() -> None:
    """A message bus on NATS on which nobody can speak in another's name.

    Each option can be given by environment too: SEALBUS_<COMMAND>_<OPTION>, and SEALBUS_DIR and SEALBUS_CREDENTIALS for all.
    """


for _command in (init, up, relay, prepare, ping, check, keys, pub, sub, request, inspect, quarantine):
    cli.add_command(_command)


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        result = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("stopped", err=True)
        return 130
    except SealbusError as error:
        say_error(error)
        return 3 if isinstance(error, Refused) else 1
    except BrokenPipeError:
        # The reader of our output has gone (`sealbus sub … | head`): not an error, and nobody to tell.
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def say_error(error: SealbusError) -> None:
    """``error:`` what happened, ``hint:`` what to do."""
    click.echo(f"{click.style('error:', fg='red')} {error.what}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {error.hint}", err=True)
