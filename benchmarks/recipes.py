"""The images that each corpus is made of, as values: what is shared, and how large it is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

KB = 1024
MB = 1024 * KB


class Layer(NamedTuple):
    """A layer's name, from which its bytes follow, and how many bytes the file in it has."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image: the layers of each of its platforms."""

    repository: str
    tag: str
    platforms: Mapping[str, tuple[Layer, ...]]


def fleet() -> Iterator[Recipe]:
    """200 images of 60 repositories over 12 base stacks; every fifth image is for two platforms.

    Measured over real fleets, many small layers and few large ones: a median near half a megabyte.
    """
    chance = random.Random("fleet-1")
    stacks = [_stack(chance, number) for number in range(12)]
    for number in range(200):
        place = number if number < 60 else chance.randrange(60)
        architectures = ("amd64", "arm64") if number % 5 == 0 else ("amd64",)
        platforms = {
            architecture: (
                *stacks[place % 12],  # the platforms share their base, as images of scripts and data do
                *(
                    Layer(f"{number}/{architecture}/{depth}", _own_size(chance))
                    for depth in range(chance.choice((3, 4, 4, 4)))
                ),
            )
            for architecture in architectures
        }
        yield Recipe(f"team-{place % 7}/service-{place}", f"v1.{number}", platforms)


def night() -> Iterator[Recipe]:
    """The first 120 images of a fleet: what a job at night keeps fresh."""
    yield from itertools.islice(fleet(), 120)


def big() -> Iterator[Recipe]:
    """8 images of one layer of 256 MB: what a byte costs."""
    for number in range(8):
        yield Recipe(f"models/model-{number}", "v1", {"amd64": (Layer(str(number), 256 * MB),)})


def huge() -> Iterator[Recipe]:
    """One image of one layer of 1 GB, as models are: what several connections bring."""
    yield Recipe("models/huge", "v1", {"amd64": (Layer("huge", 1000 * MB),)})


def small() -> Iterator[Recipe]:
    """300 images of three layers of 8 KB, none shared: what a request costs."""
    for number in range(300):
        layers = tuple(Layer(f"{number}/{depth}", 8 * KB) for depth in range(3))
        yield Recipe(f"small/app-{number % 50}", f"v{number}", {"amd64": layers})


def many(images: int = 10_000) -> Iterator[Recipe]:
    """``images`` images of tiny layers that most of them share: how cost grows with their number."""
    for number in range(images):
        shared = (Layer(f"base-{number % 40}", 2 * KB), Layer(f"common-{number % 400}", KB))
        yield Recipe(f"many/app-{number % 500}", f"v{number}", {"amd64": (*shared, Layer(f"own-{number // 10}", 512))})


def edge() -> Iterator[Recipe]:
    """60 images over 4 base stacks, 70 MB: what a site at the edge gets in a night."""
    chance = random.Random("edge-1")
    stacks = [
        tuple(Layer(f"stack-{number}/{depth}", size) for depth, size in enumerate((6 * MB, 2 * MB, 64 * KB)))
        for number in range(4)
    ]
    for number in range(60):
        own = tuple(Layer(f"{number}/{depth}", chance.randrange(8 * KB, 512 * KB)) for depth in range(2))
        yield Recipe(f"edge/app-{number}", f"v{number}", {"amd64": (*stacks[number % 4], *own)})


def site() -> Iterator[Recipe]:
    """40 images of two layers of 4 KB over one base: what a simulated site gets."""
    for number in range(40):
        layers = (Layer("base", 64 * KB), *(Layer(f"{number}/{depth}", 4 * KB) for depth in range(2)))
        yield Recipe(f"site/app-{number}", "v1", {"amd64": layers})


def tiny() -> Iterator[Recipe]:
    """12 images, two of them for two platforms: enough to see that everything works."""
    base = (Layer("base", 200 * KB), Layer("certificates", KB))
    for number in range(12):
        platforms = {"amd64": (*base, Layer(f"{number}/amd64", 20 * KB))}
        if number % 6 == 0:
            platforms["arm64"] = (*base, Layer(f"{number}/arm64", 20 * KB))
        yield Recipe(f"tiny/app-{number % 5}", f"v{number}", platforms)


RECIPES: dict[str, Callable[[], Iterator[Recipe]]] = {
    "fleet": fleet,
    "night": night,
    "big": big,
    "huge": huge,
    "small": small,
    "many": many,
    "many-1000": lambda: many(1000),
    "many-3000": lambda: many(3000),
    "edge": edge,
    "site": site,
    "tiny": tiny,
}
"""By the name on the command line."""


def _stack(chance: random.Random, number: int) -> tuple[Layer, ...]:
    """What an operating system brings along: one large layer, and one or two on top."""
    sizes = (chance.randrange(12 * MB, 34 * MB), chance.randrange(MB, 4 * MB), chance.randrange(2 * KB, 300 * KB))
    return tuple(Layer(f"stack-{number}/{depth}", size) for depth, size in enumerate(sizes[: 2 + number % 2]))


def _own_size(chance: random.Random) -> int:
    """Bytes of a layer: whole numbers only, so that every machine makes the same corpus."""
    octaves = (12, 10, 10, 10, 12, 12, 16, 22, 34, 50, 38, 18, 9, 4, 1, 1, 1)  # weight of 1-2 KB, 2-4 KB, … 64-80 MB
    octave = chance.choices(range(10, 27), octaves)[0]
    return min(chance.randrange(1 << octave, 2 << octave), 80 * MB)
