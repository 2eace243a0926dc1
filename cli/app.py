"""The group of commands: found by name in a table, and imported on use."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from adaptdock.cli.common.output import note, say, unfilter
from adaptdock.engine.core.distributed import check_alone
from adaptdock.errors import PluginError, UnknownNameError
from adaptdock.plugins import registry

COMMANDS = {
    "data": ("adaptdock.cli.data", "Show what is in a data file, as a task reads it, and its problems."),
    "train": ("adaptdock.cli.train", "Train an adapter and save it as one file."),
    "sweep": ("adaptdock.cli.sweep", "Search settings: train many times and keep the best adapter."),
    "predict": ("adaptdock.cli.predict", "Run an adapter on texts."),
    "eval": ("adaptdock.cli.eval", "Measure an adapter on labelled data."),
    "compare": ("adaptdock.cli.compare", "Compare two adapters on the same labelled data."),
    "explain": ("adaptdock.cli.explain", "Show which words of a text decided an answer."),
    "label": ("adaptdock.cli.label", "Propose the texts whose labels would teach an adapter most."),
    "inspect": ("adaptdock.cli.inspect", "Show the contents of an adapter file."),
    "sample": ("adaptdock.cli.sample", "Write the sample data of a task as files."),
    "merge": ("adaptdock.cli.merge", "Fold an adapter into a copy of its backbone."),
    "combine": ("adaptdock.cli.combine", "Add, subtract or average adapters into a new file."),
    "serve": ("adaptdock.cli.serve", "Serve a folder of adapters over HTTP."),
    "push": ("adaptdock.cli.push", "Send an adapter file to a serving process."),
    "list": ("adaptdock.cli.installed", "List installed adapters."),
    "search": ("adaptdock.cli.search", "Search published adapters."),
    "info": ("adaptdock.cli.info", "Show a published adapter before its installation."),
    "install": ("adaptdock.cli.install", "Verify and install published adapters."),
    "update": ("adaptdock.cli.update", "Update installed adapters to their newest version."),
    "verify": ("adaptdock.cli.verify", "Check installed adapters, and golden probes."),
    "rebuild": ("adaptdock.cli.rebuild", "Train an adapter again, and compare."),
    "remove": ("adaptdock.cli.remove", "Remove installed adapters."),
    "publish": ("adaptdock.cli.publish", "Add an adapter to a registry, sign it, build a wheel."),
    "sign": ("adaptdock.cli.sign", "Sign an adapter file and its provenance."),
    "refresh": ("adaptdock.cli.refresh", "Sign the state of a registry against old copies."),
    "yank": ("adaptdock.cli.yank", "Withdraw a published version from a registry."),
    "revoke": ("adaptdock.cli.revoke", "Withdraw all adapters that a key has signed from a registry."),
    "key": ("adaptdock.cli.key", "Create and show signing keys."),
    "trust": ("adaptdock.cli.trust", "Choose the publishers that this machine trusts."),
    "import": ("adaptdock.cli.import_", "Import an adapter of peft or AdapterHub as one file."),
    "doctor": ("adaptdock.cli.doctor", "Examine an adapter of peft or AdapterHub for silent faults."),
    "export": ("adaptdock.cli.export", "Export an adapter in the format of peft or AdapterHub."),
    "plugins": ("adaptdock.cli.plugins", "List methods, tasks, backbones and other plugins."),
    "plugin": ("adaptdock.cli.plugin", "Create or check a plugin."),
}
"""Name -> module (its ``command`` is the click command) and the line that --help shows."""


class LazyGroup(click.Group):
    """A group that lists commands by name, and imports only the called command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands of this package, then those of plugins."""
        return [*COMMANDS, *(name for name in registry.names("command") if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import a command; raise :class:`UnknownNameError` with the nearest names."""
        from adaptdock.cli.common.library_warnings import quiet

        quiet()
        registry.tell_slow_imports(_name_slow_import)
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
        """Return name and command of the first argument, and the remaining arguments."""
        return args[0], self.get_command(ctx, args[0]), args[1:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands with this beginning and their help lines, without an import."""
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


def _name_slow_import(plugin: registry.Plugin) -> None:
    note(
        f"the {plugin.kind} {plugin.name!r} of {plugin.source} is still being imported from {plugin.target}, after "
        f"{registry.SLOW_IMPORT:g} s; if it never ends: pip uninstall {plugin.distribution}"
    )


def _of_plugin(name: str) -> click.Command:
    plugin = registry.find("command", name)
    loaded = registry.load_plugin(plugin)
    unfilter()
    if not isinstance(loaded, click.Command):
        kind = type(loaded).__name__
        raise PluginError(
            f"{plugin.target}, the command {name!r} of {plugin.source}, is not a click command but of the type {kind}"
        )
    return loaded


def _with_debug(command: click.Command) -> click.Command:
    """Add ``--debug`` to a command, so that it can appear anywhere on the line."""
    if not any("--debug" in parameter.opts for parameter in command.params):
        command.params.append(debug_option())
    return command


def debug_option() -> click.Option:
    """Return the option --debug, which :mod:`adaptdock.cli.common.failures` reads from the arguments."""
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
    help="One frozen backbone, many small adapters docked into it: train, use and inspect them.",
    epilog="adapt COMMAND --help shows the options of a command.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=False,
)
