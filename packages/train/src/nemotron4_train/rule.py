"""A rule between settings: what every configuration says when one is broken."""


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise ValueError, one line with the dotted key, the value and the rule, unless the condition holds."""
    if not condition:
        raise ValueError(f"{key} ({value}): {rule}")
