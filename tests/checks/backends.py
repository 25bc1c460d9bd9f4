#!/usr/bin/env python3
"""Whether docs/backends.md names every verb that a concept of a backend asks for, and quantize_backend asks for at most eighteen."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONCEPT = re.compile(r"concept (\w*_(?:backend|as_promised))\s*=(.*?)\n(?:};|\n)", re.S)


def verbs(text):
    """Concept -> the members of an object b that it calls."""
    text = re.sub(r"//[^\n]*", "", text)
    return {name: set(re.findall(r"\bb\.(?:template )?(\w+)", body)) for name, body in CONCEPT.findall(text)}


def main():
    page = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)(?=[<(`])", page))
    concepts = {}
    for folder in ("core", "pack", "run", "quantize"):
        for header in sorted((ROOT / "include" / "gptq" / folder).glob("*.hpp")):
            concepts.update(verbs(header.read_text(encoding="utf-8")))
    lost = [f"docs/backends.md does not name {verb} of {name}" for name, all_verbs in concepts.items() for verb in sorted(all_verbs - named)]
    quantizing = concepts.get("quantize_backend", set())
    if not {"forward_backend", "refines_as_promised"} <= set(concepts) or len(quantizing) < 15:
        lost.append("the concepts are not where this check looks for them")
    if len(quantizing) > 18:
        lost.append(f"quantize_backend asks for {len(quantizing)} verbs; 18 are the most")
    print("\n".join(lost) or f"{sum(map(len, concepts.values()))} verbs of {len(concepts)} concepts are in docs/backends.md")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
