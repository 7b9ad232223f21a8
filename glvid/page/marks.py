"""Text and elements of HTML. Whatever comes from outside passes through here and cannot become markup."""

from html import escape


def text(value: object) -> str:
    """A value as text of a page."""
    return escape(str(value))


def element(tag: str, inside: str = "", /, **attributes: object) -> str:
    """`<tag ...>inside</tag>`; inside is markup, attributes are values: class_ is class, data_x is data-x.

    Attributes that are None or False are left out, True stands without a value.
    """
    known = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    said = [f" {k}" if v is True else f' {k}="{text(v)}"' for k, v in known.items() if v is not None and v is not False]
    return f"<{tag}{''.join(said)}>{inside}</{tag}>"


def void(tag: str, /, **attributes: object) -> str:
    """An element that has no content and no end."""
    return element(tag, **attributes).removesuffix(f"</{tag}>")
