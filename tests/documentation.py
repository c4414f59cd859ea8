"""What README and guides say is tried: their blocks of code, taken from the very text, and their links.

    documentation.py generate SOURCE OUT.cpp    writes a program of all blocks of C++, which has to compile
    documentation.py check SOURCE [PROGRAM]     links, and blocks of Python, JSON and shell; PROGRAM: smooseg

A block stands for itself or, where it is a part of something, has before it a comment with what is given:
<!-- given: torch::Tensor features; -->. Blocks of shell are not run: commands of smooseg must exist, with their options,
and so must scripts of this repository.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
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


def commands(code):
    """The words of each command of a block."""
    for line in code.replace("\\\n", " ").split("\n"):
        words = shlex.split(line, comments=True)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            yield words


def unknown_commands(source, program):
    helps = {}

    def help_of(*subcommands):
        if subcommands not in helps:
            result = subprocess.run([program, *subcommands, "--help"], capture_output=True, text=True)
            helps[subcommands] = result.stdout if result.returncode == 0 else None
        return helps[subcommands]

    for page, line, _, code in blocks(source, "bash", "sh"):
        for words in commands(code):
            name = words[0]
            if re.match(r"(\.ci|benchmarks|cmake|docs|examples|tests)/", name) and not os.access(source / name, os.X_OK):
                yield f"{page}:{line}: there is no program {name}"
            if name == "python3" and len(words) > 1 and words[1].endswith(".py") and not (source / words[1]).is_file():
                yield f"{page}:{line}: there is no {words[1]}"
            if os.path.basename(name) != "smooseg" or not program or len(words) < 2 or words[1].startswith("-"):
                continue
            said = help_of(words[1])
            # Commands of commands, such as `prepare scenes`, have options of their own.
            if said and len(words) > 2 and re.search(rf"^  {re.escape(words[2])}\s", said, re.M) and words[2][0] != "-":
                said = help_of(words[1], words[2])
            if said is None:
                yield f"{page}:{line}: there is no command 'smooseg {words[1]}'"
                continue
            for word in words[2:]:
                if word == "--":  # of sweep: what follows are options of train
                    said = help_of("train")
                option = word.split("=")[0]
                if re.match(r"--?[a-z]", option) and not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", said):
                    yield f"{page}:{line}: 'smooseg {words[1]}' has no option {option}"


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
    program = sys.argv[3] if len(sys.argv) > 3 else ""
    faults = [*broken_links(source), *wrong_blocks(source), *unknown_commands(source, program)]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
