"""Published numbers to compare with, in percent of configured guest memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Published values by number of guests, in percent of configured memory.

    `marker` is the hollow Plotly marker of its points. `memory_mib` is the size of a guest, if
    known.
    """

    name: str
    source: str
    marker: str
    guests: tuple[int, ...]
    shared: tuple[float, ...]
    reclaimed: tuple[float, ...]
    memory_mib: int | None = None


COUNTING = (
    "Published values are from earlier kernels, which counted differently: since Linux 6.12, a "
    "split of a huge page maps its zero-filled parts to the kernel's zero page, which no counter "
    "of KSM sees."
)

PUBLISHED = (
    Published(
        "KSM, 2024",
        "KSM of Linux 6.5 under KVM, 2024: idle Debian 12 guests of 512 MiB, 1000 pages every "
        "20 ms, last interval, one run each.",
        "circle-open",
        tuple(range(1, 11)),
        (19.6, 54.7, 56.2, 58.1, 58.2, 57.5, 57.0, 57.0, 57.0, 58.6),
        (17.8, 36.1, 43.0, 47.3, 49.5, 50.1, 50.7, 51.4, 51.8, 53.8),
        memory_mib=512,
    ),
    Published(
        "VMware ESX, 2002",
        "Waldspurger, Memory Resource Management in VMware ESX Server, OSDI 2002: ten identical "
        "Linux guests, approximate values.",
        "star-open",
        (10,),
        (67.0,),
        (60.0,),
    ),
)
