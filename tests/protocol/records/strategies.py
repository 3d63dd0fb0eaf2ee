"""Records for Hypothesis: what any producer might send."""

from __future__ import annotations

from hypothesis import strategies as st

from ottla.protocol.records.builder import Record

payloads = st.none() | st.binary(max_size=40) | st.binary(min_size=60, max_size=70)
header_lists = st.lists(st.tuples(st.text(max_size=10), st.none() | st.binary(max_size=10)), max_size=3).map(tuple)
timestamps = st.integers(-1, 2**62) | st.integers(1_700_000_000_000, 1_700_000_100_000)


@st.composite
def record_lists(draw: st.DrawFn, min_size: int = 1, max_size: int = 12, gaps: bool = True) -> list[Record]:
    """Records with rising offsets; with gaps as compaction leaves them."""
    offset = draw(st.integers(0, 2**40))
    records = []
    for _ in range(draw(st.integers(min_size, max_size))):
        records.append(Record(offset, draw(timestamps), draw(payloads), draw(payloads), draw(header_lists)))
        offset += draw(st.integers(1, 1000)) if gaps else 1
    return records
