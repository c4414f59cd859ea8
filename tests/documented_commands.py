"""Runs the blocks of shell in README and guides, page by page, as they stand, with the program that is being tested.

    documented_commands.py SOURCE SMOOSEG [PAGE]

Each page gets a folder with a few pictures, and models of three steps, under the names that the pages use. smooseg is told
to be brief after what the page says (`BRIEF`). So is examples/quickstart.sh, but that it finds all built. What else is not
smooseg's, such as cmake, pip or a script that builds and tests, is not run, but a script must be there. A command must succeed, unless it is about something that is not at hand
(`ELSEWHERE`): it must then say so instead of calling its options wrong.
"""

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile

import documentation

# What goes after the words of the page, which it has to match. A value that is given twice counts the second time.
BRIEF = {
    "'train '*": "--iterations 3 --batch 2 --overwrite",
    "'evaluate '*": "--limit 1",
    "'compare '*": "--iterations 2 --batch 2 --limit 1 --seeds 0",
    "'tune '*": "--iterations 2 --batch 2 --candidates 2 --rungs 1",
    "'sweep '*' -- '*": "--iterations 2 --batch 2",
    "'sweep '*": "--seeds 0 -- --iterations 2 --batch 2",
    "'plot '*": "--pictures 1",
    "'prepare scenes '*": "--train 2 --test 1",
}
# Words of commands about what is not at hand: weights, data sets of others, what scripts in Python would have written.
ELSEWHERE = ["weights get", "dino", "cityscapes", "cocostuff", "potsdam", "authors", "exported", "FEATURES",
             "--weights FILE", "--model model.safetensors", "--precision bfloat16"]

WRAPPER = """#!/usr/bin/env bash
words="$*" extra=() given=("$@")
for i in "${!given[@]}"; do  # of a sweep's values two are enough
  if [[ $1 == sweep && ${given[i]} =~ ^([a-z-]+=[^,]+,[^,]+),.+ ]]; then given[i]=${BASH_REMATCH[1]}; fi
done
case $words in
%(cases)s
esac
said=$(%(program)s "${given[@]}" "${extra[@]}" 2>&1)
printf '%%s\\t%%s\\t%%s\\n' "$?" "$words" "$(grep '^smooseg: ' <<<"$said")" >>%(log)s
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def sandbox(folder, source, program, pictures):
    """A folder in which the page's commands find what they name. Returns the file that notes how they ended."""
    log = folder / "log"
    cases = "\n".join(f"  {words}) extra=({options}) ;;" for words, options in BRIEF.items())
    executable(folder / "bin" / "smooseg", WRAPPER % {"cases": cases, "program": program, "log": log})
    (folder / "build" / "debian").mkdir(parents=True)
    (folder / "build" / "debian" / "bin").symlink_to(folder / "bin")
    for tool in ["awk", "bash", "dirname", "find", "grep", "head", "realpath", "sed", "sort"]:
        (folder / "bin" / tool).symlink_to(shutil.which(tool))
    programs = [*source.glob("benchmarks/bench_*.cpp"), *source.glob("examples/*.cpp")]
    for path in [*documentation.scripts(source), *(f"bin/{program.stem}" for program in programs)]:
        executable(folder / path, "#!/usr/bin/env bash\n")
    executable(folder / "cmake" / "setup.sh", "SMOOSEG_BUILD_DIR=build/debian\n")
    shutil.copy(source / "examples" / "quickstart.sh", folder / "examples" / "quickstart.sh")
    (folder / "examples" / "configs").symlink_to(source / "examples" / "configs")
    for name in ["DIR", "CAMVID", "DUBAI", "PICTURES"]:
        shutil.copytree(pictures, folder / name)
    for name in ["pictures", "PICTURE_OR_FOLDER..."]:
        shutil.copytree(pictures / "images" / "train", folder / name)
    shutil.copy(next((pictures / "images" / "train").iterdir()), folder / "map.tif")
    environment = {"HOME": str(folder), "PATH": str(folder / "bin"), "OMP_WAIT_POLICY": "passive"}

    def given(words):
        subprocess.run(["bin/smooseg", *words.split()], cwd=folder, env=environment, check=True)

    given("train --data DIR --out model")
    shutil.copytree(folder / "model", folder / "unscored")
    given("evaluate --model model/best.safetensors --data DIR")
    for name in ["kmeans", "stego", "seed0", "seed1", "seed2"]:
        shutil.copytree(folder / "model", folder / name)
    log.unlink()
    return log, environment


def faults_of(page, source, program, pictures):
    codes = [code for name, _, _, code in documentation.blocks(source, "bash", "sh") if str(name) == page]
    if not any("smooseg " in code for code in codes):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        log, environment = sandbox(folder, source, program, pictures)
        for code in codes:
            script = "command_not_found_handle() { :; }\n" + code
            result = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
            if result.returncode != 0:
                yield f"{page}: a block ends with {result.returncode}: {result.stderr.strip()}\n{code}"
        for line in log.read_text().splitlines() if log.exists() else []:
            status, words, said = line.split("\t", 2)
            elsewhere = any(word in words for word in ELSEWHERE)
            print(f"{page}: {status} smooseg {words}" + (f"\n    {said}" if status != "0" else ""))
            if status != "0" and not (elsewhere and status == "1"):
                yield f"{page}: 'smooseg {words}' ends with {status}: {said}"


def main():
    source, program = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
    pages = sys.argv[3:] or [str(page.relative_to(source)) for page in documentation.pages(source)]
    with tempfile.TemporaryDirectory() as folder:
        pictures = pathlib.Path(folder) / "scenes"
        subprocess.run([program, "prepare", "scenes", "--out", pictures, "--train", "4", "--test", "2", "--height", "64",
                        "--width", "96"], check=True, stdout=subprocess.DEVNULL)
        faults = [fault for page in pages for fault in faults_of(page, source, program, pictures)]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
