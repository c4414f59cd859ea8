"""Doxygen's filter for Markdown: makes of a page as GitHub shows it one as Doxygen reads it.

    markdown.py FILE        prints it

Headings get names, as GitHub gives them, under the page's own; links go to these names, `$...$` becomes a formula, and
links to what the site does not have become plain text. The page of guides (docs/index.md) lists the others below it.
"""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAIN, GUIDES = ROOT / "README.md", ROOT / "docs" / "index.md"
CODE = re.compile(r"(^ *```.*?^ *```[^\n]*$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def name_of(path):
    """A page's name for Doxygen."""
    return "index" if path == MAIN else re.sub(r"\W+", "-", str(path.relative_to(ROOT).with_suffix("")))


def slug_of(heading):
    """GitHub's name of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def target_of(link, page):
    """What Doxygen is to link to; nothing where the site does not have it."""
    place, _, slug = link.partition("#")
    path = pathlib.Path(os.path.normpath(page.parent / place)) if place else page
    if path.suffix == ".md" and path.is_file():
        return "@ref " + name_of(path) + (f"-{slug}" if slug else "")
    if path.suffix == ".cpp" and path.parent.name == "examples":
        return "@ref " + path.name
    return None


def linked(match, page):
    image, text, link = match.groups()
    if re.match(r"\w+:", link):
        return match.group()
    if image:
        return f"![{text}]({pathlib.Path(link).name})"
    target = target_of(link, page)
    return f"[{text}]({target})" if target else text


def converted(text, page):
    parts = CODE.split(text)
    for i in range(0, len(parts), 2):  # what is not code
        part = re.sub(r"\$([^$\n]+)\$", r"\\f$\1\\f$", parts[i])
        parts[i] = part
    # Texts of links may be code, so these are replaced in whole lines, but for blocks of code.
    lines, fenced, titled = [], False, False
    for line in "".join(parts).split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            line = re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", lambda match: linked(match, page), line)
            if page == GUIDES:
                line = re.sub(r"^- \[([^\]]*)\]\(@ref (?!index\b)([^)]*)\)", r'- @subpage \2 "\1"', line)
            heading = re.match(r"(#+) +(.*)", line)
            if heading and not titled:
                line = f"{line} {{#{'mainpage' if page == MAIN else name_of(page)}}}"
                titled = True
            elif heading:
                line = f"{line} {{#{name_of(page)}-{slug_of(heading.group(2))}}}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    file = pathlib.Path(sys.argv[1]).resolve()
    print(converted(file.read_text(), file), end="")
