"""Use is the union of all that is said: no provider's word takes away another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from basecache import errors
from basecache.agent.gather import gather
from basecache.agent.parts import Parts
from basecache.cache import sharers
from basecache.cache.layout import original_name
from basecache.cache.store import Store
from basecache.model import Instance
from basecache.usage import Report
from basecache.usage.folder import FolderUsage
from tests.usage.disks import JUNK_HEADER, Stand, id_of


@dataclass(frozen=True)
class Says:
    """A provider that says what it is given to say."""

    instances: tuple[Instance, ...] = ()
    hosts: frozenset[str] | None = None
    name: str = "a provider"

    def collect(self) -> Report:
        return Report(self.name, self.instances, self.hosts)


@dataclass(frozen=True)
class Fails:
    name: str = "a provider that is down"

    def collect(self) -> Report:
        raise errors.EvidenceMissing((f"{self.name}: no answer",))


def parts_of(stand: Stand, *providers: object, set_aside: tuple[Path, ...] = ()) -> Parts:
    return Parts(
        Store(stand.layout),
        "h1",
        providers=providers,  # type: ignore[arg-type]
        set_aside=set_aside,
        emit=stand.seen.append,
    )


VM = Instance(uuid="u", host="h1", image_ref="one")


@pytest.mark.parametrize(
    "other",
    [
        Instance(uuid="u", host="h1", image_ref="two"),
        Instance(uuid="u", host="h2", image_ref="two", vm_state="active"),
    ],
)
def test_where_two_differ_on_one_instance_both_count(stand: Stand, other: Instance) -> None:
    for says in ((Says((VM, other)),), (Says((VM,)), Says((other,)))):
        assert set(gather(parts_of(stand, *says)).facts.use.images) == {"one", "two"}


def test_deleted_by_one_word_and_there_by_another_counts(stand: Stand) -> None:
    deleted = Instance(uuid="u", host="h1", image_ref="one", vm_state="deleted")
    for says in ((Says((deleted,)), Says((VM,))), (Says((VM,)), Says((deleted,)))):
        assert set(gather(parts_of(stand, *says)).facts.use.images) == {"one"}


def test_the_same_said_twice_counts_once(stand: Stand) -> None:
    gathered = gather(parts_of(stand, Says((VM, VM)), Says((VM,))))
    assert gathered.references.popularity == {"one": 1}


def test_a_provider_that_fails_is_missing_evidence_and_the_others_still_count(
    stand: Stand,
) -> None:
    facts = gather(parts_of(stand, Fails(), Says((VM,)))).facts
    assert set(facts.use.images) == {"one"}
    assert facts.missing == ("a provider that is down: no answer",)


def test_without_any_provider_evidence_is_missing(stand: Stand) -> None:
    (missing,) = gather(parts_of(stand)).facts.missing
    assert "no usage provider" in missing


def test_a_host_that_nobody_speaks_for_is_missing_evidence(stand: Stand) -> None:
    for host in ("h1", "h2"):
        sharers.register(stand.layout, host)
    folder = FolderUsage(stand.layout, "h1")
    (missing,) = gather(parts_of(stand, folder)).facts.missing
    assert "h2" in missing
    both = Says(hosts=frozenset({"h2"}))
    assert gather(parts_of(stand, folder, both)).facts.missing == ()
    assert gather(parts_of(stand, Says())).facts.missing == ()
    sharers.retire(stand.layout, "h2")
    assert gather(parts_of(stand, folder)).facts.missing == ()


def test_a_damaged_registry_is_missing_evidence(stand: Stand) -> None:
    stand.layout.registry.write_bytes(b"")
    (missing,) = gather(parts_of(stand, Says())).facts.missing
    assert str(stand.layout.registry) in missing


def test_the_folder_speaks_for_this_host_alone(stand: Stand) -> None:
    report = FolderUsage(stand.layout, "h1").collect()
    assert (report.instances, report.hosts) == ((), frozenset({"h1"}))
    stand.layout.instances_path.rename(stand.layout.instances_path.with_name("away"))
    with pytest.raises(errors.EvidenceMissing):
        FolderUsage(stand.layout, "h1").collect()


def test_disks_and_records_come_together(stand: Stand) -> None:
    base, other = stand.base(original_name("one")), stand.base(original_name("two"))
    disk = stand.overlay(other)
    use = gather(parts_of(stand, Says((VM,)))).facts.use
    assert set(use.images) == {"one"}
    assert use.files == {id_of(other): (str(disk),)}
    assert id_of(base) not in use.files


def test_a_damaged_base_blocks_until_it_is_set_aside(stand: Stand) -> None:
    base = stand.base()
    base.write_bytes(JUNK_HEADER)
    (missing,) = gather(parts_of(stand, Says())).facts.missing
    assert str(base) in missing
    assert gather(parts_of(stand, Says(), set_aside=(base,))).facts.missing == ()


def test_an_id_that_no_image_can_have_ends_nothing(stand: Stand) -> None:
    odd = Instance(uuid="u", image_ref="\ud800")
    assert set(gather(parts_of(stand, Says((odd,)))).facts.use.images) == {"\ud800"}
