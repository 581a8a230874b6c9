"""A source that tries again what is worth another try.

Questions are asked up to ``attempts`` times. A stream that breaks is opened again where it
stopped; only failures without a byte in between count towards giving up. Between attempts it
waits a random time up to a bound that doubles, so that many hosts do not come back all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import tenacity

from basecache import errors, events
from basecache.model import Digest, Image
from basecache.sources import Identifying, ImageQuery, Reader, Source

T = TypeVar("T")

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0


class Retrying:
    """``source`` with ``attempts`` tries at everything (1 means none again)."""

    def __init__(
        self,
        source: Source,
        attempts: int = 5,
        emit: events.Emit = events.ignore,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
    ) -> None:
        self._source = source
        self._identifying = source if isinstance(source, Identifying) else None
        self._attempts = attempts
        self._emit = emit
        self._wait = tenacity.wait_random_exponential(first_wait_seconds, longest_wait_seconds)

    @property
    def name(self) -> str:
        return self._source.name

    def identify(self, image: str) -> str:
        return self._identifying.identify(image) if self._identifying else image

    def stated(self, image: str) -> Digest | None:
        return self._identifying.stated(image) if self._identifying else None

    def list_images(self, query: ImageQuery) -> list[Image]:
        return self.call("the list of images", lambda: self._source.list_images(query))

    def describe(self, image_id: str) -> Image:
        return self.call(image_id, lambda: self._source.describe(image_id))

    @contextmanager
    def open(self, image: Image, offset: int = 0) -> Iterator[Reader]:
        reader = _ResumingReader(self, self._source, image, offset)
        try:
            reader.start()
            yield reader
        finally:
            reader.close()

    def call(self, image: str, act: Callable[[], T], offset: int = 0) -> T:
        """What ``act`` returns; its last error when every attempt failed."""

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self._emit(events.Retrying(image, self.name, state.attempt_number, offset, str(error)))

        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception(_worth_another_try),
            before_sleep=tell,
            reraise=True,
        )
        return again(act)


class _ResumingReader:
    """Reads an image from stream after stream, each opened where the one before broke."""

    def __init__(self, policy: Retrying, source: Source, image: Image, offset: int) -> None:
        self._policy = policy
        self._source = source
        self._image = image
        self._offset = offset
        self._stream: AbstractContextManager[Reader] | None = None
        self._reader: Reader | None = None

    def start(self) -> None:
        self._policy.call(self._image.id, self._open, self._offset)

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return self._read(buffer)
        except errors.SourceUnreachable as error:
            broken: list[Exception] = [error]

        def resume() -> int:
            if broken:
                raise broken.pop()
            return self._read(buffer)

        return self._policy.call(self._image.id, resume, self._offset)

    def close(self) -> None:
        stream, self._stream, self._reader = self._stream, None, None
        if stream is not None:
            stream.__exit__(None, None, None)

    def _read(self, buffer: memoryview) -> int:
        reader = self._reader or self._open()
        try:
            count = reader.readinto(buffer)
        except errors.SourceUnreachable:
            self.close()
            raise
        self._offset += count
        return count

    def _open(self) -> Reader:
        stream = self._source.open(self._image, self._offset)
        self._reader = stream.__enter__()
        self._stream = stream
        return self._reader


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, errors.SourceUnreachable) and error.retryable
