"""How long something took or will take, in words."""


def in_words(seconds: float) -> str:
    """A duration as people say it: `8 s`, `2 min 5 s`, `3 h 20 min`; the smaller part is left out at zero."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
