#!/usr/bin/env python3
"""Compiles what the pages show: every C++ block of README.md, CONTRIBUTING.md and docs/, from the includes that its text names.

    snippets.py [--root FOLDER] [--nvcc NVCC] [--mutants] [--list] [compiler and its options]

A block is compiled with the headers that it includes itself; without any, with the headers `gptq/...` that the text between the
last heading or block and this one names. It becomes the body of a function, unless it has a `main`. Comments before it may say:

    <!-- from examples/file.cpp -->   the block, its includes aside, is what that file has between "// [snippet" and "// ]snippet",
                                      and the file has those includes
    <!-- before: code -->             what stands before the block: declarations of things that the text speaks of; no includes
    <!-- after: code -->              what stands after it

Of a table with the columns "include" and "call", each row is compiled too: the first name of each call, from the row's headers.
Blocks with a header *.cuh are left to nvcc (--nvcc); without it they are only counted. --mutants plants faults that must be seen.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HEADER = re.compile(r"gptq/[\w/]+\.(?:hpp|cuh)")


class Snippet:
    def __init__(self, page, line, includes, code, before="", after="", source=None):
        self.page, self.line, self.includes, self.code = page, line, includes, code
        self.before, self.after, self.source = before, after, source

    def unit(self):
        includes = "".join(f"#include <{name}>\n" for name in self.includes)
        code = f'{self.before}\n#line {self.line} "{self.page}"\n{self.code}\n{self.after}\n'
        if re.search(r"^int main\(", self.code, re.M):
            return includes + code
        return f"{includes}int snippet();\nint snippet() {{\n{code}return 0;\n}}\n"

    def for_device(self):
        return any(name.endswith(".cuh") for name in self.includes)


def dedent(lines):
    indent = min((len(l) - len(l.lstrip()) for l in lines if l.strip()), default=0)
    return "\n".join(l[indent:].rstrip() for l in lines).strip("\n")


def table_rows(page, lines):
    """The rows of tables with the columns include and call, as snippets."""
    columns, above = None, []
    for number, line in enumerate(lines, 1):
        if not line.startswith("|"):
            columns = None
            continue
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if columns is None:
            columns = {name: i for i, name in enumerate(cells)}
            continue
        if "include" not in columns or "call" not in columns or set(line) <= set("|-: "):
            continue
        named = HEADER.findall(cells[columns["include"]])
        above = above if cells[columns["include"]] == "same" else named
        calls = re.findall(r"`([A-Za-z_]\w*)", cells[columns["call"]])
        yield Snippet(page, number, above, "{" + "".join(f" using gptq::{name};" for name in calls) + " }")


def snippets_of(root, path):
    page = str(path.relative_to(root))
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = {}
    for row in table_rows(page, lines):  # those of the same headers are compiled together
        first = rows.setdefault(tuple(row.includes), row)
        if first is not row:
            first.code += "\n" * (row.line - first.line - first.code.count("\n")) + row.code
    yield from rows.values()
    text, i = [], 0
    while i < len(lines):
        line = lines[i]
        if line.startswith("```"):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith("```"))
            if line.strip() == "```cpp":
                above = "\n".join(text)
                body = lines[i + 1:end]
                own = [m.group(1) for l in body if (m := re.match(r"#include <(.*)>", l))]
                code = [l for l in body if not l.startswith("#include")]
                said = {kind: "\n".join(re.findall(rf"<!-- {kind}:?\s(.*?)-->", above, re.S)).strip()
                        for kind in ("from", "before", "after")}
                prose = re.sub(r"<!--.*?-->", "", above, flags=re.S)
                yield Snippet(page, i + 2 + len(body) - len(code), own or list(dict.fromkeys(HEADER.findall(prose))), dedent(code),
                              said["before"], said["after"], said["from"] or None)
            text, i = [], end
        elif line.startswith("#"):
            text = []
        else:
            text.append(line)
        i += 1


def difference(root, s):
    """What tells the block from the file that it was taken from, or an empty string."""
    if not s.source:
        return ""
    lines = (root / s.source).read_text(encoding="utf-8").split("\n")
    begin = [i for i, l in enumerate(lines) if l.strip().startswith("// [snippet")]
    end = [i for i, l in enumerate(lines) if l.strip().startswith("// ]snippet")]
    if len(begin) != 1 or len(end) != 1:
        return f"{s.source}: not one pair of lines '// [snippet' and '// ]snippet'"
    compiled = dedent(lines[begin[0] + 1:end[0]])
    if compiled != s.code:
        return f"differs from {s.source}\n--- compiled:\n{compiled}\n--- shown:\n{s.code}"
    missing = [name for name in s.includes if f"#include <{name}>" not in lines]
    return f"{s.source} does not include {', '.join(missing)}" if missing else ""


def fault(root, s, compiler, nvcc, work):
    """Why this snippet is not good, or an empty string; None where it could not be compiled here."""
    if "#include" in s.before + s.after:
        return "an include hidden in a comment"
    if not any(name.startswith("gptq/") for name in s.includes):
        return "neither the block nor the text above it names a header of gptq"
    if reason := difference(root, s):
        return reason
    include = ["-I", str(root / "include")]
    if s.for_device():
        if not nvcc:
            return None
        unit = work / "unit.cu"
        command = [nvcc, "-std=c++20", "-arch=sm_80", *include, "-c", str(unit), "-o", str(work / "unit.o")]
    else:
        unit = work / "unit.cpp"
        command = [*compiler, "-std=c++20", "-fsyntax-only", *include, str(unit)]
    unit.write_text(s.unit(), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return "does not compile from " + ", ".join(s.includes) + "\n" + "\n".join(done.stderr.split("\n")[:12])
    return ""


def pages(root):
    return [p for p in [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))] if p.exists()]


def check(root, compiler, nvcc, quiet=False):
    faults, compiled, left = [], 0, 0
    with tempfile.TemporaryDirectory() as work:
        for path in pages(root):
            for s in snippets_of(root, path):
                reason = fault(root, s, compiler, nvcc, pathlib.Path(work))
                compiled += reason is not None
                left += reason is None
                if reason:
                    faults.append(f"{s.page}:{s.line}: {reason}")
                    if not quiet:
                        print(faults[-1])
    if not quiet:
        print(f"{compiled} blocks and rows compiled, {left} for nvcc left out, {len(faults)} faults")
    return faults, compiled


def mutants(root, compiler):
    """Each planted fault must be found, and the page without it must pass."""
    good = ('Include `gptq/core/spec.hpp`.\n\n<!-- before: int width = 4; -->\n```cpp\ngptq::quant_spec s{.bits = width};\n'
            '```\n\n| include | call |\n|---|---|\n| `gptq/core/spec.hpp` | `check_spec` |\n')
    own = "```cpp\n#include <gptq/core/error.hpp>\n\nthrow gptq::error(\"x\");\n```\n"
    copy = "<!-- from a.cpp -->\n```cpp\n#include <gptq/core/spec.hpp>\n\nint a = gptq::w4g128.bits;\n```\n"
    file = "#include <gptq/core/spec.hpp>\nint f() {\n  // [snippet\n  int a = gptq::w4g128.bits;\n  // ]snippet\n  return a;\n}\n"
    cases = [("as it should be", good + own + copy, file, 0),
             ("a header missing from the text", good.replace("Include `gptq/core/spec.hpp`.", "Include it.", 1), file, 1),
             ("another header in the text", good.replace("core/spec", "core/error", 1), file, 1),
             ("a header that does not exist", good.replace("core/spec", "core/none", 1), file, 1),
             ("a name that does not exist", good.replace("quant_spec", "quantum_spec"), file, 1),
             ("a call that its row's header lacks", good.replace("`check_spec`", "`pack`"), file, 1),
             ("an include missing from the block", own.replace("core/error", "core/macros"), file, 1),
             ("an include in a comment", good.replace("before: int", "before:\n#include <gptq/gptq.hpp>\nint"), file, 1),
             ("a block that differs from its file", copy.replace("int a", "int b"), file, 1),
             ("a file without the include", copy, file.replace("core/spec", "gptq"), 1)]
    status = 0
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "include").symlink_to(root / "include")
        for name, page, source, wanted in cases:
            (work / "README.md").write_text(page, encoding="utf-8")
            (work / "a.cpp").write_text(source, encoding="utf-8")
            found, _ = check(work, compiler, None, quiet=True)
            if len(found) != wanted:
                print(f"{name}: {len(found)} faults instead of {wanted}: {found}")
                status = 1
    print(f"{len(cases)} pages with planted faults: {'not all were judged rightly' if status else 'all judged rightly'}")
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("--nvcc")
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("compiler", nargs=argparse.REMAINDER)
    a = parser.parse_args()
    root = a.root.resolve()
    compiler = [c for c in a.compiler if c != "--"] or [shutil.which("c++") or "g++", "-isystem", "/usr/include/eigen3"]
    if a.list:
        for path in pages(root):
            for s in snippets_of(root, path):
                print(f"{s.page}:{s.line}: {' '.join(s.includes)}")
        return 0
    if a.mutants:
        return mutants(root, compiler)
    faults, compiled = check(root, compiler, a.nvcc)
    return 1 if faults or not compiled else 0


sys.exit(main())
