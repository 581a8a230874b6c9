"""One sweep in a process of its own: ``child_sweep.py INSTANCES_PATH USAGE_FILE``, JSON out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from place import open_host, peak_memory_bytes


def main() -> None:
    instances_path, usage_file = sys.argv[1:]
    usage = {"usage": ["folder", "file"], "usage_file": usage_file}
    host = open_host(Path(instances_path), basecache=usage)
    started = time.perf_counter()
    report = host.sweep()
    said = {
        "seconds": time.perf_counter() - started,
        "disks": report.disks_read,
        "removed": [str(path) for path in report.removed],
        "missing": report.missing_evidence,
        "peak_bytes": peak_memory_bytes(),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
