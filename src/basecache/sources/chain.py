"""Several sources as one: the first that has an image gives it.

Only "not found" leads on to the next source. One that cannot be reached stops the search: whether
it has the image could not be told, and the next one's may be another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from basecache import errors
from basecache.model import Image
from basecache.sources import ImageQuery, Reader, Source, filters


class Chain:
    """A source over ``sources``, asked in their order.

    An image's ``location`` names its source by number, so that opening goes where describing went.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise errors.ConfigError("a chain of sources needs at least one")
        self._sources = tuple(sources)

    @property
    def name(self) -> str:
        return ", ".join(source.name for source in self._sources)

    def list_images(self, query: ImageQuery) -> list[Image]:
        """All sources' images, source by source; of several with one id the first counts."""
        images: dict[str, Image] = {}
        for number, source in enumerate(self._sources):
            for image in source.list_images(ImageQuery()):
                images.setdefault(image.id, _sign(image, number))
        return filters.select(images.values(), query, self.name)

    def describe(self, image_id: str) -> Image:
        for number, source in enumerate(self._sources):
            try:
                return _sign(source.describe(image_id), number)
            except errors.NotFound:
                continue
        raise errors.NotFound("image", image_id, self.name)

    def open(self, image: Image, offset: int = 0) -> AbstractContextManager[Reader]:
        source, own = self.holder(image)
        return source.open(own, offset)

    def holder(self, image: Image) -> tuple[Source, Image]:
        """The source that ``image`` is from, and the image as that source knows it."""
        if image.location is None:
            image = self.describe(image.id)
        number, colon, location = str(image.location).partition(":")
        return self._sources[int(number)], replace(image, location=location if colon else None)


def _sign(image: Image, number: int) -> Image:
    own = "" if image.location is None else f":{image.location}"
    return replace(image, location=f"{number}{own}")
