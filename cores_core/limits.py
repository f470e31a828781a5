"""Limits of settings, written into their types: `Annotated[int, Ge(1)]`. The JSON schema of a config has them, too."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le, Lt

from cores_core.errors import ConfigError

Positive = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0)]
Weight = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Probability = Annotated[float, Ge(0), Lt(1)]

_RULES: Mapping[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Ge: ("ge", operator.ge, "at least"),
    Le: ("le", operator.le, "at most"),
    Lt: ("lt", operator.lt, "below"),
}
"""For each kind of limit: the attribute that holds its bound, the comparison, and its words in an error."""


def check_limits(section: str, settings: Any) -> None:
    """Check all fields of a dataclass.

    Args:
        section: name of the section in a config, for the error.

    Raises:
        ConfigError: a value is outside the limits of its type, or is not a number.
    """
    kinds = get_type_hints(type(settings), include_extras=True)
    for name in (field.name for field in fields(settings)):
        _check(f"{section}.{name}", kinds[name], getattr(settings, name))


def check_divides(divisor: str, number: int, whole: str, total: int) -> None:
    """Raise a ConfigError unless `number`, the setting named `divisor`, divides `total`, that named `whole`."""
    if total % number:
        raise ConfigError(f"`{divisor}` ({number}) must divide `{whole}` ({total})")


def _check(name: str, kind: Any, value: Any) -> None:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for limit in inner[1:]:
            attribute, holds, words = _RULES[type(limit)]
            bound = getattr(limit, attribute)
            if not holds(value, bound):  # nan holds nowhere
                raise ConfigError(f"`{name}` must be {words} {bound}: {value}")
    elif origin in (Union, UnionType) and value is not None:
        _check(name, inner[0], value)
    elif origin is tuple:
        for item in value:
            _check(name, inner[0], item)
