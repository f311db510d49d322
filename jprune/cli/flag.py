"""Short forms of the definitions of absl flags, for the flags of one command."""

from absl import flags as absl_flags

FlagValues = absl_flags.FlagValues


def text(flags: FlagValues, name: str, default: str | None, help: str) -> None:
    """A flag of any text."""
    absl_flags.DEFINE_string(name, default, help, flag_values=flags)


def texts(flags: FlagValues, name: str, help: str) -> None:
    """A flag of several texts with commas between them; none by default."""
    absl_flags.DEFINE_list(name, [], help, flag_values=flags)


def repeated(flags: FlagValues, name: str, help: str) -> None:
    """A flag of any text that may be given several times; none by default."""
    absl_flags.DEFINE_multi_string(name, [], help, flag_values=flags)


def integer(
    flags: FlagValues, name: str, default: int | None, help: str, at_least: int | None = None
) -> None:
    """A flag of an integer, perhaps with a smallest value."""
    absl_flags.DEFINE_integer(name, default, help, lower_bound=at_least, flag_values=flags)


def number(flags: FlagValues, name: str, default: float | None, help: str) -> None:
    """A flag of a real number."""
    absl_flags.DEFINE_float(name, default, help, flag_values=flags)


def switch(flags: FlagValues, name: str, help: str) -> None:
    """A flag that is off unless given, as --name or --name=true."""
    absl_flags.DEFINE_boolean(name, False, help, flag_values=flags)
