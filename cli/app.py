"""The group of commands: looked up in a table, imported when one is used."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from adaptdock.cli.common.output import say, unfilter
from adaptdock.engine.core.distributed import check_alone
from adaptdock.errors import PluginError, UnknownNameError
from adaptdock.plugins import registry

COMMANDS = {
    "train": ("adaptdock.cli.train", "Train an adapter and save it as one file."),
    "sweep": ("adaptdock.cli.sweep", "Search settings: many trainings, the best one kept."),
    "predict": ("adaptdock.cli.predict", "Run an adapter on texts."),
    "eval": ("adaptdock.cli.eval", "Measure an adapter on labelled data."),
    "inspect": ("adaptdock.cli.inspect", "Show what an adapter file holds."),
    "sample": ("adaptdock.cli.sample", "Write the sample data of a task out as files."),
    "merge": ("adaptdock.cli.merge", "Fold an adapter into a copy of its backbone."),
    "combine": ("adaptdock.cli.combine", "Add, subtract or average adapters: one new file."),
    "serve": ("adaptdock.cli.serve", "Answer for a folder of adapters over HTTP."),
    "push": ("adaptdock.cli.push", "Send an adapter file to a serving process."),
    "list": ("adaptdock.cli.installed", "List the adapters that are installed."),
    "search": ("adaptdock.cli.search", "Search published adapters."),
    "info": ("adaptdock.cli.info", "Show a published adapter before it is installed."),
    "install": ("adaptdock.cli.install", "Install published adapters, verified."),
    "update": ("adaptdock.cli.update", "Bring installed adapters to their newest version."),
    "verify": ("adaptdock.cli.verify", "Check installed adapters, and ask adapters their golden probes."),
    "remove": ("adaptdock.cli.remove", "Remove installed adapters."),
    "publish": ("adaptdock.cli.publish", "Add an adapter to a registry; sign it, pack it as a wheel."),
    "yank": ("adaptdock.cli.yank", "Withdraw a published version from a registry."),
    "revoke": ("adaptdock.cli.revoke", "Withdraw from a registry all that a key has signed."),
    "key": ("adaptdock.cli.key", "Make and show keys for signing."),
    "trust": ("adaptdock.cli.trust", "Say whose signatures count on this machine."),
    "import": ("adaptdock.cli.import_", "Turn an adapter of peft or AdapterHub into one file."),
    "export": ("adaptdock.cli.export", "Write an adapter as peft or AdapterHub do."),
    "plugins": ("adaptdock.cli.plugins", "List methods, tasks, backbones and other plugins."),
    "plugin": ("adaptdock.cli.plugin", "Write a plugin, or check one."),
}
"""Name -> module (its ``command`` is the click command) and the line that --help shows."""


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands of this package, then those of plugins."""
        return [*COMMANDS, *(name for name in registry.names("command") if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import a command; raise :class:`UnknownNameError` with the nearest names."""
        from adaptdock.cli.common.library_warnings import quiet

        quiet()
        if cmd_name != "train":
            check_alone(f"adapt {cmd_name}")
        if cmd_name in COMMANDS:
            command: Any = import_module(COMMANDS[cmd_name][0]).command
        elif cmd_name in registry.names("command"):
            command = _of_plugin(cmd_name)
        else:
            raise UnknownNameError("command", cmd_name, self.list_commands(ctx), "See adapt --help.")
        return _with_debug(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names, and the rest of the arguments."""
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, with the table's line; no command is imported."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        lines = {name: line for name, (_, line) in COMMANDS.items()}
        return [
            *(CompletionItem(name, help=lines.get(name)) for name in names),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command, from the table and from metadata."""
        rows = [(name, line) for name, (_, line) in COMMANDS.items()]
        for name in self.list_commands(ctx)[len(COMMANDS) :]:
            sources = sorted(plugin.source for plugin in registry.discover("command") if plugin.name == name)
            rows.append((name, f"From {' and '.join(sources)}."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _of_plugin(name: str) -> click.Command:
    plugin = registry.find("command", name)
    loaded = registry.load_plugin(plugin)
    unfilter()
    if not isinstance(loaded, click.Command):
        found = type(loaded).__name__
        raise PluginError(f"{plugin.target}, the command {name!r} of {plugin.source}, is no click command: {found}")
    return loaded


def _with_debug(command: click.Command) -> click.Command:
    """Let a command take ``--debug`` itself, wherever on the line it stands."""
    if not any("--debug" in parameter.opts for parameter in command.params):
        command.params.append(debug_option())
    return command


def debug_option() -> click.Option:
    """Return the option --debug; :mod:`adaptdock.cli.common.failures` looks for it in the arguments."""
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from adaptdock import __version__

        say(f"adaptdock {__version__}")
        ctx.exit()


def _options() -> Sequence[click.Option]:
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    )
    return [version, debug_option()]


app = LazyGroup(
    name="adapt",
    params=list(_options()),
    help="One frozen backbone, many small adapters docked into it: train them, use them, look inside.",
    epilog="adapt COMMAND --help tells more of a command.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=False,
)
