"""A real image service: who may see what, which digest counts, and servers that fail."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from basecache import errors
from basecache.model import Digest
from basecache.sources import ImageQuery
from basecache.sources.glance import GlanceSettings, GlanceSource, translate_query
from basecache.sources.retry import Retrying
from tests.sources.stands import read_all
from tests.support.openstack_api import PASSWORD, REGION, Glance, Keystone
from tests.support.web import Answer, Web

DATA = random.Random(1).randbytes(200_000)


def as_user(keystone: Keystone, user: str, **changes: object) -> GlanceSource:
    credentials = {**keystone.credentials(user), **changes}
    return GlanceSource(GlanceSettings(auth=credentials))  # type: ignore[arg-type]


def at(*servers: str, **settings: object) -> GlanceSource:
    """A source without Keystone at some servers."""
    base = GlanceSettings(api_servers=servers, auth={"auth_type": "none"}, timeout_seconds=2)
    return GlanceSource(dataclasses.replace(base, **settings))  # type: ignore[arg-type]


@pytest.mark.service
class TestWithKeystone:
    def test_private_image_of_another_is_not_found(
        self, glance: Glance, keystone: Keystone
    ) -> None:
        image_id = glance.upload(DATA, visibility="private")
        mine, theirs = as_user(keystone, "demo"), as_user(keystone, "other")
        image = mine.describe(image_id)
        assert read_all(mine, image) == DATA
        with pytest.raises(errors.NotFound):
            theirs.describe(image_id)
        with pytest.raises(errors.NotFound), theirs.open(image):
            pass
        assert image_id not in [image.id for image in theirs.list_images(ImageQuery())]

    def test_wrong_password(self, keystone: Keystone) -> None:
        with pytest.raises(errors.SourceRefused, match="credentials") as caught:
            as_user(keystone, "demo", password="wrong").list_images(ImageQuery())
        assert not caught.value.retryable

    def test_options_that_are_missing_or_unknown(self, keystone: Keystone) -> None:
        with pytest.raises(errors.ConfigError, match="colour"):
            as_user(keystone, "demo", colour="blue").list_images(ImageQuery())
        source = GlanceSource(GlanceSettings(auth={"auth_type": "password"}))
        with pytest.raises(errors.ConfigError, match="auth_url"):
            source.list_images(ImageQuery())
        source = GlanceSource(GlanceSettings(auth={"auth_type": "telepathy"}))
        with pytest.raises(errors.ConfigError, match="telepathy"):
            source.list_images(ImageQuery())

    def test_region_without_an_image_service(self, keystone: Keystone) -> None:
        settings = GlanceSettings(auth=keystone.credentials("demo"), region_name="Atlantis")
        with pytest.raises(errors.SourceRefused, match="Atlantis"):
            GlanceSource(settings).list_images(ImageQuery())

    def test_keystone_that_is_away(self, web: Web) -> None:
        url = f"{web.root}/v3"
        web.stop()
        auth = {**Keystone(url).credentials("demo")}
        with pytest.raises(errors.SourceUnreachable) as caught:
            GlanceSource(GlanceSettings(auth=auth, num_retries=0)).list_images(ImageQuery())
        assert caught.value.retryable

    def test_clouds_yaml(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glance: Glance, keystone: Keystone
    ) -> None:
        image_id = glance.upload(DATA)
        auth = keystone.credentials("demo")
        auth.pop("auth_type")
        clouds = tmp_path / "clouds.yaml"  # JSON is YAML
        clouds.write_text(json.dumps({"clouds": {"ours": {"auth": auth, "region_name": REGION}}}))
        source = GlanceSource(GlanceSettings(cloud="ours", clouds_file=clouds))
        assert read_all(source, source.describe(image_id)) == DATA
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
        assert GlanceSource(GlanceSettings(cloud="ours")).describe(image_id).id == image_id
        with pytest.raises(errors.ConfigError, match="theirs"):
            GlanceSource(GlanceSettings(cloud="theirs")).describe(image_id)

    def test_credentials_never_stand_in_a_message(self, keystone: Keystone) -> None:
        source = as_user(keystone, "nobody")
        with pytest.raises(errors.SourceRefused) as caught:
            source.list_images(ImageQuery())
        assert PASSWORD not in str(caught.value)


@pytest.mark.service
class TestWithoutKeystone:
    @pytest.fixture
    def source(self, open_glance: Glance) -> GlanceSource:
        return at(open_glance.url)

    def test_digest_is_the_multihash(self, open_glance: Glance, source: GlanceSource) -> None:
        image = source.describe(open_glance.upload(DATA))
        assert image.digest == Digest("sha512", hashlib.sha512(DATA).hexdigest())

    def test_md5_only_where_there_is_nothing_else(
        self, open_glance: Glance, source: GlanceSource
    ) -> None:
        image_id = open_glance.upload(DATA)
        open_glance.forget_hash(image_id)
        digest = source.describe(image_id).digest
        assert digest == Digest("md5", hashlib.md5(DATA).hexdigest())

    def test_queued_image(self, open_glance: Glance, source: GlanceSource) -> None:
        image = source.describe(open_glance.upload(None))
        assert (image.status, image.digest, image.size_bytes) == ("queued", None, None)
        with pytest.raises(errors.SourceRefused, match="queued"), source.open(image):
            pass

    def test_deactivated_image(self, open_glance: Glance, source: GlanceSource) -> None:
        image_id = open_glance.upload(DATA)
        open_glance.deactivate(image_id)
        image = source.describe(image_id)
        with pytest.raises(errors.SourceRefused, match="deactivated"), source.open(image):
            pass

    def test_image_deleted_after_it_was_described(
        self, open_glance: Glance, source: GlanceSource
    ) -> None:
        image_id = open_glance.upload(DATA)
        image = source.describe(image_id)
        open_glance.delete(image_id)
        with pytest.raises(errors.NotFound):
            source.describe(image_id)
        with pytest.raises(errors.NotFound), source.open(image):
            pass

    def test_properties(self, open_glance: Glance, source: GlanceSource) -> None:
        image = source.describe(
            open_glance.upload(DATA, os_distro="debian", min_disk=2, min_ram=64)
        )
        assert image.properties == {"os_distro": "debian"}
        assert (image.min_disk_gib, image.min_ram_mib, image.container_format) == (2, 64, "bare")

    @pytest.mark.parametrize("image_id", ["..", "a/b", "", "a\nb", "x" * 10_000])
    def test_ids_that_are_none(self, source: GlanceSource, image_id: str) -> None:
        with pytest.raises(errors.BadName):
            source.describe(image_id)

    @pytest.mark.parametrize("image_id", ["no uuid", "?limit=1", "%2e%2e", "ü"])
    def test_ids_that_no_image_has(self, source: GlanceSource, image_id: str) -> None:
        with pytest.raises(errors.NotFound):
            source.describe(image_id)

    def test_more_images_than_one_page(self, open_glance: Glance, source: GlanceSource) -> None:
        """Without a limit Glance answers 25 and a link to the rest."""
        batch = uuid.uuid4().hex
        ids = {open_glance.upload(None, batch=batch) for _ in range(27)}
        listed = source.list_images(ImageQuery(properties={"batch": batch}))
        assert {image.id for image in listed} == ids

    @pytest.mark.parametrize("suffix", ["", "/", "/v2", "/v2.9/"])
    def test_address_with_or_without_version(self, open_glance: Glance, suffix: str) -> None:
        image_id = open_glance.upload(DATA)
        assert at(open_glance.url + suffix).describe(image_id).id == image_id

    def test_dead_servers_are_passed_over(self, open_glance: Glance, web: Web) -> None:
        image_id = open_glance.upload(DATA)
        web.put(f"/v2/images/{image_id}", Answer(status=503))
        web.put(f"/v2/images/{image_id}/file", Answer(status=500))
        source = at("http://127.0.0.1:9", web.root, open_glance.url, num_retries=2)
        for _ in range(8):  # from whichever it starts
            assert read_all(source, source.describe(image_id)) == DATA


class TestServersThatFail:
    """Against a web server that speaks the image API as badly as the test wants."""

    ID = "6d9d2f4e-0000-4000-8000-000000000000"

    @pytest.fixture
    def facts(self, web: Web) -> Iterator[Answer]:
        told = {"id": self.ID, "name": "n", "status": "active", "size": len(DATA)}
        answer = Answer(json.dumps(told).encode())
        web.put(f"/v2/images/{self.ID}", answer)
        yield answer

    def test_number_of_attempts(self, web: Web, facts: Answer) -> None:
        path = f"/v2/images/{self.ID}"
        web.put(path, Answer(status=503))
        with pytest.raises(errors.SourceUnreachable, match="503"):
            at(web.root, num_retries=2).describe(self.ID)
        assert len(web.asked(path)) == 3

    def test_error_then_fine(self, web: Web, facts: Answer) -> None:
        web.put(f"/v2/images/{self.ID}", Answer(status=500), facts)
        assert at(web.root, num_retries=1).describe(self.ID).name == "n"

    @pytest.mark.parametrize("status", [400, 401, 409, 302])
    def test_final_answers_are_not_asked_again(self, web: Web, status: int) -> None:
        path = f"/v2/images/{self.ID}"
        web.put(path, Answer(status=status, headers={"Location": "/elsewhere"}))
        with pytest.raises(errors.SourceRefused, match=str(status)):
            at(web.root).describe(self.ID)
        assert len(web.requests) == 1

    @pytest.mark.parametrize(
        "body", [b"<html>", b"[]", b"{}", b'{"id": "a/b", "status": "active"}']
    )
    def test_what_does_not_speak_the_api(self, web: Web, body: bytes) -> None:
        web.put(f"/v2/images/{self.ID}", Answer(body))
        with pytest.raises((errors.SourceRefused, errors.BadName)):
            at(web.root).describe(self.ID)

    def test_stream_that_breaks_is_resumed(self, web: Web, facts: Answer) -> None:
        path = f"/v2/images/{self.ID}/file"
        whole = Answer(DATA)
        web.put(path, dataclasses.replace(whole, cut_after=60_000), Answer(status=502), whole)
        source = Retrying(at(web.root), attempts=2, first_wait_seconds=0.01)
        assert read_all(source, source.describe(self.ID)) == DATA
        assert web.bytes_sent[path] == len(DATA)
        assert web.asked(path)[-1].headers["range"] == "bytes=60000-"

    def test_stream_that_stalls(self, web: Web, facts: Answer) -> None:
        web.put(f"/v2/images/{self.ID}/file", Answer(DATA, cut_after=1000, stall=True))
        source = at(web.root, timeout_seconds=0.5)
        with pytest.raises(errors.SourceInterrupted, match="stalled"):
            read_all(source, source.describe(self.ID))

    def test_image_without_data(self, web: Web, facts: Answer) -> None:
        web.put(f"/v2/images/{self.ID}/file", Answer(status=204))
        source = at(web.root)
        with pytest.raises(errors.SourceRefused, match="no data"):
            read_all(source, source.describe(self.ID))


def test_property_that_the_api_would_take_for_something_else() -> None:
    with pytest.raises(errors.UsageError, match="sort_key"):
        translate_query(ImageQuery(properties={"sort_key": "x"}))


def test_no_credentials_and_no_servers() -> None:
    with pytest.raises(errors.ConfigError, match="api_servers"):
        GlanceSource(GlanceSettings()).describe("x")
