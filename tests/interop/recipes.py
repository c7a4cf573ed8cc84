"""The Python of docs/interop.md, as its readers run it."""

import pathlib
import re


def documented():
    """Its functions, by name."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "interop.md").read_text()
    found = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, found)
    return found
