"""What README and guides say is tried: their blocks of code, taken from the very text, and their links.

    documentation.py generate SOURCE OUT.cpp    writes a program of all blocks of C++, which has to compile
    documentation.py check SOURCE               links, and blocks of Python and JSON

A block stands for itself or, where it is a part of something, has before it a comment with what is given:
<!-- given: torch::Tensor features; -->. Blocks of shell are run by documented_commands.py.
"""

import json
import os
import pathlib
import re
import sys

BLOCK = re.compile(r"(?:^<!-- given: (?P<given>.*?) -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$",
                   re.DOTALL | re.MULTILINE)


def pages(source):
    return [source / "README.md", source / "examples" / "python" / "README.md", *sorted((source / "docs").glob("*.md"))]


def blocks(source, *kinds):
    """Page, line, what is given, and code of each block."""
    for page in pages(source):
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match["kind"] in kinds:
                line = text.count("\n", 0, match.start("code")) + 1
                yield page.relative_to(source), line, match["given"] or "", match["code"]


def generate(source, out):
    """Each block becomes a function of its own, after the includes of all."""
    includes, functions = {"#include <iostream>": None}, []
    for page, line, given, code in blocks(source, "cpp"):
        body = []
        for text in [*given.split("\n"), f'#line {line} "{page}"', *code.split("\n")]:
            if text.startswith("#include"):
                includes[text] = None
                text = ""
            body.append(text)
        functions.append(f"void block_{len(functions)}() {{\n" + "\n".join(body) + "\n}\n")
    out.write_text("\n".join([*includes, "", *functions, "int main() {}", ""]))


# ------------------------------------------------------------------------------------------------------------- checking


def headings(page):
    """GitHub's names of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ +(.*)", text, re.M)}


def broken_links(source):
    for page in pages(source):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            place, _, heading = link.partition("#")
            target = page.parent / place if place else page
            if re.match(r"\w+:", link):
                continue
            if not target.exists():
                yield f"{page}: there is no {link}"
            elif heading and heading not in headings(target):
                yield f"{page}: there is no heading {link}"


def scripts(source):
    """The programs of this repository, which blocks of shell may call."""
    for folder in [".ci", "benchmarks", "cmake", "docs", "examples", "tests"]:
        for path in (source / folder).rglob("*"):
            if path.is_file() and os.access(path, os.X_OK):
                yield path.relative_to(source)


def wrong_blocks(source):
    for page, line, given, code in blocks(source, "python", "json"):
        try:
            json.loads(code) if code.lstrip().startswith("{") else compile(f"{given}\n{code}", str(page), "exec")
        except (ValueError, SyntaxError) as error:
            yield f"{page}:{line}: {error}"


def main():
    task, source = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    if task == "generate":
        generate(source, pathlib.Path(sys.argv[3]))
        return 0
    faults = [*broken_links(source), *wrong_blocks(source)]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
