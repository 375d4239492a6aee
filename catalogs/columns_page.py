"""The page of columns in the documentation, made from the declarations so that it cannot drift."""

from collections.abc import Mapping, Sequence

from catalogs import CATALOGS, augmentations
from catalogs.spec import CatalogSpec
from engine.column import Column
from engine.flags import FLAGS, REASONS
from engine.stage import REJECTED

_HEAD = """# Columns

Made from the declarations in the code by `make golden`; do not edit.
"""


def columns_page(model_columns: Mapping[str, Sequence[Column]], sample_columns: Sequence[Column]) -> str:
    """Markdown page of every catalogue's columns, flags and reason codes.

    Parameters
    ----------
    model_columns
        Catalogue name to the columns that its model writes with its defaults.
    sample_columns
        Columns of samples of a generator with all measures.

    Returns
    -------
    text
        Markdown, ending in a newline.
    """
    parts = [_HEAD]
    parts += [_catalog_section(CATALOGS[name], written) for name, written in model_columns.items()]
    parts.append(_sample_section(sample_columns))
    parts.append("## `rejected`\n\nFiles and objects that were not scored.\n\n" + _column_table(REJECTED))
    return "\n".join([*parts, _flag_section(), _reason_section()])


def _examples(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{question}:\n\n```sql\n{sql}\n```\n" for question, sql in pairs]


def _sample_section(columns: Sequence[Column]) -> str:
    head = f"## `{augmentations.NAME}` with `image_vae`\n\n{augmentations.SUMMARY}\n\nKey: (checkpoint_id, seed).\n"
    return "\n".join([head, _column_table(columns), "### Queries\n", *_examples(augmentations.EXAMPLES)])


def _catalog_section(spec: CatalogSpec, written: Sequence[Column]) -> str:
    return "\n".join(
        [
            f"## `{spec.name}` with `{'` and `'.join((*spec.upstream, spec.model))}`\n",
            f"{spec.summary}\n",
            f"Key: ({', '.join(spec.key)}). Ranked by `{spec.score}`, largest first. In DuckDB the rows are",
            f"the view `catalog`; `ranked` adds `{spec.rank}`, and `top(n)` gives the first n of it.\n",
            _column_table(spec.columns(written)),
            "### Queries\n",
            *_examples(spec.examples),
        ]
    )


def _column_table(columns: Sequence[Column]) -> str:
    lines = ["| column | type | unit | null | description |", "|---|---|---|---|---|"]
    for c in columns:
        dtype = f"{c.dtype}[{c.length}]" if c.length else c.dtype
        unit = f"`{c.unit}`" if c.unit else ""
        lines.append(f"| `{c.name}` | {dtype} | {unit} | {'yes' if c.nullable else ''} | {c.description} |")
    return "\n".join(lines) + "\n"


def _flag_section() -> str:
    lines = [f"| {flag.bit} | `{flag.name}` | {flag.description} |" for flag in FLAGS]
    head = "## Bits of `flags`\n\nA flagged row was scored; test with `has_flag(flags, 'NAME')`.\n"
    return "\n".join([head, "| bit | name | meaning |", "|---|---|---|", *lines]) + "\n"


def _reason_section() -> str:
    lines = [f"| `{r.code}` | {r.kind} | {r.description} |" for r in REASONS.values()]
    return "\n".join(
        ["## Reasons in `rejected`\n", "| reason | kind | meaning |", "|---|---|---|", *lines, ""]
    )
