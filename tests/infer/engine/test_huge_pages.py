"""Memory of a process is moved into huge pages, and holds what it held."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from pathlib import Path
from nemotron4_infer.engine.huge_pages import use_huge_pages

memory = bytearray(range(256)) * (1 << 16)
print(Path("/proc/self/smaps_rollup").read_text())
use_huge_pages()
print(Path("/proc/self/smaps_rollup").read_text())
assert memory == bytearray(range(256)) * (1 << 16)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux counts huge pages")
def test_memory_is_moved_into_huge_pages_where_the_system_has_them_and_stays_as_it_is():
    # A process of its own, as that of the tests may have gigabytes to move.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = (int(size) << 10 for size in re.findall(r"AnonHugePages: *(\d+) kB", done.stdout))
    if after == before:
        pytest.skip("the system gave none")
    assert after - before >= (1 << 24) - (4 << 20)
