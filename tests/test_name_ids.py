"""Ids made of names: command ids of earlier imports, and ids of events, have to be known for ever."""

from uuid import UUID

from modledger.domain.execute import event_id
from modledger.domain.importing import command_id, read_record


def test_records_and_events_have_the_ids_that_they_always_had() -> None:
    line = b'{"kind":"user","external_id":"7","discord_id":1,"username":"ada","created_at":"2025-01-01T00:00:00Z"}'
    of_record = command_id(read_record(line))
    assert of_record == UUID("fc560f2d-1655-5668-9051-68150e7e0065")
    assert [event_id(of_record, index) for index in (0, 1, 12)] == [
        UUID("d8e3d297-0d12-589a-ab1a-7fc08996893b"),
        UUID("e7ce91e4-bb48-5820-b8ce-785063d53e06"),
        UUID("e32e35a2-b717-5111-9259-d971d87bf7db"),
    ]
