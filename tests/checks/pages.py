#!/usr/bin/env python3
"""Whether the pages agree with the sources: tests/checks/pages.py

Links between pages lead somewhere, files that pages name and pages that comments name are there, and the messages that docs/questions.md
explains are in the sources. None of the words in words.txt stands in public headers, pages, or messages of the app, but where that list
allows it.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def sources(*folders):
    return [p for f in folders for p in sorted((ROOT / f).rglob("*")) if p.suffix in {".hpp", ".cuh", ".cpp", ".cu"}]


def broken_links():
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
            for target in re.findall(r"\]\(([^)#]+)", line):
                if "://" not in target and re.match(r"[\w./-]+$", target) and not (page.parent / target).exists():
                    yield f"{page.relative_to(ROOT)}:{number}: there is no {target}"


def lost_files():
    """Files that pages name between backticks, and pages that comments name, must be there."""
    there = [str(p.relative_to(ROOT)) for f in ("include", "examples", "tests", "bench", "cmake", "docs") for p in (ROOT / f).rglob("*") if p.is_file()]
    there += [p.name for p in ROOT.iterdir() if p.is_file()]
    known = {"/" + name for name in there}
    names = re.compile(r"`([\w./-]+\.(?:hpp|cuh|cpp|cu|sh|py|cmake))[ `]")
    for path in PAGES + sources("include", "examples", "bench", "tests"):
        page = path in PAGES
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            found = names.findall(line) if page and path.parent.name != "measurements" else []
            if not page and "//" in line:
                found += re.findall(r"(?<![/.\w])((?:docs/)?[a-z][\w-]*\.md|(?:\w+/)*\w+\.(?:hpp|cuh))\b", line.split("//", 1)[1])
            for name in found:
                if name != "llama.cpp" and not any(k.endswith("/" + name) for k in known):
                    yield f"{path.relative_to(ROOT)}:{number}: there is no {name}"


def lost_messages():
    """Messages in the first column of tables of questions.md headed "message": every piece between … must be in a source."""
    page = ROOT / "docs" / "questions.md"
    text = "\n".join(p.read_text(encoding="utf-8") for p in sources("include", "examples/gptq"))
    text = re.sub(r'"\s*\n?\s*"', "", text).replace('\\"', '"')
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        inside = line.startswith("| message |") or inside and line.startswith("|")
        if inside:
            for message in re.findall(r"`([^`]*)`", line.split(" | ")[0]):
                for piece in message.split("…"):
                    piece = piece.strip(" :;()'\"")
                    if piece and piece not in text:
                        yield f"docs/questions.md:{number}: no source says \"{piece}\""


def retired_words():
    rules = []
    for line in (ROOT / "tests/checks/words.txt").read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            word, say, allowed = line.split(" | ") if line.count(" | ") == 2 else (*line.rstrip(" |").split(" | "), "")
            rules.append((re.compile(word), say, re.compile(allowed) if allowed else None))
    pages = [p for p in PAGES if "measurements" not in p.parts and p.name != "glossary.md"]
    for path in sources("include") + pages + sources("examples/gptq"):
        name = str(path.relative_to(ROOT))
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            said = " ".join(re.findall(r'"(?:[^"\\]|\\.)*"', line)) if name.startswith("examples") else line
            for word, say, allowed in rules:
                found = [m.group() for m in word.finditer(said)]
                if found and not (allowed and allowed.search(f"{name}: {line}")):
                    yield f"{name}:{number}: {', '.join(found)}; say {say}"


def main():
    faults = [*broken_links(), *lost_files(), *lost_messages(), *retired_words()]
    print("\n".join([*faults, f"{len(PAGES)} pages, {len(faults)} faults"]))
    return 1 if faults else 0


sys.exit(main())
