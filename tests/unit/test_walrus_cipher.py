"""The form of encrypted bytes, and the master keys that seal their keys."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.keyring import Keyring, KeyUnknown, new_line
from services.walrus import cipher
from services.walrus.cipher import PIECE_BYTES, NotAuthentic, Opener, Sealer

KEY = bytes(range(32))
_PATTERN = secrets.token_bytes(4 * PIECE_BYTES)

sizes = st.one_of(
    st.integers(0, 300),
    st.builds(lambda pieces, by: max(pieces * PIECE_BYTES + by, 0), st.integers(0, 3), st.integers(-2, 2)),
)


def sealed(body: bytes, cuts: list[int] | None = None, key: bytes = KEY) -> bytes:
    sealer, out, position = Sealer(key), b"", 0
    for cut in [*(cuts or []), len(body)]:
        out += sealer.update(body[position : position + cut])
        position += cut
    return out + sealer.finish()


@given(
    size=sizes,
    cuts=st.lists(st.integers(0, 2 * PIECE_BYTES), max_size=6),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_range_of_a_body_sealed_in_any_chunks_comes_back(
    size: int, cuts: list[int], ends: tuple[float, float]
) -> None:
    body = _PATTERN[:size]
    stored = sealed(body, cuts)
    start, end = sorted(int(one * size) for one in ends)
    assert len(stored) == cipher.stored_bytes(size)
    assert cipher.opened(KEY, stored, size=size, start=start, end=end) == body[start:end]


@given(size=st.integers(1, 3 * PIECE_BYTES), step=st.integers(1, 2 * PIECE_BYTES))
def test_stored_bytes_may_come_in_any_chunks(size: int, step: int) -> None:
    stored = sealed(_PATTERN[:size])
    opener = Opener(KEY, stored[: cipher.SALT_BYTES], size=size, start=0, end=size)
    first, behind = cipher.stored_span(size, 0, size)
    assert behind == len(stored)
    step = max(step, len(stored) // 50)
    assert b"".join(opener.update(stored[at : at + step]) for at in range(first, behind, step)) == _PATTERN[:size]


@pytest.mark.parametrize("size", [1, 100, PIECE_BYTES, PIECE_BYTES + 1])
def test_another_key_opens_nothing(size: int) -> None:
    stored = sealed(_PATTERN[:size])
    with pytest.raises(NotAuthentic):
        cipher.opened(bytes(32), stored, size=size, start=0, end=1)


@given(
    size=st.sampled_from([1, 100, PIECE_BYTES, PIECE_BYTES + 1]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_one_flipped_bit_anywhere_is_noticed(size: int, where: float, bit: int) -> None:
    stored = bytearray(sealed(_PATTERN[:size]))
    stored[int(where * len(stored))] ^= 1 << bit
    with pytest.raises(NotAuthentic):
        cipher.opened(KEY, bytes(stored), size=size, start=0, end=size)


def test_pieces_that_changed_places_are_noticed() -> None:
    body = _PATTERN[: 3 * PIECE_BYTES]
    stored = sealed(body)
    salt, pieces = stored[: cipher.SALT_BYTES], stored[cipher.SALT_BYTES :]
    one = len(pieces) // 3
    swapped = salt + pieces[one : 2 * one] + pieces[:one] + pieces[2 * one :]
    with pytest.raises(NotAuthentic):
        cipher.opened(KEY, swapped, size=len(body), start=0, end=1)


def test_a_body_that_was_cut_at_a_piece_is_noticed_whatever_the_index_says_of_its_size() -> None:
    stored = sealed(_PATTERN[: 2 * PIECE_BYTES])
    cut = stored[: cipher.stored_bytes(PIECE_BYTES)]
    with pytest.raises(NotAuthentic):
        cipher.opened(KEY, cut, size=PIECE_BYTES, start=0, end=PIECE_BYTES)
    with pytest.raises(NotAuthentic):
        cipher.opened(KEY, cut, size=2 * PIECE_BYTES, start=0, end=2 * PIECE_BYTES)


def test_the_same_body_is_never_the_same_twice() -> None:
    assert sealed(b"a body") != sealed(b"a body")


def test_an_older_master_key_still_opens_what_it_sealed(tmp_path: Path) -> None:
    file = tmp_path / "object.keys"
    file.write_bytes(new_line())
    old = Keyring.load(file).seal(b"secret")
    file.write_bytes(new_line() + file.read_bytes())
    both = Keyring.load(file)
    assert both.open(old) == b"secret"
    assert both.seal(b"secret")[:8] != old[:8]


def test_without_its_master_key_nothing_opens() -> None:
    seals = Keyring([KEY])
    sealed_key = seals.seal(b"secret")
    for ring, bad in ((Keyring([bytes(32)]), sealed_key), (Keyring(()), sealed_key), (seals, sealed_key[:-1] + b"?")):
        with pytest.raises(KeyUnknown):
            ring.open(bad)
    with pytest.raises(KeyUnknown):
        Keyring(()).seal(b"secret")


@pytest.mark.parametrize("text", ["", "abcd\n", "no hex at all\n", "00" * 33])
def test_a_file_without_whole_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "object.keys").write_text(text)
    with pytest.raises(ValueError, match="must have keys of 32 bytes"):
        Keyring.load(tmp_path / "object.keys")
