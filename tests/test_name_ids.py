"""Ids made of names are those that the standard says: command ids of earlier imports have to be known for ever."""

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from modledger.domain.execute import event_id
from modledger.domain.importing import command_id, read_record
from modledger.domain.name_ids import name_id


@given(st.uuids(), st.text(st.characters(exclude_categories=["Cs"])))
def test_an_id_is_what_the_standard_library_makes_of_the_name(namespace: UUID, name: str) -> None:
    assert name_id(namespace.bytes, name) == uuid5(namespace, name)
    assert name_id(namespace.bytes, name).version == 5


def test_records_and_events_have_the_ids_that_they_always_had() -> None:
    line = b'{"kind":"user","external_id":"7","discord_id":1,"username":"ada","created_at":"2025-01-01T00:00:00Z"}'
    of_record = uuid5(UUID("6f5d0c0e-6f0b-5c35-9a57-2f4c8a8f2d61"), "user:7")
    assert command_id(read_record(line)) == of_record
    assert [event_id(of_record, index) for index in (0, 1, 12)] == [uuid5(of_record, str(n)) for n in (0, 1, 12)]
