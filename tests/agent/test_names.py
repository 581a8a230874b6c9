"""An entry is found by its own name, its image's id, and its image's name."""

from __future__ import annotations

import pytest

from basecache import errors
from tests.support.place import Place


@pytest.mark.parametrize("way", ["entry", "id", "name"])
def test_an_entry_is_found(place: Place, way: str) -> None:
    image = place.add_raw(name="debian-12")
    host, path = place.host(), place.entry(image)
    host.ensure(image)
    what = {"entry": path.name, "id": image, "name": "debian-12"}[way]
    assert host.entry(what).entry.path == path
    assert host.pin(what).name == path.name
    host.unpin(what)
    assert [outcome.name for outcome in host.verify(what)] == [path.name]
    host.remove(what)
    with pytest.raises(errors.NotFound):
        host.entry(what)


def test_a_name_that_two_entries_have_is_refused(place: Place) -> None:
    images = [place.add_raw(name="debian-12") for _ in range(2)]
    host = place.host()
    for image in images:
        host.ensure(image)
    with pytest.raises(errors.UsageError) as refused:
        host.entry("debian-12")
    assert all(place.entry(image).name in str(refused.value.hint) for image in images)


def test_an_image_that_is_not_there_yet_is_pinned_by_its_id(place: Place) -> None:
    image = place.add_raw()
    host = place.host()
    assert host.pin(image, reason="soon").image_id == image
    host.ensure(image)
    [held] = host.entries()
    assert held.pin is not None
    assert held.pin.reason == "soon"
