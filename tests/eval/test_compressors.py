"""The yardsticks equal the command-line programs, and see the same bytes as the model."""

import gzip
import lzma
import shutil
import subprocess

import pytest

from nemotron4_eval import gzip_bits_per_byte, xz_bits_per_byte
from nemotron4_eval.heldout.compressors import compressor_table
from nemotron4_eval.heldout.text import read_heldout


@pytest.mark.parametrize(
    ("command", "function", "slack_bytes"),
    [(["gzip", "-9"], gzip_bits_per_byte, 16), (["xz", "-9e", "-T1"], xz_bits_per_byte, 16)],
)
def test_equals_the_program(command, function, slack_bytes, corpus):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    data = corpus.heldout_bytes("english/books") * 5
    compressed = subprocess.run([*command, "-c"], input=data, capture_output=True, check=True).stdout
    assert function(data) * len(data) / 8 == pytest.approx(len(compressed), abs=slack_bytes)


def test_counts_what_decompresses_to_the_text(corpus):
    data = corpus.heldout_bytes("english/books")
    assert gzip_bits_per_byte(data) == 8 * len(gzip.compress(data, 9)) / len(data)
    assert xz_bits_per_byte(data) == 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def test_the_table_has_overall_domains_and_sources(corpus):
    table = compressor_table(read_heldout(corpus), lambda data: float(len(data)))
    num_bytes = {source: len(corpus.heldout_bytes(source)) for source in corpus.heldout_names}
    assert table == {
        "overall": sum(num_bytes.values()),
        "english": num_bytes["english/books"] + num_bytes["english/web"],
        "multilingual": num_bytes["multilingual/de"],
        "code": num_bytes["code/c"],
        "sources": num_bytes,
    }
