"""One fetch in a process of its own: ``child_fetch.py INSTANCES_PATH URL``, JSON out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from place import open_host, peak_memory_bytes


def main() -> None:
    instances_path, url = sys.argv[1:]
    result = open_host(Path(instances_path), {"driver": "url"}).ensure(url)
    print(json.dumps({"status": result.status, "peak_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    main()
