#!/usr/bin/env python3
"""What the benchmarks measured, as a table of ratios or as a picture.

    report.py table RESULT...       RESULT: a JSON file of a benchmark, with or without its .json
    report.py plot RESULT OUT.png   time and memory of the smoothness term against the number of patches (matplotlib)
"""

import json
import os
import sys


def read(path):
    """{(name without BM_, arguments): benchmark}; of repetitions the median."""
    path = path if path.endswith(".json") else path + ".json"
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    found = {}
    for item in content["benchmarks"]:
        if item.get("aggregate_name", "median") != "median" or item.get("error_occurred"):
            continue
        if item["run_type"] == "iteration" and item.get("repetitions", 1) > 1:
            continue
        name, *arguments = item["run_name"].removesuffix("/real_time").split("/")
        found[name.removeprefix("BM_"), "/".join(arguments)] = item
    return content["context"], found


def table(paths):
    print(f"\n{'':58}{'ours':>12}{'textbook':>12}{'ratio':>8}{'memory':>12}{'textbook':>12}")
    for path in paths:
        context, found = read(path)
        print(f"{os.path.basename(path)}: {context['device']}, LibTorch {context['LibTorch']}, "
              f"{context['threads']} threads; ms and MB")
        for (name, arguments), ours in found.items():
            if name.endswith("Naive"):
                continue
            textbook = found.get((name + "Naive", arguments))
            row = f"  {name + '/' + arguments:56}{ours['real_time']:12.3f}"
            if textbook:
                row += f"{textbook['real_time']:12.2f}{textbook['real_time'] / ours['real_time']:8.1f}"
            else:
                row += " " * 20
            row += f"{ours['peak_MB']:12.2f}" if "peak_MB" in ours else ""
            row += f"{textbook['peak_MB']:12.2f}" if textbook and "peak_MB" in textbook else ""
            print(row)


def plot(path, out):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    context, found = read(path)
    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, label, style in (("Smoothness", "factorised", "o-"), ("SmoothnessNaive", "textbook", "s--")):
        points = []
        for (found_name, arguments), item in found.items():
            values = dict(argument.split(":") for argument in arguments.split("/"))
            if found_name == name and values["b"] == "4":
                points.append((int(values["n"]), item["real_time"], item["peak_MB"]))
        points.sort()
        patches, milliseconds, megabytes = zip(*points)
        time.plot(patches, milliseconds, style, label=label)
        memory.plot(patches, megabytes, style, label=label)
    for axis, what in ((time, "ms, forward and backward"), (memory, "MB beyond the input, at the peak")):
        axis.set(xscale="log", yscale="log", xlabel="patches N", ylabel=what)
        axis.set_xticks([196, 784, 3600, 14400], ["196", "784", "3600", "14400"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"Smoothness term, B 4, C 384, K 27, float32, {context['threads']} cores", fontsize=10)
    figure.savefig(out, dpi=110)


def main(arguments):
    if len(arguments) >= 2 and arguments[0] == "table":
        table(arguments[1:])
    elif len(arguments) == 3 and arguments[0] == "plot":
        plot(*arguments[1:])
    else:
        sys.exit(__doc__.strip())


if __name__ == "__main__":
    main(sys.argv[1:])
