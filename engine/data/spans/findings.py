"""What was noticed while annotated texts were read: counted by kind, each with its places."""

SHOWN = 5


class Findings:
    """Counts what was noticed, and remembers where."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        """Count a finding; ``kind`` is a sentence with the number left out, such as ``spans are empty``."""
        self.places.setdefault(kind, []).append(place)

    def notes(self, name: str) -> list[str]:
        """Return a line for each kind: the number, what it is, and the first places."""
        return [f"{name}: {len(places)} {kind}: {shortened(places)}" for kind, places in self.places.items()]


def shortened(places: list[str]) -> str:
    """Return the first of several places, and how many there are besides."""
    distinct = list(dict.fromkeys(places))
    rest = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    return ", ".join(distinct[:SHOWN]) + rest
