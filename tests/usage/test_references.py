"""What instances refer to, counted as Nova's cache manager counted it, and what it forgot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache.cache.plan import ImageUse
from basecache.model import BlockDeviceMapping, Instance
from basecache.usage.references import count_references

VM = Instance(uuid="u1", name="vm1", host="h1", image_ref="i")


def swap(size: int) -> BlockDeviceMapping:
    return BlockDeviceMapping("swap", size)


def ephemeral(size: int) -> BlockDeviceMapping:
    return BlockDeviceMapping("ephemeral", size)


def test_here_and_elsewhere() -> None:
    instances = [
        VM,
        replace(VM, uuid="u2", name="vm2", host="h2"),
        replace(VM, uuid="u3", name=None, host="h1"),
        replace(VM, uuid="u4", name="vm4", host=None),
        replace(VM, uuid="u5", name="vm5", image_ref="other"),
    ]
    found = count_references(instances, "h1")
    assert found.images == {
        "i": ImageUse(local=2, remote=2, instances=("vm1", "vm2", "u3", "vm4")),
        "other": ImageUse(local=1, remote=0, instances=("vm5",)),
    }
    assert found.popularity == {"i": 4, "other": 1}


def test_kernel_and_ramdisk_count_like_the_image() -> None:
    vm = replace(VM, kernel_id="k", ramdisk_id="i")
    found = count_references([vm], "h1")
    assert found.popularity == {"i": 2, "k": 1}
    assert found.images["i"] == ImageUse(2, 0, ("vm1", "vm1"))
    assert found.images["k"] == ImageUse(1, 0, ("vm1",))


def test_an_instance_without_images_refers_to_none() -> None:
    found = count_references([Instance(uuid="u1", host="h1")], "h1")
    assert (found.images, found.popularity, found.generated) == ({}, {}, {})
    assert found.folders == {"u1"}


def test_its_folder_may_have_either_name() -> None:
    assert count_references([VM], "h1").folders == {"vm1", "u1"}


@pytest.mark.parametrize(
    ("task_state", "vm_state"),
    [
        ("resize_prep", None),
        ("resize_migrating", "active"),
        ("resize_migrated", "active"),
        ("resize_finish", "stopped"),
        (None, "resized"),
        ("powering-off", "resized"),
    ],
)
def test_while_it_is_resized_there_may_be_the_folder_to_go_back_to(
    task_state: str | None, vm_state: str | None
) -> None:
    vm = replace(VM, task_state=task_state, vm_state=vm_state)
    assert count_references([vm], "h1").folders == {"vm1", "u1", "vm1_resize", "u1_resize"}


@pytest.mark.parametrize("task_state", ["resize_reverting", "migrating", "resize", "spawning"])
def test_in_other_states_there_is_none(task_state: str) -> None:
    vm = replace(VM, task_state=task_state, vm_state="active")
    assert count_references([vm], "h1").folders == {"vm1", "u1"}


def test_swap_and_every_ephemeral_disk_count() -> None:
    vm = replace(VM, bdms=(swap(512), ephemeral(20), ephemeral(30), ephemeral(20)))
    other = replace(VM, uuid="u2", name="vm2", bdms=(ephemeral(30), swap(0), ephemeral(0)))
    found = count_references([vm, other], "h1")
    assert found.generated == {
        "swap_512": ("vm1",),
        "ephemeral_20": ("vm1",),
        "ephemeral_30": ("vm1", "vm2"),
    }


def test_the_deleted_do_not_count_and_the_soft_deleted_do() -> None:
    whole = replace(VM, kernel_id="k", bdms=(swap(512),))
    gone = count_references([replace(whole, vm_state="deleted")], "h1")
    assert (gone.images, gone.generated, gone.popularity) == ({}, {}, {})
    assert gone.folders == frozenset()
    for state in ("soft-delete", "soft_deleted", "error", "building", "shelved_offloaded"):
        assert count_references([replace(whole, vm_state=state)], "h1").images == {
            "i": ImageUse(1, 0, ("vm1",)),
            "k": ImageUse(1, 0, ("vm1",)),
        }


instances = st.builds(
    Instance,
    uuid=st.text(min_size=1, max_size=3),
    name=st.none() | st.text(min_size=1, max_size=3),
    host=st.none() | st.sampled_from(("h1", "h2")),
    vm_state=st.sampled_from((None, "active", "deleted", "resized", "soft-delete")),
    image_ref=st.none() | st.sampled_from("abc"),
    kernel_id=st.none() | st.sampled_from("abc"),
    ramdisk_id=st.none() | st.sampled_from("abc"),
    bdms=st.lists(
        st.builds(BlockDeviceMapping, st.sampled_from(("swap", "ephemeral")), st.integers(0, 3))
    ).map(tuple),
)


@given(st.lists(instances))
def test_counts_add_up(given_instances: list[Instance]) -> None:
    found = count_references(given_instances, "h1")
    living = [i for i in given_instances if i.vm_state != "deleted"]
    referred = [x for i in living for x in (i.image_ref, i.kernel_id, i.ramdisk_id) if x]
    assert found.popularity == {image: referred.count(image) for image in set(referred)}
    for image, use in found.images.items():
        assert use.local + use.remote == len(use.instances) == found.popularity[image]
    assert {i.uuid for i in living} <= found.folders
    for instance in living:
        for bdm in instance.bdms:
            stem = f"{bdm.kind}_{bdm.size}"
            assert (instance.label in found.generated.get(stem, ())) == (bdm.size > 0)


@given(st.lists(instances), st.lists(instances))
def test_more_instances_never_take_a_reference_away(
    some: list[Instance], more: list[Instance]
) -> None:
    fewer, all_ = count_references(some, "h1"), count_references([*some, *more], "h1")
    assert set(fewer.images) <= set(all_.images)
    assert set(fewer.generated) <= set(all_.generated)
    assert fewer.folders <= all_.folders


def test_each_instance_is_looked_at_once() -> None:
    """Counting is linear: a hundred thousand instances of one image are no matter."""
    looked_at = 0

    def many() -> Iterator[Instance]:
        nonlocal looked_at
        for number in range(20_000):
            looked_at += 1
            yield replace(VM, uuid=str(number), bdms=(ephemeral(number % 7),))

    found = count_references(many(), "h1")
    assert looked_at == found.images["i"].local == 20_000
