"""Personal data is replaced; what belongs to no one is kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.config import PiiConfig
from nemotron4_data.curation.pii import Pii

STEP = Pii(PiiConfig(domains=["english"]))


def scrubbed(text, language="en", step=STEP):
    document = {"text": text, "source": "multilingual/x", "language": language}
    assert step(document) is None
    return document["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+news@mail.ox.ac.uk.", "Write to email@example.org."),
        ("<jürgen@bücher.de>,b@c.io", "<email@example.org>,email@example.org"),
        ("x_1@163.com, a@mail.co.uk, i@zip.sh, me@2xl.com", ", ".join(["email@example.org"] * 4)),
        # Hosts that only look like names of files.
        ("a@site.bz, internals@lists.php.net, b@mail.json.org", ", ".join(["email@example.org"] * 3)),
        ("from 93.184.216.34:8080, then", "from 192.0.2.1:8080, then"),
        ("IP version 4: 93.184.216.34 or/93.184.216.35", "IP version 4: 192.0.2.1 or/192.0.2.1"),
        ("see section 4; ping 93.184.216.34 to test", "see section 4; ping 192.0.2.1 to test"),
        ("[2606:2800:220:1:248:1893:25c8:1946]", "[2001:db8::1]"),
        ("at 2001:67c:2564:a119::77 now", "at 2001:db8::1 now"),
        ("Call +44 20 7946 0958 or +49 30 901820!", "Call [phone number] or [phone number]!"),
        ("telephone: (202) 298-5800\nFAX: 202-298-4249", "telephone: [phone number]\nFAX: [phone number]"),
        ("card 4111 1111 1111 1111, exp", "card [card number], exp"),
        ("Amex 3782-822463-10005", "Amex [card number]"),
        ("My Visa is 4111111111111111.", "My Visa is [card number]."),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [bank account]."),
        ("GB82WEST12345698765432", "[bank account]"),
    ],
)
def test_personal_data_is_replaced(text, expected):
    assert scrubbed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "admin@example.com, a@b.example, root@localhost, git@github.com:us/it.git",
        "@decorator  user@host  a @ b.c  5@5.5",
        "127.0.0.1, 10.0.0.1, 192.168.1.20, 0.0.0.0, 192.0.2.7 and 203.0.113.200",
        "see section 12.4.2.2, kernel 2.6.32.9, version 1.2.3.4.500, 300.1.1.1",
        "::1, fe80::1, 2001:db8::7, std::vector, a::b, 12:30:45, 8-Jun-2018::16:54:19",
        "4294967295, 2147483647, 1234567890, 2014-06-04 10:20:30, 3.14159265358979",
        "pages 123-456, 10 000 000, 978-3-16-148410-0, 1 2 3 4 5 6 7 8 9 10",
        "order 4111111111111111, card 4111 1111 1111 1112, 0.4111111111111111",
        "DE88 3704 0044 0532 0130 00, AB12CDEF34567890, XX10ABCDEFGH, DE84ABCDEFGH",
        # Written alike.
        "foo@2x.png, icon@3x.webp, logo@2x.min.js, left-pad@1.3.0.tgz, a@v1.2.3.zip, getty@tty1.service, main@Foo.java",
        "Section 12.100.3.4, sections 12.100.3.4 and 12.101.3.5, § 4.3.110.2, clause 3.2.101.9, (OID 1.3.101.110)",
        "Version 10.0.190.41, v4.5.103.35, release 1.2.230.4, Upgraded to 4.6.185.25 from 4.5.103.35",
        "Chrome/120.0.100.12, patch V8 to 11.8.172.15, published in 2008::, in 2600::, face::1, 2024::5",
        "ISBN 0-306-40615-2, ISBN-10: 0306406152, ISBN 978-0-306-40615-7, ISSN 0317-8471, Clause 252.227-7013 (c)",
        "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709, d41d8cd98f00b204e9800998ecf8427e, 2.7182818284590452",
    ],
)
def test_what_belongs_to_no_one_stays(text):
    assert scrubbed(text) == text


def test_national_phone_numbers_are_read_by_language():
    text = "Tel. 030 901820"
    assert scrubbed(text) == scrubbed(text, "de") == text
    german = Pii(PiiConfig(phone_regions={"de": "DE"}))
    assert scrubbed(text, "de", german) == "Tel. [phone number]"


def test_placeholders_are_configurable_and_kinds_can_stay():
    step = Pii(PiiConfig(placeholders={"email": "|||EMAIL|||", "ipv4": None}))
    assert scrubbed("a@b.org 93.184.216.34 +44 20 7946 0958", step=step) == "|||EMAIL||| 93.184.216.34 +44 20 7946 0958"


@settings(deadline=None)
@given(
    st.text()
    | st.text(st.sampled_from("+1 2-0.5@:ab(4)\n"), max_size=80)
    | st.lists(
        st.sampled_from(["a@b.org", "+44 20 7946 0958", "4111 1111 1111 1111", "8.8.8.100", " ", "\n", "1"])
    ).map("".join)
)
def test_replacing_twice_is_replacing_once(text):
    once = scrubbed(text)
    assert scrubbed(once) == once
    assert once.count("\n") == text.count("\n")
