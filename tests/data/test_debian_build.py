"""corpus=debian end to end on packages made here: shares, resume, damage, what is not served. No network."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron4_common.staging import staged_directory
from nemotron4_data import Corpus, CorpusConfig, run_prepare
from nemotron4_data.debian import DebianConfig
from nemotron4_data.debian.apt import Apt, Deb
from nemotron4_data.debian.builder import SOURCES_FILE, build_rows
from nemotron4_data.debian.copyright import read_licenses
from nemotron4_data.debian.languages import LANGUAGES
from nemotron4_data.debian.readers import READERS
from nemotron4_data.debian.rows import Row, load_rows
from nemotron4_data.debian.shares import Group, fill, kept_shares
from nemotron4_data.documents import read_lines
from nemotron4_data.manifest import Manifest

needs_dpkg = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("dpkg-deb", "apt-get", "apt-cache")), reason="this is not Debian"
)
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: debian/*
Copyright: 2020 A
License: GPL-2+

Files: *
Copyright: 2020 B
License: MIT
"""
ROWS = [
    Row(domain="english", package="book", category="books", include=r"\.txt$", license="public-domain"),
    Row(domain="english", package="gone", category="books"),
    Row(domain="multilingual", package="book", language="de", include=r"\.de$"),
    Row(domain="code", package="tools"),
]


class Serial:
    def map(self, function, tasks):
        return map(function, tasks)


@contextlib.contextmanager
def quiet(name, total_bytes):
    yield lambda things, num_bytes: None


def replacing(output):
    return lambda: staged_directory(output, "dir", lambda name: True)


def make_deb(folder, name, files):
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1:2.0\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: d\n"
    (tree / "DEBIAN" / "control").write_text(control)
    for path, text in {f"usr/share/doc/{name}/copyright": COPYRIGHT, **files}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    path = folder / f"{name}_1%3a2.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", str(tree), str(path)], check=True, capture_output=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, Deb(name, "1:2.0", "all", path.stat().st_size, digest, "https://example.org")


@pytest.fixture
def cache(tmp_path):
    """A cache as left by an earlier run: all packages resolved and downloaded; one of the table is not offered."""
    cache = tmp_path / "cache"
    (cache / "archives").mkdir(parents=True)
    prose = {f"usr/share/book/{n:02d}.txt": f"Chapter {n}. " + "It was a quiet day. " * 40 for n in range(40)}
    german = {"usr/share/book/eins.de": "Es war ein ruhiger Tag. " * 30}
    code = {"usr/lib/a.py": "def f(x):\n    return x + 1\n" * 20, "usr/lib/min.js": "x" * 5_000, "usr/lib/b": "?"}
    debs = {}
    for name, files in {"book": prose | german, "tools": code}.items():
        path, debs[name] = make_deb(tmp_path, name, files)
        path.rename(cache / "archives" / path.name)
    asked = sorted(["book", "tools", "gone", "mandoc"])
    (cache / "resolved.json").write_text(
        json.dumps({"asked": asked, "debs": {name: vars(deb) for name, deb in debs.items()}})
    )
    return cache


def build_tiny(cache, output, executor=Serial(), **changed):  # noqa: B008
    settings = {"english_mb": 0.02, "multilingual_mb": 1.0, "code_mb": 1.0, **changed}
    return build_rows(DebianConfig(cache=str(cache), **settings), ROWS, output, executor, quiet, replacing(output))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@needs_dpkg
def test_documents_carry_their_origin_and_the_target_is_kept(cache, tmp_path):
    files = build_tiny(cache, tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in files] == [
        "code/deb-tools.jsonl.zst", "english/deb-book.jsonl.zst", "multilingual/deb-book.jsonl.zst"
    ]  # fmt: skip
    code, *english, german = [json.loads(line) for path in files for line in read_lines(path)]
    text = code.pop("text")
    assert text.startswith("def f(x):")
    assert code == {
        "id": "tools/usr/lib/a.py", "source": "code/python", "language": "python", "origin": "tools=1:2.0",
        "path": "usr/lib/a.py", "license": "MIT",
    }  # fmt: skip
    assert (german["source"], german["language"], german["license"]) == ("multilingual/de", "de", "MIT")
    assert {document["license"] for document in english} == {"public-domain"}
    assert 10 < len(english) < 40  # about 20 kB of 33 kB, drawn by id
    manifest = json.loads((tmp_path / "out" / "packages.json").read_bytes())
    assert manifest["not_served"] == {"gone": "apt knows no such package", "mandoc": "manual pages are left out"}
    book = manifest["packages"]["book"]
    assert (book["version"], book["license"], book["licenses_stated"]) == (
        "1:2.0", "public-domain AND MIT", ["MIT", "GPL-2+"]
    )  # fmt: skip
    assert book["documents"] == len(english) + 1
    attribution = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    assert (
        f"| book (deb) | 1:2.0 | public-domain AND MIT | https://example.org | 0.02 | `{book['sha256']}` |"
        in attribution
    )
    assert "- gone: apt knows no such package" in attribution


@needs_dpkg
def test_a_rerun_after_a_kill_gives_the_same_bytes_and_reads_only_what_is_missing(cache, tmp_path):
    build_tiny(cache, tmp_path / "one")

    class Dies:
        def map(self, function, tasks):
            yield function(tasks[0])
            raise KeyboardInterrupt

    shutil.rmtree(cache / "texts")
    with pytest.raises(KeyboardInterrupt):
        build_tiny(cache, tmp_path / "two", Dies())
    assert not (tmp_path / "two").exists()
    (kept,) = (cache / "texts").glob("*.jsonl.zst")
    before = kept.stat().st_mtime_ns
    build_tiny(cache, tmp_path / "two")
    assert kept.stat().st_mtime_ns == before
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@needs_dpkg
def test_what_is_built_is_kept(cache, tmp_path):
    files = build_tiny(cache, tmp_path / "out")
    before = [path.stat().st_mtime_ns for path in files]
    assert build_tiny(cache, tmp_path / "out") == files
    assert [path.stat().st_mtime_ns for path in files] == before
    build_tiny(cache, tmp_path / "out", english_mb=1.0)
    assert len(list(read_lines(tmp_path / "out" / "english" / "deb-book.jsonl.zst"))) == 40


@needs_dpkg
def test_a_changed_row_is_read_again(cache, tmp_path):
    build_tiny(cache, tmp_path / "out")
    rows = [*ROWS[:3], Row(domain="code", package="tools", category="shell", include="a.py$")]
    settings = DebianConfig(cache=str(cache))
    files = build_rows(settings, rows, tmp_path / "out", Serial(), quiet, replacing(tmp_path / "out"))
    assert json.loads(next(read_lines(files[0])))["source"] == "code/shell"


@needs_dpkg
def test_a_damaged_archive_is_named(cache, tmp_path):
    path = cache / "archives" / "book_1%3a2.0_all.deb"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(
        OSError, match=r"book_1%3a2\.0_all\.deb: cannot be read to its end \(.*\); remove it and run again$"
    ):
        build_tiny(cache, tmp_path / "out")


@needs_dpkg
def test_a_domain_without_text_is_refused(cache, tmp_path):
    with pytest.raises(ValueError, match=r"^corpus \(debian\): no package yielded any code text; see "):
        build_rows(
            DebianConfig(cache=str(cache)), ROWS[:3], tmp_path / "out", Serial(), quiet, replacing(tmp_path / "out")
        )


def fake_apt(folder, monkeypatch, download):
    """Scripts named like apt's programs, first on the path, stand in for the network's answers."""
    folder.mkdir()
    scripts = {"apt-get": download, "apt-cache": "exit 0", "dpkg-deb": "exit 1"}
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_downloads_are_verified_and_what_is_not_served_is_skipped(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    for name in ("good", "forged"):
        (served / f"{name}_1_all.deb").write_bytes(b"content")
    script = f"""for last; do case $last in *=1) f={served}/${{last%=1}}_1_all.deb
      test -e $f && cp $f . || {{ echo "E: Failed to fetch $last  404  Not Found" >&2; exit 100; }};; esac; done"""
    fake_apt(tmp_path / "bin", monkeypatch, script)
    digest = hashlib.sha256(b"content").hexdigest()
    debs = [
        Deb(name, "1", "all", 7, digest if name != "forged" else "0" * 64, "") for name in ("gone", "good", "forged")
    ]
    archives = tmp_path / "archives"
    archives.mkdir()
    done = []
    missing = Apt(tmp_path / "cache").download(debs, archives, lambda count, size: done.append((count, size)))
    assert missing == {"gone": "E: Failed to fetch gone=1  404  Not Found", "forged": "its SHA-256 differs"}
    assert [path.name for path in archives.glob("*.deb")] == ["good_1_all.deb"]
    assert [sum(column) for column in zip(*done, strict=True)] == [1, 7]
    shutil.rmtree(served)
    assert "good" not in Apt(tmp_path / "cache").download(debs, archives, lambda count, size: None)


def test_no_network_and_no_apt_are_reported_in_one_line(tmp_path, monkeypatch):
    fake_apt(tmp_path / "bin", monkeypatch, "echo 'W: Failed to fetch: Temporary failure resolving' >&2")
    message = (
        r"^corpus \(debian\): apt offers none of 1 packages \(W: Failed to fetch: Temporary failure resolving\); "
        "check the network and apt's sources$"
    )
    with pytest.raises(OSError, match=message):
        Apt(tmp_path / "cache").resolve(["book"])
    monkeypatch.setenv("PATH", str(tmp_path))
    message = (
        r"^corpus \(debian\): needs apt-get, apt-cache, dpkg-deb, but this machine has no apt-get; build it on Debian, "
        "copy the corpus from there, or choose another corpus, as in corpus=sample$"
    )
    with pytest.raises(ValueError, match=message):
        Apt(tmp_path / "cache")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"code_mb": 0}, "corpus.debian.code_mb (0): must be above 0; give megabytes of text"),
        ({"exponent": 2}, "corpus.debian.exponent (2): must lie in [0, 1]; 1 is by size, 0 is equal shares"),
        ({"cache": ""}, "corpus.debian.cache (''): must name a directory for the packages; give a path"),
    ],
)
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(ValueError) as error:
        DebianConfig(**changed)
    assert str(error.value) == message


@given(
    st.dictionaries(st.integers(), st.tuples(st.floats(1, 1e9), st.floats(0.01, 100)), min_size=1, max_size=20),
    st.floats(1, 1e10),
)
def test_fill_meets_its_target_and_takes_no_more_than_there_is(groups, target):
    sizes = {key: size for key, (size, _) in groups.items()}
    weights = {key: weight for key, (_, weight) in groups.items()}
    amounts = fill(sizes, target, weights)
    assert all(0 <= amounts[key] <= sizes[key] for key in sizes)
    assert sum(amounts.values()) == pytest.approx(min(target, sum(sizes.values())), rel=1e-6)
    partly = {key: amounts[key] / weights[key] for key in sizes if amounts[key] < 0.999999 * sizes[key]}
    assert not partly or max(partly.values()) == pytest.approx(min(partly.values()), rel=1e-3)


def test_small_languages_are_taken_whole_and_large_ones_by_the_exponent():
    sizes = {
        Group("multilingual/fr", "a"): 64.0,
        Group("multilingual/de", "a"): 16.0,
        Group("multilingual/sw", "b"): 1.0,
    }
    shares = kept_shares(sizes, {"multilingual": 13.0}, {"a": 1.0, "b": 1.0}, 0.5)
    assert shares == {
        Group("multilingual/fr", "a"): pytest.approx(8 / 64),
        Group("multilingual/de", "a"): pytest.approx(4 / 16),
        Group("multilingual/sw", "b"): 1.0,
    }


def test_licenses_of_machine_readable_files():
    assert read_licenses(COPYRIGHT) == ["MIT", "GPL-2+"]
    assert read_licenses("This package was debianised by ...\nLicense: GPL\n") == []


def test_the_shipped_table_is_sound():
    rows = load_rows(SOURCES_FILE, Row)
    assert {row.reader for row in rows} <= {*READERS, "man"}
    assert all(row.license for row in rows if row.registry != "deb")
    assert all(row.category for row in rows if row.domain == "english")
    assert {row.language for row in rows if row.language} <= set(LANGUAGES)
    assert len({(row.domain, row.package, row.reader, row.include) for row in rows}) == len(rows)
    for row in rows:
        row.wants("usr/share/doc/x/a.html")


@needs_dpkg
def test_prepare_builds_it_as_its_first_stage(cache, tmp_path, monkeypatch, make_job, tokenizer, capsys):
    monkeypatch.setattr("nemotron4_data.debian.builder.load_rows", lambda path, row: ROWS)
    debian = DebianConfig(cache=str(cache), english_mb=0.02, multilingual_mb=1.0, code_mb=1.0)
    job = make_job("unused", tmp_path / "out", corpus=CorpusConfig(name="d", debian=debian, heldout_fraction=0.2))
    job.tokenizer.model = str(tokenizer.path)
    run_prepare(job)
    stage = Manifest.load(tmp_path / "out").stages["raw"]
    assert "raw/packages.json" in stage.files
    assert set(stage.facts["not_served"]) == {"gone", "mandoc"}
    assert set(Corpus.open(tmp_path / "out", verify=True).num_train_tokens) == {
        *("code/python", "english/books", "multilingual/de"),
    }
    before = contents(tmp_path / "out")
    (tmp_path / "out/raw/english/deb-book.jsonl.zst").write_bytes(b"damaged")
    run_prepare(job)
    assert contents(tmp_path / "out") == before
    shutil.rmtree(cache)  # a rerun of what is there asks for no package
    run_prepare(job)
    assert "raw: unchanged, kept" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
