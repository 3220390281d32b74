"""Files as somebody else may have written them: what comes in, and that nothing leads out."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from kilograd.errors import InputError
from kilograd.reading import (
    checksum,
    inside,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    require_checksum,
    with_checksum,
)

MOST = 1000


class Part(Struct):
    size: Annotated[int, Meta(ge=1, le=9)]
    share: Annotated[float, Meta(gt=0)] = 1.0
    on: bool = False


class Whole(Struct):
    parts: tuple[Part, ...]


def refused(path: Path, most: int = MOST) -> str:
    with pytest.raises(InputError) as caught:
        read_text(path, most)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "loop", "missing", ".", "a" * 300, "a\0b", "a/b"):
        assert refused(tmp_path / name).startswith(str(tmp_path))
    assert "is no file" in refused(Path("/dev/zero"))
    assert "is no file" in refused(Path("/dev/null"))


@pytest.mark.parametrize(("size", "fits"), [(MOST, True), (MOST + 1, False), (2**40, False)])
def test_size_is_looked_at_before_anything_is_read(tmp_path: Path, size: int, fits: bool) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)  # sparse
    if fits:
        assert read_bytes(tmp_path / "file", MOST) == bytes(MOST)
    else:
        assert "larger than 1,000 bytes" in refused(tmp_path / "file")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_with_and_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a").write_bytes(mark + '{"é": 1}'.encode())
    assert read_json(tmp_path / "a", dict[str, int], MOST) == {"é": 1}


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"\xed\xa0\x80", "é".encode("utf-16")])
def test_bytes_that_are_no_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert "is no text in UTF-8" in refused(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"parts": 3}', "f: parts: expected array, got int"),
        ('{"parts": [{"size": 1}, {"size": 0}]}', "f: parts[1].size: expected int >= 1"),
        ('{"parts": [{"size": 1.0}]}', "f: parts[0].size: expected int, got float"),
        ('{"parts": [{"size": true}]}', "f: parts[0].size: expected int, got bool"),
        ('{"parts": [{"size": null}]}', "f: parts[0].size: expected int, got null"),
        (f'{{"parts": [{{"size": {10**30}}}]}}', "f: parts[0].size: expected int <= 9"),
        ('{"parts": [{"size": 1, "on": 0}]}', "f: parts[0].on: expected bool, got int"),
        ('{"parts": [{}]}', "f: parts[0]: field 'size' is missing"),
        ("{}", "f: field 'parts' is missing"),
        ("[]", "f: expected object, got array"),
        ('{"parts": [], "parts": []}', "field 'parts' stands twice"),
        ('{"parts": [{"size": 1, "share": 1e999}]}', "1e999 is not a finite number"),
        ('{"parts": [{"size": 1, "share": NaN}]}', "NaN is not a finite number"),
        ('{"parts": [{"size": 1, "share": -Infinity}]}', "-Infinity is not a finite number"),
        (f'{{"parts": {"9" * 5000}}}', "cannot be read as JSON"),
        ("[" * 10**5, "nested too deeply"),
        ('{"parts": "\\ud800"}', "f: holds half a character"),
        ('{"\\ud800": 1}', "f: holds half a character"),
        ("", "cannot be read as JSON"),
        ("{'parts': []}", "cannot be read as JSON"),
        ('{"parts": []} x', "cannot be read as JSON"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_json_of_another_kind(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text, Whole, "f")
    assert message in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"parts": [value, {"size": value}]})):
        with suppress(InputError):
            parse_json(text, Whole, "f")


@pytest.mark.parametrize("name", ["a", "b/a", "b/./a", "missing"])
def test_paths_inside(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, "f") == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "b/../../a", "/etc/passwd", "a\0b", "out/a", "file", "loop"]
)
def test_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / "out").symlink_to(tmp_path / "elsewhere")
    (home / "file").symlink_to("/etc/passwd")
    (home / "loop").symlink_to(home / "loop")
    with pytest.raises(InputError, match=r"^f: "):
        inside(home, name, "f")


def test_a_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "more").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "back").symlink_to("../real/more")
    (tmp_path / "real" / "more" / "up").symlink_to("../..")
    home = tmp_path / "link"
    for name in ("more", "more/a", "back", "back/a", "more/up/real"):
        assert inside(home, name, "f") == home / name
    for name in ("more/up", "more/up/a", "back/up"):
        with pytest.raises(InputError, match="leads out"):
            inside(home, name, "f")


def test_links_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert inside(tmp_path, "b", "f").read_text() == "x"


@given(st.dictionaries(st.text(), JSON), st.data())
def test_checksum_sees_every_change(record: dict[str, Any], data: st.DataObject) -> None:
    record.pop("sha256", None)
    stored = json.loads(json.dumps(with_checksum(record)))
    require_checksum(stored, "f")
    key = data.draw(st.text().filter(lambda k: k != "sha256"))
    changed = {**stored, key: data.draw(JSON)}
    if checksum(changed) != stored["sha256"]:
        with pytest.raises(InputError, match="remove the field sha256"):
            require_checksum(changed, "f")
    else:
        assert json.dumps(changed, sort_keys=True) == json.dumps(stored, sort_keys=True)
    del changed["sha256"]
    require_checksum(changed, "f")
