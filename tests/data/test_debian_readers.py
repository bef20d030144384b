"""Readers of package files, on small files made here in each format."""

import gzip
import io
import json
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from nemotron4_data.debian import archives
from nemotron4_data.debian.archives import gunzip
from nemotron4_data.debian.documents import (
    clean_text,
    drop_repeated_lines,
    drop_untranslated_lines,
    is_source_code,
    split_text,
)
from nemotron4_data.debian.languages import LANGUAGES, language_of_code, language_of_file
from nemotron4_data.debian.localized import localized_path, pack_strings
from nemotron4_data.debian.readers import READERS, read_man
from nemotron4_data.debian.text import Text


def read(reader, *members):
    return list(READERS[reader](members))


def test_plain_text_may_be_compressed_and_other_encodings_are_skipped():
    texts = read("plain", ("a.txt.gz", gzip.compress("größer".encode())), ("b.txt", "größer".encode("latin-1")))
    assert texts == [Text("a.txt", "größer")]


def test_html_loses_markup_and_navigation():
    page = "<html><body><nav>Home Next</nav><main><h1>Sets</h1><p>A set has no <em>order</em>.</p></main></body></html>"
    (text,) = read("html", ("usr/share/doc/x/html/de/sets.html", page.encode()))
    assert "A set has no order." in text.text
    assert "Next" not in text.text
    assert (text.name, text.language) == ("usr/share/doc/x/html/de/sets", "de")


def test_html_is_decoded_as_it_declares():
    page = '<html><head><meta charset="ISO-8859-1"></head><body><main><p>Größe und Gewicht.</p></main></body></html>'
    assert "Größe und Gewicht." in read("html", ("a.html", page.encode("latin-1")))[0].text
    unknown = page.replace("ISO-8859-1", "no-such-code")
    assert "Größe und Gewicht." in read("html", ("a.html", unknown.encode()))[0].text


def test_mallard_keeps_titles_and_paragraphs_without_the_head():
    page = """<page xmlns="http://projectmallard.org/1.0/"><info><desc>No</desc><credit><name>Nobody</name></credit></info>
    <title>Sound</title><p>Plug it
    in.</p></page>"""
    assert read("mallard", ("usr/share/help/sv/h/sound.page", page.encode())) == [
        Text("usr/share/help/sv/h/sound", "Sound\n\nPlug it in.", "sv")
    ]


def test_pod_loses_commands_and_codes():
    sentence = "X - a B<bold> I<< x > y >> thing, see L<perlop|perlop/Ops>, 1 E<lt> 2"
    pod = f"package X;\n\n=head1 NAME\n\n{sentence}\n\n=cut\n\ncode();\n"
    (text,) = read("pod", ("X.pod", pod.encode()))
    assert text.text.split("\n\n") == ["NAME", "X - a bold x > y thing, see perlop, 1 < 2", ""]


def test_wordnet_lines_become_words_and_gloss():
    line = "00001740 03 n 02 entity 0 being(a) 0 001 ~ 00001930 n 0000 | that which exists  \n"
    (text,) = read("wordnet", ("data.noun", ("  1 licence\n" + line).encode()))
    assert text.text == "entity, being: that which exists"


def test_dictd_loses_its_head():
    (text,) = read("dictd", ("x.dict.dz", gzip.compress(b"00-database-info\n   about\n\nA \\A\\ n.\n   a letter\n")))
    assert text == Text("x", "A \\A\\ n.\n   a letter\n")


def test_stardict_loses_its_markup():
    body = "<i><small>(a) prép.</small></i>\n<b>1°</b> Vers.<i><small>(b) s. m.</small></i> Lettre &amp; son.".encode()
    (text,) = read("stardict", ("x.dict.dz", gzip.compress(body)))
    assert text.text == "(a) prép.\n1° Vers.\n\n(b) s. m. Lettre & son."


def test_fortunes_are_separated_by_blank_lines():
    assert read("fortunes", ("wise", b"One.\n%\nTwo.\n%\n"))[0].text == "One.\n\nTwo."


def test_factbook_profiles_become_headed_lines():
    profile = {"Geography": {"Area": {"total": {"text": "2 sq km"}}, "Climate": {"text": "mild"}}}
    (text,) = read("factbook", ("fr.json", json.dumps(profile).encode()))
    assert text.text.split("\n") == ["", "Geography", "", "Area:", "total: 2 sq km", "Climate: mild"]


def test_udhr_takes_one_variant_of_each_language():
    page = b"<html><body><h1>Erkl\xc3\xa4rung</h1><p>Alle  Menschen</p></body></html>"
    assert read("udhr", ("declaration/deu_1996.html", page), ("declaration/deu_1901.html", page)) == [
        Text("declaration/deu_1996-000", "Erklärung\n\nAlle Menschen", "de")
    ]


def test_descriptions_are_unwrapped_and_repeated_paragraphs_left_out():
    stanza = "Package: {}\nDescription-md5: 0\nDescription-it: {}\n Riga una\n riga due.\n .\n {}\n"
    lists = "\n".join([stanza.format("a", "cosa", "Altro."), stanza.format("b", "cosa", "Altro.")])
    assert read("descriptions", ("main_Translation-it", lists.encode())) == [
        Text("main_Translation-it/a", "a: cosa\nRiga una riga due.\nAltro.", "it")
    ]


def catalogue(pairs):
    """A gettext catalogue: two tables of (length, offset), then the strings."""
    blobs = [blob for column in zip(*pairs, strict=True) for blob in column]
    start = 28 + 8 * len(blobs)
    table, body = b"", b""
    for blob in blobs:
        table += struct.pack("<II", len(blob), start + len(body))
        body += blob + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0) + table + body


def test_gettext_keeps_sentences_that_were_translated():
    sentence = "Das Dokument konnte leider nicht gespeichert werden."
    data = catalogue([(b"", b"Language: de"), (b"ctx\x04It failed.", sentence.encode()), (b"x" * 50, b"x" * 50)])
    assert read("mo", ("usr/lib/x/de/LC_MESSAGES/sw.mo", data)) == [
        Text("usr/lib/x/de/LC_MESSAGES/sw.mo-000", sentence, "de")
    ]
    with pytest.raises(ValueError, match="not a little-endian gettext catalogue"):
        read("mo", ("usr/lib/x/de/LC_MESSAGES/sw.mo", b"oh"))


def test_language_packs_of_browsers():
    sentence = "Diese Seite konnte nicht geladen werden, bitte versuchen."
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as xpi:
        xpi.writestr("a.ftl", f"error-title = {sentence}\nshort = Ja\n")
    assert read("xpi", ("langpack-de@x.org.xpi", archive.getvalue()))[0].text == sentence
    body = sentence.encode()
    start = 12 + 6 * 2
    pak = struct.pack("<IIHH", 5, 1, 1, 0) + struct.pack("<HIHI", 7, start, 0, start + len(body)) + body
    assert read("pak", ("locales/de.pak", pak))[0] == Text("locales/de.pak-000", sentence, "de")


def test_sword_blocks_are_inflated_and_verses_joined():
    verses = [b"<verse>In the beginning</verse>", b"<note>n</note>God <w>said</w> &amp; saw"]
    block = zlib.compress(b"".join(verses))
    index = struct.pack("<III", 0, len(block), len(b"".join(verses)))
    entries = struct.pack("<IIH", 0, 0, len(verses[0])) + struct.pack("<IIH", 0, len(verses[0]), len(verses[1]))
    (text,) = read("sword", ("t/ot.bzz", block), ("t/ot.bzs", index), ("t/ot.bzv", entries))
    assert text == Text("t/ot-0000", "In the beginning\nGod said & saw")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_manual_pages_are_rendered():
    page = b".TH X 1\n.SH NAME\nx \\- a \\fBbold\\fP program\n"
    (text,) = read_man([("man1/x.1", page), ("man1/y.1", b".so man1/x.1\n")], Path(shutil.which("mandoc")))
    assert "x - a bold program" in text.text


def test_gunzip_refuses_damage_and_bombs(monkeypatch):
    data = gzip.compress(b"a" * 10_000)
    assert gunzip(data + data) == b"a" * 20_000
    with pytest.raises(ValueError, match=r"^gzip cut short$"):
        gunzip(data[:-9])
    with pytest.raises(ValueError, match=r"^damaged gzip"):
        gunzip(b"no gzip at all")
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 15_000)
    with pytest.raises(ValueError, match=r"^gzip of more than 15000 bytes$"):
        gunzip(data + data)


def test_languages_of_codes_and_files():
    codes = {"pt-br": "pt", "zh_CN": "zh", "zh_TW": None, "nb-no": "no", "hy-am": "hy", "en_GB": None, "eo": None}
    assert {code: language_of_code(code) for code in codes} == codes
    assert len(LANGUAGES) == 53
    files = {"a/b.py": "python", "x.rs.gz": "rust", "Makefile": "makefile", ".hidden": None, "a.unknown": None}
    assert {path: language_of_file(path) for path in files} == files
    assert localized_path("usr/share/doc/live-manual/html/live-manual/bugs.ca.html") == "ca"
    assert localized_path("usr/share/man/man1/ls.1") is None


def test_strings_are_packed_once_and_only_sentences():
    sentence = "This is long enough to be a sentence, is it not?"
    assert list(pack_strings([sentence, sentence, "OK", f"{sentence} {{brace}}"])) == [(0, sentence)]


def test_cleaning_and_splitting():
    assert clean_text("a \r\nb\u200b\x07\n\n\n\n\n\nc\n\n") == "a\nb\n\n\nc\n"
    text = "".join(f"Paragraph {number}, with some words in it.\n\n" for number in range(100))
    pieces = split_text(text, 1_000)
    assert max(len(piece.encode()) for piece in pieces) <= 1_000
    assert "".join(pieces).split() == text.split()


def test_lines_on_most_pages_are_dropped():
    pages = [Text(str(number), f"Prev | Up | Next\nText {number}") for number in range(30)]
    assert [page.text for page in drop_repeated_lines(pages)] == [f"Text {number}" for number in range(30)]


def test_lines_left_in_english_are_dropped_from_translations():
    german = "Klicken Sie auf die Schaltfläche, um das Fenster zu schließen."
    assert drop_untranslated_lines(f"{german}\nClick the button to close this window.\nthe end") == f"{german}\nthe end"


def test_minified_and_huge_files_are_not_source_code():
    line = "x = compute(y)\n"
    assert is_source_code(line * 20)
    assert not is_source_code(line * 20_000)
    assert not is_source_code("a" * 5_000)
    assert not is_source_code(line * 20 + "\0")
