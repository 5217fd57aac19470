"""Old versions of events become the current one, here and nowhere else.

A stored event never changes. When the shape of an event does, its class in ``events.py`` gets the next version in its
``TOPIC`` and the old topic gets a line in ``UPCASTS``; its stored sample in ``tests/samples`` stays.
"""

from collections.abc import Callable, Mapping
from typing import Any

Payload = dict[str, Any]
Upcast = Callable[[Payload], Payload]

# topic → the next version's topic, and the payload's way there: pure, and content with personal fields that are
# missing, since those of an erased subject are.
UPCASTS: dict[str, tuple[str, Upcast]] = {}


def newest(topic: str, upcasts: Mapping[str, tuple[str, Upcast]] = UPCASTS) -> str:
    """The topic that an event of this stored topic has once it is upcast."""
    while step := upcasts.get(topic):
        topic, _ = step
    return topic


def upcast(topic: str, payload: Payload, upcasts: Mapping[str, tuple[str, Upcast]] = UPCASTS) -> tuple[str, Payload]:
    """Takes a stored payload (JSON values by field name) step by step to the newest version of its event. Returns the
    newest topic and the payload in its shape; a topic that has no newer version comes back as it is."""
    while step := upcasts.get(topic):
        topic, change = step
        payload = change(payload)
    return topic, payload
