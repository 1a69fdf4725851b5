"""Elements of inline SVG charts. Text and attributes are escaped. Imports no torch."""

from __future__ import annotations

from markupsafe import Markup, escape


def element(name: str, *content: object, **attributes: object) -> Markup:
    """`element("text", "best", x=3.14159, text_anchor="end")` -> `<text x="3.1" text-anchor="end">best</text>`.

    Content that is Markup is inserted as it is; everything else is escaped. Underscores in attribute names become
    hyphens, and a trailing one is dropped (`class_`). Floats are written with one decimal, a tenth of a pixel.
    """
    words = "".join(f' {_name(key)}="{escape(_value(value))}"' for key, value in attributes.items())
    inside = "".join(escape(part) for part in content)
    if not inside:
        return Markup(f"<{name}{words}/>")
    return Markup(f"<{name}{words}>{inside}</{name}>")


def title(words: str) -> Markup:
    """What the pointer shows over an element."""
    return element("title", words)


def _name(key: str) -> str:
    return key.removesuffix("_").replace("_", "-") if key != "viewBox" else key


def _value(value: object) -> object:
    return f"{value:.1f}" if isinstance(value, float) else value
