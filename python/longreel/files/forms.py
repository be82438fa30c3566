"""What a value of JSON must look like, and the check of one that others wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longreel.files.foreign import ForeignError, shown

Form = Any
"""A type: of it and no other. A frozenset: one of these. A tuple: of one of these forms. A list of one form: each of it. A table:
names and their forms, "name?" where it may be absent, "*" for all that is not named. Or a `Number`."""


@dataclass(frozen=True)
class Number:
    """Of a size that arithmetic in 64 bits takes. above, least: what it must exceed, or reach."""

    whole: bool = False
    above: float = -(10.0**18)
    least: float = -(10.0**18)

    def __str__(self) -> str:
        least = f" above {self.above:g}" * (self.above > -(10**18)) + f" from {self.least:g} on" * (
            self.least > -(10**18)
        )
        return f"a{' whole' * self.whole} number{least}"

    def holds(self, value: object) -> bool:
        kinds = (int,) if self.whole else (int, float)
        return type(value) in kinds and self.above < value < 10**18 and value >= self.least  # type: ignore[operator]


NUMBER, COUNT = Number(), Number(whole=True, least=0)
POSITIVE = Number(above=0)


def check_form(value: Any, form: Form, where: str) -> None:
    """ForeignError, which begins with `where`, unless `value` has this form."""
    if isinstance(form, tuple):
        _check_any(value, form, where)
    elif isinstance(form, Mapping):
        _check_table(value, form, where)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise ForeignError(f"{where} is {shown(value)}, not a list")
        for each in value:
            check_form(each, form[0], f"an entry of {where}")
    elif not _holds(value, form):
        raise ForeignError(f"{where} is {shown(value)}, not {_said(form)}")


def _check_any(value: Any, forms: tuple[Form, ...], where: str) -> None:
    if not any(_has(value, form) for form in forms[:-1]):
        check_form(value, forms[-1], where)


def _has(value: Any, form: Form) -> bool:
    try:
        check_form(value, form, "")
    except ForeignError:
        return False
    return True


def _check_table(value: Any, form: Mapping[str, Form], where: str) -> None:
    if not isinstance(value, dict):
        raise ForeignError(f"{where} is {shown(value)}, not a table of names")
    for name in form:
        if name != "*" and not name.endswith("?") and name not in value:
            raise ForeignError(f"{where} has no {shown(name)}")
    for name, each in value.items():
        own = form.get(name, form.get(f"{name}?", form.get("*", object)))
        if own is not object:
            check_form(each, own, f"{shown(name)} of {where}")


def _holds(value: Any, form: Form) -> bool:
    if isinstance(form, Number):
        return form.holds(value)
    if isinstance(form, frozenset):
        return isinstance(value, str) and value in form
    return form is object or type(value) is form


def _said(form: Form) -> str:
    if isinstance(form, frozenset):
        return f"one of {', '.join(sorted(form))}"
    return {str: "a text", bool: "true or false", type(None): "null"}.get(form) or str(form)
