"""How settings of models refuse values: one message for all."""


def check(valid: bool, name: str, value: object, expected: str) -> None:
    """Raise a ValueError that names the field, its value and what is expected, unless it is valid."""
    if not valid:
        raise ValueError(f"{name} is {value}, must be {expected}")
