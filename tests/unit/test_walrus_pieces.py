"""A blob's footer: what it says, and what is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.walrus.drivers.embedded.pieces import PIECE_BYTES, Malformed, Sums, footer_bytes, parsed

SIZES = st.sampled_from([0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5])


def footer_of(content: bytes, step: int) -> bytes:
    sums = Sums()
    for start in range(0, len(content), step):
        sums.update(content[start : start + step])
    return sums.footer()


@given(SIZES, st.sampled_from([1 << 30, PIECE_BYTES, 50_000, 70_001]))
def test_any_flipped_bit_of_the_content_is_found_in_its_piece(size: int, step: int) -> None:
    content = bytes(n % 251 for n in range(size))
    footer = footer_of(content, step)
    assert footer_bytes(footer) == len(footer)
    found = parsed(content[-100:] + footer, size + len(footer))
    assert found.size == size
    assert found.damaged(0, memoryview(content)) is None
    for at in {0, size // 2, size - 1} if size else ():
        bad = bytearray(content)
        bad[at] ^= 0x10
        assert found.damaged(0, memoryview(bad)) == at // PIECE_BYTES * PIECE_BYTES
        last = at // PIECE_BYTES * PIECE_BYTES
        assert found.damaged(last, memoryview(bad)[last:]) == last


@pytest.mark.parametrize("size", [0, 5, 2 * PIECE_BYTES])
def test_a_footer_that_is_cut_flipped_or_of_another_length_is_none(size: int) -> None:
    footer = footer_of(bytes(size), 1 << 20)
    for bad in (b"", footer[:-1], footer[1:]):
        with pytest.raises(Malformed):
            parsed(bad, size + len(footer))
    with pytest.raises(Malformed):
        parsed(footer, size + len(footer) + 1)
    for at in range(len(footer)):
        flipped = bytearray(footer)
        flipped[at] ^= 1
        with pytest.raises(Malformed):
            parsed(bytes(flipped), size + len(footer))
