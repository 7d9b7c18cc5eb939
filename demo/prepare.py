"""Copies a list of commands, without the lines that need something this machine lacks.

A line `# needs WORD` is about the next one: WORD is a program in PATH, or `cgroup`, which `fastproc doctor`
must say to be there. Arguments: the list, the copy.
"""

import json
import os
import shutil
import subprocess
import sys

FEWEST = 300


def has_cgroup() -> bool:
    said = subprocess.run([os.environ["FASTPROC"], "doctor", "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(said.stdout)["capabilities"].get("cgroup") is True


def main(source: str, target: str) -> int:
    kept, dropped, missing = 0, 0, set()
    needed = None
    with open(source, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as copy:
        for line in lines:
            if line.startswith("# needs "):
                needed = line.split()[2]
            elif not line.strip() or line.startswith("#"):
                continue
            else:
                there = needed is None or (
                    has_cgroup() if needed == "cgroup" else shutil.which(needed) is not None
                )
                if there:
                    copy.write(line)
                    kept += 1
                else:
                    missing.add(needed)
                    dropped += 1
                needed = None
    print(f"{kept} commands", end="")
    if dropped:
        print(f"; {dropped} more need what is not here: {', '.join(sorted(missing))}", end="")
    print()
    if kept < FEWEST:
        print(f"fewer than {FEWEST}: too little is installed here for this demonstration")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
