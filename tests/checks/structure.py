#!/usr/bin/env python3
"""The shape of the house, in figures: tests/checks/structure.sh [--all] runs it

Prints headers over 400 lines, functions over 80 lines, headers and floors of includes in each room, functions with more than six
parameters, and public declarations without a docstring; with --all every one of them by name, else the first few. Only headers over
400 lines make it fail: the others are guides, and a good reason stands against each of them.

It reads C++ as text formatted by clang-format 14, not as a compiler: a figure may be off by a few.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include" / "gptq"
KEYWORDS = {"if", "for", "while", "switch", "catch", "return", "sizeof", "decltype", "requires", "noexcept", "alignas", "static_assert", "else", "do",
            "defined", "alignof", "throw", "new", "delete", "constexpr", "explicit", "operator"}


def blank(text):
    """The text with comments, strings and preprocessor lines replaced by spaces, line by line as before."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*',
                         re.S | re.M)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def matching(text, start, opening, closing):
    """The position of the bracket that closes the one at start, or -1."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] == opening:
            depth += 1
        elif text[i] == closing:
            depth -= 1
            if depth == 0:
                return i
    return -1


def parameters(inside):
    """How many parameters a list has: commas outside all brackets, plus one."""
    depth, count = 0, 1 if inside.strip() and inside.strip() != "void" else 0
    for i, c in enumerate(inside):
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "<" and re.search(r"[\w:]$", inside[:i]):
            depth += 1
        elif c == ">" and depth and inside[i - 1] not in "-= ":
            depth -= 1
        elif c == "," and depth == 0:
            count += 1
    return count


HEAD = re.compile(r"(?P<name>~?[A-Za-z_]\w*|operator\s*[^\s(]+|operator\(\))\s*\(")
AFTER = re.compile(r"\s*(?:const\b|noexcept(?:\([^)]*\))?|override\b|final\b|&&?|->\s*[^{;]+|requires\s[^{;]+|mutable\b|\s)*")


def functions(text):
    """(name, first line, last line, number of parameters, opens a body) of each function, found in blanked text."""
    at = 0
    while m := HEAD.search(text, at):
        at = m.end()
        name = m.group("name")
        if name in KEYWORDS or re.match(r"[A-Z][A-Z0-9_]+$", name):
            continue
        before = text[:m.start()].rstrip()
        # A definition has a type, a scope or an end of something before its name; a call with a block behind it has not.
        if not re.search(r"[\w*&>:;{}~]$", before) or before.endswith("->"):
            continue
        word = re.search(r"[A-Za-z_]\w*$", before)
        if word and word.group() in {"return", "throw", "else", "new", "case", "co_return", "and", "or", "not"}:
            continue
        close = matching(text, m.end() - 1, "(", ")")
        if close < 0:
            continue
        rest = AFTER.match(text, close + 1).end()
        if rest < len(text) and text[rest] == ":" and text[rest:rest + 2] != "::":  # members of a constructor
            rest = re.compile(r":(?:[^{};]|\w\{[^{}]*\})*").match(text, rest).end()
            brace = text.find("{", rest - 1)
            rest = brace if brace >= 0 else rest
        if rest >= len(text) or text[rest] != "{":
            continue
        end = matching(text, rest, "{", "}")
        if end < 0:
            continue
        yield name, text.count("\n", 0, m.start()) + 1, text.count("\n", 0, end) + 1, parameters(text[m.end():close])


def room_of(header):
    parts = header.relative_to(INCLUDE).parts
    if len(parts) == 1:
        return "(top)"
    return "/".join(parts[:2]) if parts[0] == "backend" and len(parts) > 2 else parts[0]


def floors(headers):
    """The longest chain of includes within each room, with the chain."""
    includes = {}
    for h in headers:
        named = re.findall(r"#include <gptq/([^>]+)>", h.read_text(encoding="utf-8"))
        includes[h] = [INCLUDE / n for n in named if (INCLUDE / n).exists() and room_of(INCLUDE / n).split("/")[0] == room_of(h).split("/")[0]]
    longest = {}

    def chain(h):
        if h not in longest:
            longest[h] = [h]
            longest[h] = [h] + max((chain(i) for i in includes[h]), key=len, default=[])
        return longest[h]

    best = {}
    for h in headers:
        room = room_of(h).split("/")[0]
        if len(chain(h)) > len(best.get(room, [])):
            best[room] = chain(h)
    return best


DECLARES = re.compile(r"(?:template\s*<|\[\[nodiscard\]\]|inline\b|constexpr\b|class\b|struct\b|enum\b|using\b|concept\b|explicit\b|static\b|friend\b|virtual\b|"
                      r"[A-Za-z_][\w:<>,&* ]*\s[*&]?[A-Za-z_]\w*\s*[({=;])")


def undocumented(header):
    """Lines of declarations at namespace scope, outside detail, that no /// precedes (one above covers the lines that follow it at once)."""
    found, scopes, covered, inside, known = [], [], False, False, set()
    lines = header.read_text(encoding="utf-8").split("\n")
    blanked = blank("\n".join(lines)).split("\n")
    depth = 0
    for number, (line, code) in enumerate(zip(lines, blanked), 1):
        stripped = code.strip()
        opened = re.match(r"(?:inline )?namespace ([\w:]+) \{$", stripped)
        public = all(not s.startswith("detail") for s in scopes)
        if opened:
            scopes.append(opened.group(1))
            covered = False
            continue
        if stripped == "}" and depth == 0 and scopes:
            scopes.pop()
            continue
        if line.strip().startswith("///"):
            covered = True
        elif not line.strip():
            if depth == 0:
                covered = False
        elif depth == 0 and scopes and public and stripped and not inside:
            forward = re.match(r"(?:template <.*> )?(?:class|struct) \w+;$", stripped)
            rest = " ".join(c.strip() for c in blanked[number - 1:number + 4])
            name = re.search(r"(\w+)(?: = |\(|;| \{| :)", re.sub(r"^template <[^>]*>+", "", rest))
            forward = re.match(r"(?:template <.*> )?(?:class|struct) \w+;$", stripped)
            if covered and name:
                known.add(name.group(1))  # its overloads and its definition are described there
            elif not covered and "///<" not in line and not forward and DECLARES.match(stripped) and not (
                    stripped.startswith("template <> ") or name and name.group(1) in known):
                found.append((number, line.strip()))
            inside = not stripped.endswith((";", "{", "}"))
            covered = covered or inside  # what follows belongs to it
        elif depth == 0 and inside and stripped.endswith((";", "{", "}")):
            inside = False
        depth += code.count("{") - code.count("}")
        if depth == 0 and stripped.endswith("}"):
            inside = False
    return found


def show(title, guide, entries, everything, few=6):
    print(f"{title:<64} {len(entries):>4}   guide: {guide}")
    for e in entries if everything else entries[:few]:
        print("    " + e)
    if not everything and len(entries) > few:
        print(f"    … and {len(entries) - few} more (--all)")


def main():
    everything = "--all" in sys.argv
    headers = sorted([*INCLUDE.rglob("*.hpp"), *INCLUDE.rglob("*.cuh")])
    name = {h: str(h.relative_to(INCLUDE)) for h in headers}
    sizes = {h: h.read_text(encoding="utf-8").count("\n") for h in headers}
    ordered = sorted(sizes.values())
    print(f"{len(headers)} headers, {sum(ordered)} lines; median {ordered[len(ordered) // 2]}, largest {ordered[-1]}\n")
    large = [f"{name[h]}: {n}" for h, n in sizes.items() if n > 400]
    show("headers over 400 lines", "none", large, True)

    sources = headers + sorted([*(ROOT / "examples").rglob("*.hpp"), *(ROOT / "examples").rglob("*.cpp")])
    long, wide = [], []
    for f in sources:
        where = str(f.relative_to(ROOT))
        for function, begin, end, count in functions(blank(f.read_text(encoding="utf-8"))):
            if end - begin + 1 > 80:
                long.append((end - begin + 1, f"{where}:{begin}: {function}, {end - begin + 1} lines"))
            if count > 6 and "/backend/" not in where and "pack/matmul" not in where:
                wide.append((count, f"{where}:{begin}: {function}, {count} parameters"))
    show("functions over 80 lines (benches and tests aside)", "none but kernels", [t for _, t in sorted(long, reverse=True)], everything)
    show("functions with more than 6 parameters, outside kernels", "none", [t for _, t in sorted(wide, reverse=True)], everything)

    print("\nroom                headers (guide: about 14)   floors of includes inside (guide: about 7)")
    best = floors(headers)
    rooms = {}
    for h in headers:
        rooms.setdefault(room_of(h), []).append(h)
    for room in sorted(rooms):
        chain = best.get(room.split("/")[0], []) if "/" not in room else []
        path = " > ".join(re.sub(r"^[^/]+/", "", name[h]) for h in chain) if everything else ""
        print(f"{room:<20}{len(rooms[room]):>7}{len(chain) or '':>27}   {path}".rstrip())

    bare = [f"{name[h]}:{line}: {text[:90]}" for h in headers for line, text in undocumented(h)]
    print()
    show("public declarations at namespace scope without a docstring", "none", bare, everything)
    return 1 if large else 0


sys.exit(main())
