"""What instances refer to, counted. Pure.

Counts are per reference, as Nova's cache manager counted: an instance whose image and kernel are
one image counts twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from basecache.cache import layout
from basecache.cache.plan import ImageUse
from basecache.model import Instance

# The folders <name>_resize and <uuid>_resize hold the disk a resize may be reverted to.
RESIZE_TASKS = frozenset({"resize_prep", "resize_migrating", "resize_migrated", "resize_finish"})
RESIZED_VM = "resized"
DELETED_VM = "deleted"


@dataclass(frozen=True, slots=True)
class References:
    """``images`` by image id, ``generated`` by template stem, ``popularity`` by image id.

    ``folders`` are the names an instance's folder may have, the historical ones too.
    """

    images: dict[str, ImageUse]
    generated: dict[str, tuple[str, ...]]
    popularity: dict[str, int]
    folders: frozenset[str]


def count_references(instances: Iterable[Instance], host: str) -> References:
    """Everything ``instances`` refer to; local is what ``host`` runs. Deleted ones do not count."""
    users: defaultdict[str, list[str]] = defaultdict(list)
    local: Counter[str] = Counter()
    generated: defaultdict[str, list[str]] = defaultdict(list)
    folders: set[str] = set()
    for instance in instances:
        if instance.vm_state == DELETED_VM:
            continue
        folders |= folder_names(instance)
        for image in (instance.image_ref, instance.kernel_id, instance.ramdisk_id):
            if image:
                users[image].append(instance.label)
                local[image] += instance.host == host
        for stem in _generated_stems(instance):
            generated[stem].append(instance.label)
    return References(
        images={i: ImageUse(local[i], len(u) - local[i], tuple(u)) for i, u in users.items()},
        generated={stem: tuple(labels) for stem, labels in generated.items()},
        popularity={image: len(labels) for image, labels in users.items()},
        folders=frozenset(folders),
    )


def folder_names(instance: Instance) -> set[str]:
    """The names under which an instance may have a folder, now and in older Novas."""
    names = {name for name in (instance.name, instance.uuid) if name}
    if instance.task_state in RESIZE_TASKS or instance.vm_state == RESIZED_VM:
        names |= {name + layout.RESIZE_SUFFIX for name in names}
    return names


def _generated_stems(instance: Instance) -> set[str]:
    return {
        layout.swap_name(bdm.size) if bdm.kind == "swap" else f"ephemeral_{bdm.size}"
        for bdm in instance.bdms
        if bdm.size
    }
