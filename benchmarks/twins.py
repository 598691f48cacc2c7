"""How alike different images are, and copies: what the bar for near-duplicates stands on.

For a store: the closest pairs of different volumes by thumbnail correlation and by sketch distance, and what copies
(scaled to 90 %, windowed, with noise, compressed as JPEG where flat) reach. `python benchmarks/twins.py STORE`
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import zoom

from medssl.store import open_store
from medssl.store.twins import COPY_CORRELATION, MAXIMUM_DISTANCE, sketch


def copies(image: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """What may become of a copy of (C, I, J, K)."""
    flat = image.shape[-1] == 1
    factors = [1.0, 0.9, 0.9, 1.0 if flat else 0.9]
    low, high = float(image.min()), float(image.max())
    yield "scaled", zoom(image.astype(np.float32), factors, order=1)
    yield "noise", image + rng.normal(0, 0.05 * image.std(), image.shape)
    yield "window", low + (high - low) * ((image.astype(np.float32) - low) / (high - low)) ** 0.8
    yield "crop 2 %", image[:, image.shape[1] // 50 :, image.shape[2] // 50 :]
    if flat:
        from PIL import Image

        scaled = (255 * (image[0, ..., 0].astype(np.float32) - low) / (high - low)).astype(np.uint8)
        Image.fromarray(scaled).save(packed := io.BytesIO(), "jpeg", quality=60)
        yield "jpeg 60", np.asarray(Image.open(packed))[None, ..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--volumes", type=int, default=400, help="at most so many (default 400)")
    options = parser.parse_args()
    store, rng = open_store(options.store), np.random.default_rng(0)
    images = [store.read(name) for name in store.volumes["volume_id"][: options.volumes]]
    sketches = [found for image in images if (found := sketch(image))]
    thumbnails = np.stack([one.thumbnail.ravel() for one in sketches])
    alike = np.triu(thumbnails @ thumbnails.T, 1)
    bits = np.array([one.bits for one in sketches], dtype=np.uint64)
    apart = np.bitwise_count(bits[:, None] ^ bits[None]).astype(int) + 64 * np.tri(len(bits), dtype=int)
    print(f"{len(sketches)} volumes, {len(sketches) * (len(sketches) - 1) // 2} pairs")
    print("different volumes, most alike: ", np.sort(alike.ravel())[-5:].round(4), "correlation")
    print("                  fewest bits apart: ", np.sort(apart.ravel())[:5], "of 64; told as copies:",
          int(((apart <= MAXIMUM_DISTANCE) & (alike >= COPY_CORRELATION)).sum()))  # fmt: skip
    reached: dict[str, list[tuple[float, int]]] = {}
    for image, one in zip(images[:60], sketches[:60], strict=True):
        for name, changed in copies(image, rng):
            other = sketch(changed)
            close = float(np.vdot(one.thumbnail, other.thumbnail)) if other else 0.0
            distance = (one.bits ^ other.bits).bit_count() if other else 64
            reached.setdefault(name, []).append((close, distance))
    for name, found in reached.items():
        close, distance = np.array(found).T
        caught = np.mean((close >= COPY_CORRELATION) & (distance <= MAXIMUM_DISTANCE))
        print(
            f"copies, {name:9}: correlation from {close.min():.4f}, up to {int(distance.max())} bits; {caught:.0%} caught"
        )


if __name__ == "__main__":
    sys.exit(main())
