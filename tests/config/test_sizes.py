"""Sizes and amounts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache.config import Amount, format_size, parse_amount, parse_size

SUFFIXES = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


@given(st.integers(min_value=0, max_value=2**63))
def test_a_formatted_size_reads_back_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size
    assert parse_size(size) == parse_size(str(size)) == size


@given(
    st.integers(min_value=0, max_value=10**6),
    st.sampled_from(sorted(SUFFIXES)),
    st.sampled_from(["", " "]),
    st.booleans(),
)
def test_suffixes_are_binary_in_either_case(n: int, suffix: str, gap: str, lower: bool) -> None:
    text = f"{n}{gap}{suffix}"
    expected = n * 1024 ** SUFFIXES[suffix]
    assert parse_size(text.lower() if lower else text) == expected
    if suffix:
        assert parse_size(f"{text}iB") == expected


@given(st.integers(min_value=0, max_value=10000), st.integers(min_value=0, max_value=2**50))
def test_a_percentage_is_a_share_of_the_whole(hundredths: int, total: int) -> None:
    amount = parse_amount(f"{hundredths / 100:.2f}%")
    assert amount.of(total) == total * hundredths // 10000
    assert 0 <= amount.of(total) <= total


@given(st.integers(min_value=0, max_value=2**63), st.integers(min_value=0))
def test_an_amount_of_bytes_asks_for_no_whole(size: int, total: int) -> None:
    amount = parse_amount(size)
    assert amount == Amount(size) == parse_amount(str(amount)) == parse_amount(amount)
    assert amount.of(total) == size


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_amount):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert (value.of(100) if isinstance(value, Amount) else value) >= 0


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1", -1, "1GB", "1 2", "1e3", "0x10", "1iB", "10%%", "1,5G", "nan", True, "١"],
)
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is below 0"):
        parse_size(text)
    with pytest.raises(ValueError, match=r"is not a size|is below 0"):
        parse_amount(text)


def test_examples() -> None:
    assert parse_size("1.5G") == 3 * 2**29
    assert parse_size("20G") == 20 * 2**30
    assert str(parse_amount("12.5 %")) == "12.5%"
    assert format_size(0) == "0"
    assert format_size(3 * 2**29) == "1536M"
    with pytest.raises(ValueError, match="more than the whole"):
        parse_amount("100.1%")
