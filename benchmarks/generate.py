"""Corpora, made once from their recipes and found again by the next run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus, Image
from benchmarks.layers import Written, write_layer
from benchmarks.recipes import RECIPES, Layer, Recipe
from benchmarks.store import DistributionStore
from syncer.oci.descriptor import OCI_INDEX, OCI_MANIFEST

_VERSION = 1
"""Raised when recipes or layers change, so that no run takes an older corpus for its own."""

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def prepare(name: str, cache: Path) -> Corpus:
    """The corpus of that name, from ``cache`` if a run has made it there before."""
    directory = cache / f"{name}-{_VERSION}"
    if not (directory / "corpus.json").exists():
        shutil.rmtree(directory, ignore_errors=True)
        _make(name, list(RECIPES[name]()), directory)
        os.sync()  # or the first measurement pays for writing the corpus out
    return Corpus.load(directory)


def _make(name: str, recipes: list[Recipe], directory: Path) -> None:
    store = DistributionStore(directory / "registry")
    layers = dict.fromkeys(layer for recipe in recipes for content in recipe.platforms.values() for layer in content)
    written = dict(_write_layers(name, layers, store, directory))
    images = [_store_image(recipe, written, store) for recipe in recipes]
    document = {"name": name, "images": [asdict(image) for image in images]}
    partial = directory / "corpus.json.partial"
    partial.write_text(json.dumps(document))
    partial.rename(directory / "corpus.json")  # last: a corpus that was cut short is made again


def _write_layers(
    name: str, layers: Iterable[Layer], store: DistributionStore, directory: Path
) -> Iterator[tuple[Layer, Written]]:
    def write(number: int, layer: Layer) -> tuple[Layer, Written]:
        path = directory / f"layer-{number}.partial"
        written = write_layer(layer, name, path)
        store.adopt(path, written.digest)
        return layer, written

    directory.mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(write, number, layer) for number, layer in enumerate(layers)]
        for job in jobs:
            yield job.result()


def _store_image(recipe: Recipe, written: Mapping[Layer, Written], store: DistributionStore) -> Image:
    blobs: dict[str, int] = {}
    configs, children = [], []
    for architecture, layers in recipe.platforms.items():
        platform = {"architecture": architecture, "os": "linux"}
        content = [written[layer] for layer in layers]
        config = _store_config(recipe, platform, content, store)
        configs.append(config["digest"])
        described = [_descriptor(_LAYER, layer.digest, layer.size) for layer in content]
        for child in (config, *described):
            blobs[child["digest"]] = child["size"]
            store.link_blob(recipe.repository, child["digest"])
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": described}
        children.append({**_store_document(manifest, store), "platform": platform})
    root = children[0]
    manifests = tuple(child["digest"] for child in children[1:] and children)
    if manifests:
        for digest in manifests:
            store.link_manifest(recipe.repository, digest)
        root = _store_document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}, store)
    store.link_manifest(recipe.repository, root["digest"], recipe.tag)
    return Image(
        repository=recipe.repository,
        tag=recipe.tag,
        media_type=root["mediaType"],
        digest=root["digest"],
        size=root["size"],
        manifests=manifests,
        configs=tuple(configs),
        blobs=blobs,
    )


def _store_config(
    recipe: Recipe, platform: Mapping[str, str], layers: Iterable[Written], store: DistributionStore
) -> dict[str, Any]:
    config = _json(
        {
            **platform,
            "config": {"Labels": {"image": f"{recipe.repository}:{recipe.tag}"}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )
    return _descriptor(_CONFIG, store.add(config), len(config))


def _store_document(document: dict[str, Any], store: DistributionStore) -> dict[str, Any]:
    content = _json(document)
    return _descriptor(document["mediaType"], store.add(content), len(content))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
