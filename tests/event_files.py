#!/usr/bin/env python3
"""What `smooseg train --tensorboard` writes, read by TensorBoard's own package. Ends with 77 where it is not installed,
unless SMOOSEG_REQUIRE_PYTHON is set.

    tests/event_files.py PROGRAM
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile


def main():
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        print(f"no TensorBoard here: {error}")
        return 1 if os.environ.get("SMOOSEG_REQUIRE_PYTHON") else 77
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)

        def smooseg(*words):
            subprocess.run([sys.argv[1], *map(str, words)], check=True, capture_output=True)

        smooseg("prepare", "scenes", "--out", folder / "data", "--train", 4, "--test", 1, "--height", 64, "--width", 64)
        run = folder / "run"
        for more in (["--iterations", 6, "--overwrite"], ["--iterations", 10, "--resume"]):
            smooseg("train", "--data", folder / "data", "--out", run, "--resolution", 64, "--textons", 8, "--batch", 4,
                    "--embed-dim", 8, "--log-every", 2, "--device", "cpu", "--tensorboard", *more)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == [2, 4, 6, 8, 10], log
        events = EventAccumulator(str(run / "tensorboard"))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        expected = {name for line in log for name, value in line.items() if isinstance(value, (int, float))} - {"step"}
        assert tags == expected, tags ^ expected
        for tag in tags:
            read = {event.step: event.value for event in events.Scalars(tag)}
            assert sorted(read) == [line["step"] for line in log], (tag, read)
            for line in log:
                # Events hold float32.
                assert abs(read[line["step"]] - line[tag]) <= 1e-6 * max(1, abs(line[tag])), (tag, line["step"])
    print(f"TensorBoard reads {len(tags)} curves as they stand in the log")
    return 0


if __name__ == "__main__":
    sys.exit(main())
