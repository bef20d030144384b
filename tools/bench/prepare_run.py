"""Run `nemotron4 prepare` in its own process, and measure time and memory by stage.

Memory is that of all its processes together, shared pages counted once (PSS), sampled five times a second; CPU seconds
are also of all processes. The stage `documents` is divided into its passes by the folders that it works in.
"""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_STAGE = re.compile(r"^(documents|tokenizer|tokens): (started|\d+ file)")
_PASSES = {"filtered": "filter", "dedup": "deduplicate", "ingest": "ingest"}  # the last that has begun comes first
_SECONDS_BETWEEN_LOOKS = 0.2  # sampling more often would take a noticeable share of the measured cores


def memory_of(root: int) -> int:
    """Bytes that a process and its descendants use now, shared pages divided among them."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for process in family:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1]) * 1024  # type: ignore[index]  # it always has that line
        except (OSError, TypeError):
            continue
    return total


class _Watcher:
    """Peaks of memory, and seconds, by what is under way."""

    def __init__(self, process: int, output: Path) -> None:
        self.stage = ""
        self.peaks: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self._process, self._output = process, output
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        before, looked = "", time.perf_counter()
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
            name, now = self._under_way(), time.perf_counter()
            self.seconds[before] = self.seconds.get(before, 0.0) + now - looked
            self.peaks[name] = max(self.peaks.get(name, 0), memory_of(self._process))
            before, looked = name, now

    def _under_way(self) -> str:
        if self.stage == "documents":
            work = self._output / "documents.work"
            return next((name for folder, name in _PASSES.items() if (work / folder).exists()), "ingest")
        return self.stage


def run_prepare(output: Path, settings: list[str], num_bytes: int, checkout: Path = ROOT) -> dict[str, Any]:
    """Run a checkout's `prepare` into the directory `output`, which is new; `num_bytes` are those of the text.

    Returns time, memory, and a digest of the documents and tokens that were made. SystemExit if it fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sorted(checkout.glob("packages/*/src"))))}
    command = [sys.executable, "-m", "nemotron4_config.main", "prepare", *settings, f"dir={output}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watcher = _Watcher(process.pid, output)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if match := _STAGE.match(line):
            watcher.stage = match[1] if match[2] == "started" else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    watcher.stop()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{''.join(lines[-20:])}")
    cpu = used.ru_utime + used.ru_stime
    return {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "megabytes_per_second": round(num_bytes / 1e6 / wall, 2),
        "megabytes_per_cpu_second": round(num_bytes / 1e6 / cpu, 2),
        "peak_megabytes": round(max(watcher.peaks.values()) / 1e6),
        "stages": {
            name or "between": {
                "wall_seconds": round(seconds, 1),
                "peak_megabytes": round(watcher.peaks.get(name, 0) / 1e6),
            }
            for name, seconds in watcher.seconds.items()
        },
        "documents_sha256": _digest(output / "documents"),
        "tokens_sha256": _digest(output / "tokens"),
    }


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
