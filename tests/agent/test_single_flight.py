"""Single flight: over threads, processes and Nova an image is fetched once."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from basecache import events
from basecache.cache.layout import original_name
from basecache.model import Status
from tests.support.hostile import MiB
from tests.support.place import Place, process
from tests.support.web import Answer, Web


class TestSingleFlight:
    """Many ask at once, one fetches."""

    BODY = os.urandom(3 * MiB)

    def options(self, url: str) -> dict[str, object]:
        return {"driver": "url", "urls": url, "require_digest": False}

    def test_over_threads(self, place: Place, web: Web) -> None:
        url = web.put("/image.raw", Answer(self.BODY))
        host = place.host(source=self.options(url))
        image = host.images()[0].id
        begin = threading.Barrier(8)

        def ask() -> Status:
            begin.wait()
            return host.ensure(image).status

        with ThreadPoolExecutor(8) as pool:
            statuses = [each.result() for each in [pool.submit(ask) for _ in range(8)]]

        assert sorted(statuses) == [Status.CACHED, *[Status.EXISTING] * 7]
        assert len(self.downloads(web)) == 1

    def test_over_processes(self, place: Place, web: Web) -> None:
        url = web.put("/image.raw", Answer(self.BODY))
        options = place.options(source=self.options(url))
        image = place.host(**options).images()[0].id
        with (
            process(_ASKING, json.dumps(options), image) as one,
            process(_ASKING, json.dumps(options), image) as two,
        ):
            for running in (one, two):
                assert running.stdin is not None
                running.stdin.write("go\n")
                running.stdin.flush()
            said = sorted(str(running.communicate()[0]).strip() for running in (one, two))

        assert said == ["cached", "existing"]
        assert len(self.downloads(web)) == 1

    def downloads(self, web: Web) -> list[object]:
        """The requests for the whole file; those for its first bytes only look at it."""
        return [each for each in web.asked("/image.raw") if "range" not in each.headers]

    def test_behind_nova(self, place: Place) -> None:
        image = place.add_raw()
        host = place.host()
        (place.base / "fetched").write_bytes(place.source_file(image).read_bytes())
        name = original_name(image)
        with (
            process(_NOVA_FETCHING, place.instances, name, place.base / "fetched") as nova,
            ThreadPoolExecutor(1) as pool,
        ):
            waiting = pool.submit(host.ensure, image)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert nova.stdin is not None
            nova.stdin.close()
            result = waiting.result(timeout=30)

        assert result.status is Status.EXISTING
        assert result.bytes == 0
        assert place.saw(events.Fetching) == []
        assert [event.path for event in place.saw(events.Adopted)] == [place.entry(image)]


_ASKING = """
    import json, sys, basecache
    host = basecache.open_host([], **json.loads(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    print(host.ensure(sys.argv[2]).status)
"""

_NOVA_FETCHING = """
    import os, sys
    from oslo_concurrency import lockutils
    instances, name, fetched = sys.argv[1:]
    folder = os.path.join(instances, "locks")
    with lockutils.lock(name, "nova-", external=True, lock_path=folder):
        print("held", flush=True)
        sys.stdin.read()
        os.rename(fetched, os.path.join(instances, "_base", name))
"""
