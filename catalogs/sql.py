"""Names and texts as SQL writes them."""


def sql_name(text: str) -> str:
    """Return a name of a column or view, quoted."""
    return '"' + text.replace('"', '""') + '"'


def sql_text(text: str) -> str:
    """Return a string, quoted."""
    return "'" + text.replace("'", "''") + "'"
