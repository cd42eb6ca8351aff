"""The class of a command: flags without a type, examples below the options, and slips that are refused."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from lightning_bench.cli.shared.typing_slips import refuse_other_commands_options, refuse_slips


class LbenchGroup(TyperGroup):
    """`lbench` itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters without the types that their names say."""
        return _without_type(super().get_params(ctx))


def command_with(*examples: str) -> type[TyperCommand]:
    """Return the class of a command whose help ends with these lines, which can be run as they are."""

    class Command(TyperCommand):
        """A command with examples."""

        def get_params(self, ctx: Any) -> list[Any]:
            """Return the parameters without the types that their names say."""
            return _without_type(super().get_params(ctx))

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Take the words typed. UsageError for slips among them."""
            if not ctx.resilient_parsing:
                options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
                refuse_other_commands_options(ctx.info_name, args, options)
                refuse_slips(*self.make_parser(ctx).parse_args(list(args)))
            return super().parse_args(ctx, args)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            """Write the help, then the examples, none of which is cut."""
            super().format_help(ctx, formatter)
            formatter.write("\n".join([" Examples:", *(f"   {line}" for line in examples), ""]))

    return Command


def _without_type(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = _no_type
    return parameters


def _no_type(ctx: Any) -> None:
    """Return nothing: the name of an argument says what it takes."""
