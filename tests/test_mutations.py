"""A thousand random flips and cuts of files that carry checksums: refused, or the voxels are what they were."""

import nibabel as nib
import numpy as np
import pytest

from medssl.archive import Refusal, open_volume
from medssl.store.layout import Damaged
from medssl.store.shards import read_array, shard_path, write_array


def mutated(content, rng):
    """`content` with one to three bits flipped, or cut short, or both."""
    changed = bytearray(content)
    kind = rng.integers(4)
    if kind < 3:
        for _ in range(kind + 1):
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    if kind == 3 or rng.random() < 0.1:
        del changed[int(rng.integers(len(changed))) :]
    return bytes(changed)


def tissue(rng, shape):
    return (100 * rng.normal(size=shape)).astype(np.int16)


@pytest.mark.slow
def test_five_hundred_compressed_niftis(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "v.nii.gz"
    affine = np.array([[0.0, -1.5, 0, 3], [1, 0, 0, -4], [0, 0, 2.5, 5], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(tissue(rng, (21, 22, 23)), affine), path)
    content, truth = path.read_bytes(), open_volume(path)
    refused = 0
    for _ in range(500):
        path.write_bytes(mutated(content, rng))
        try:
            volume = open_volume(path)
        except Refusal:
            refused += 1
            continue
        assert np.array_equal(volume.voxels, truth.voxels)
        assert np.array_equal(volume.affine, truth.affine)
    assert refused > 480  # the rest hit the name, the date or the system that gzip notes down


@pytest.mark.slow
def test_five_hundred_shards(tmp_path):
    rng = np.random.default_rng(1)
    truth = tissue(rng, (1, 40, 50, 33)).astype(np.float16)
    write_array(tmp_path / "a", truth)
    files = [shard_path(tmp_path / "a"), tmp_path / "a" / "zarr.json"]
    contents = [path.read_bytes() for path in files]
    refused = 0
    for n in range(500):
        which = int(n % 10 == 0)
        files[which].write_bytes(mutated(contents[which], rng))
        try:
            assert np.array_equal(read_array(tmp_path / "a"), truth)
        except Damaged:
            refused += 1
        files[which].write_bytes(contents[which])
    assert refused > 490


@pytest.mark.slow
def test_no_cut_of_an_uncompressed_nifti_goes_unseen(tmp_path):
    """Its bits have no checksum: those are compared with the one that was taken when it was indexed."""
    rng = np.random.default_rng(2)
    path = tmp_path / "v.nii"
    nib.save(nib.Nifti1Image(tissue(rng, (11, 12, 13)), np.eye(4)), path)
    content = path.read_bytes()
    for length in rng.integers(0, len(content), 200):
        path.write_bytes(content[:length])
        with pytest.raises(Refusal):
            open_volume(path)
