"""Arrays on disk: what comes back is what went in, or an error; zarr-python agrees."""

import json
import pickle
import shutil

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medssl.store import shards
from medssl.store.layout import CHECKSUM, DTYPES, Damaged, _header_crc
from medssl.store.shards import read_array, shard_path, write_array

SHAPES = [(1, 40, 70, 33), (2, 5, 64, 1), (1, 256, 256, 1), (3, 32, 31, 65)]


def some_array(shape, dtype=np.float16, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 20).astype(dtype)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("array") / "image"
    array = some_array(request.param)
    write_array(folder, array)
    return folder, array


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_comes_back(tmp_path, dtype):
    array = some_array((2, 33, 4, 40), "int32").astype(dtype)
    write_array(tmp_path / "a", array)
    back = read_array(tmp_path / "a")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert np.array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], array)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_box_equals_what_zarr_reads(written, data):
    folder, array = written
    start = [data.draw(st.integers(0, n)) for n in array.shape[1:]]
    stop = [data.draw(st.integers(a, n)) for a, n in zip(start, array.shape[1:], strict=True)]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    ours = read_array(folder, start, stop)
    assert np.array_equal(ours, array[:, *box])
    if ours.size:
        assert np.array_equal(ours, zarr.open_array(folder, mode="r")[:, *box])


def test_the_format_is_what_the_design_says(tmp_path):
    write_array(tmp_path / "a", some_array((1, 40, 70, 20)))
    header = json.loads((tmp_path / "a" / "zarr.json").read_text())
    (sharding,) = header["codecs"]
    inner = sharding["configuration"]
    assert inner["chunk_shape"] == [1, 32, 32, 20]
    assert [codec["name"] for codec in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
    blosc = inner["codecs"][1]["configuration"]
    assert (blosc["cname"], blosc["shuffle"]) == ("lz4", "bitshuffle")
    assert [codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"]
    assert sorted(p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*") if p.is_file()) == [
        "c/0/0/0/0",
        "zarr.json",
    ]


def test_an_array_of_zeros_has_a_file_too(tmp_path):
    zeros = np.zeros((1, 40, 40, 40), np.uint8)
    write_array(tmp_path / "a", zeros)
    assert np.array_equal(read_array(tmp_path / "a"), zeros)
    shard_path(tmp_path / "a").unlink()
    with pytest.raises(Damaged, match="not there"):
        read_array(tmp_path / "a")


def test_a_chunk_that_zarr_left_out_is_the_fill_value(tmp_path):
    """Another writer may leave out chunks that hold only the fill value."""
    array = np.zeros((1, 40, 40, 40), np.float16)
    array[0, :20, :20, :20] = 3
    write_array(tmp_path / "a", array)
    header = (tmp_path / "a" / "zarr.json").read_text()
    sparse = zarr.open_array(tmp_path / "a", mode="r+", config={"write_empty_chunks": False})
    sparse[:] = array
    (tmp_path / "a" / "zarr.json").write_text(header)
    index = np.frombuffer(shard_path(tmp_path / "a").read_bytes()[-(16 * 8 + 4) : -4], "<u8")
    assert (index == shards.ABSENT).sum() == 14
    assert np.array_equal(read_array(tmp_path / "a"), array)
    assert np.array_equal(read_array(tmp_path / "a", (35, 35, 35), (40, 40, 40)), array[:, 35:, 35:, 35:])


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path, rng):
    folder, array = tmp_path / "a", some_array((1, 40, 40, 40))
    write_array(folder, array)
    files = [shard_path(folder), folder / "zarr.json"]
    found = 0
    for number in range(60):
        path = files[number % 3 == 0]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(bad))
        try:
            assert np.array_equal(read_array(folder), array)
        except Damaged:
            found += 1
        path.write_bytes(good)
    assert found >= 40 + 10  # all of the shard's, most of the header's (white space may turn into other white space)
    assert np.array_equal(read_array(folder), array)


def test_a_file_cut_short_is_found(tmp_path, rng):
    folder = tmp_path / "a"
    write_array(folder, some_array((1, 40, 40, 40)))
    for path in (shard_path(folder), folder / "zarr.json"):
        good = path.read_bytes()
        for keep in [0, 1, 3, len(good) - 1, *rng.integers(0, len(good), 10)]:
            path.write_bytes(good[:keep])
            with pytest.raises(Damaged, match="medssl prepare again"):
                read_array(folder)
        path.write_bytes(good + b"\0")
        with pytest.raises(Damaged):
            read_array(folder)
        path.write_bytes(good)


def test_damage_outside_the_box_does_not_matter_and_inside_names_the_chunk(tmp_path):
    folder, array = tmp_path / "a", some_array((1, 64, 64, 64))
    write_array(folder, array)
    path = shard_path(folder)
    content = bytearray(path.read_bytes())
    index = np.frombuffer(bytes(content[-(16 * 8 + 4) : -4]), "<u8").reshape(1, 2, 2, 2, 2)
    content[int(index[0, 1, 0, 1, 0]) + 100] ^= 1
    path.write_bytes(bytes(content))
    assert np.array_equal(read_array(folder, (0, 0, 0), (32, 64, 64)), array[:, :32])
    with pytest.raises(Damaged, match=r"c/0/0/0/0 chunk \(0, 1, 0, 1\): .* checksum") as caught:
        read_array(folder)
    assert caught.value.code == "CHUNK"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.code, again.chunk) == (str(caught.value), "CHUNK", (0, 1, 0, 1))


@pytest.mark.parametrize(
    "change",
    [
        {"zarr_format": 2},
        {"data_type": "complex128"},
        {"shape": [1, 40, 40, -1]},
        {"shape": [1, 40, 40, 2.5]},
        {"shape": [1, 400, 40, 40]},
        {"shape": [1, 40, 40]},
        {"codecs": []},
        {"codecs": "x"},
        {"chunk_key_encoding": {"name": "v2"}},
        {"storage_transformers": [{"name": "x"}]},
        {"fill_value": "NaN"},
        {"attributes": 3},
    ],
    ids=str,
)
def test_another_layout_is_refused_even_with_a_checksum(tmp_path, change):
    write_array(tmp_path / "a", some_array((1, 40, 40, 40)))
    path = tmp_path / "a" / "zarr.json"
    header = json.loads(path.read_text()) | change
    if isinstance(header["attributes"], dict):
        del header["attributes"][CHECKSUM]
        header["attributes"][CHECKSUM] = _header_crc(header)
    path.write_text(json.dumps(header))
    with pytest.raises(Damaged, match="another layout"):
        read_array(tmp_path / "a")


@pytest.mark.parametrize("dtype", ["float16", "uint8", "bool", "float64"])
@pytest.mark.parametrize("shape", [(1, 100, 70, 33), (3, 40, 8, 130), (1, 1, 1, 1), (2, 300, 64, 5)], ids=str)
def test_the_shard_has_the_bytes_of_zarr_python_s(tmp_path, shape, dtype):
    array = (np.random.default_rng(0).normal(0, 3, shape) * (np.arange(shape[3]) > 20)).astype(dtype)
    write_array(tmp_path / "a", array)
    chunk = (shape[0], *(min(32, n) for n in shape[1:]))
    peer = zarr.create_array(
        tmp_path / "b",
        shape=shape,
        dtype=dtype,
        chunks=chunk,
        shards=tuple(-(-n // c) * c for n, c in zip(shape, chunk, strict=True)),
        compressors=[
            zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=array.dtype.itemsize),
            zarr.codecs.Crc32cCodec(),
        ],
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    peer[:] = array
    assert shard_path(tmp_path / "a").read_bytes() == shard_path(tmp_path / "b").read_bytes()
    assert np.array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], array)


def test_a_header_of_ours_is_needed(tmp_path):
    zarr.create_array(tmp_path / "a", data=some_array((1, 4, 4, 4)))
    with pytest.raises(Damaged, match="another layout"):
        read_array(tmp_path / "a")
    with pytest.raises(Damaged, match="not there"):
        read_array(tmp_path / "b")


@pytest.mark.parametrize(
    "box", [((0, 0, 0), (41, 1, 1)), ((-1, 0, 0), (4, 4, 4)), ((5, 0, 0), (4, 4, 4)), ((0, 0), (1, 1))]
)
def test_a_box_that_leaves_the_grid_is_an_error(tmp_path, box):
    write_array(tmp_path / "a", some_array((1, 40, 40, 40)))
    with pytest.raises(ValueError):
        read_array(tmp_path / "a", *box)


def test_writing_replaces_and_an_error_keeps_what_was_there(tmp_path, monkeypatch):
    old, new = some_array((1, 8, 8, 8)), some_array((1, 40, 9, 9), seed=1)
    first = write_array(tmp_path / "a", old)
    monkeypatch.setattr(shards, "flush", fail)
    with pytest.raises(OSError, match="No space left"):
        write_array(tmp_path / "a", new)
    assert np.array_equal(read_array(tmp_path / "a"), old)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    assert write_array(tmp_path / "a", new) == shards.checksum(new) != first
    assert np.array_equal(read_array(tmp_path / "a"), new)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    write_array(tmp_path / "b", new)
    assert shard_path(tmp_path / "b").read_bytes() == shard_path(tmp_path / "a").read_bytes()


def test_the_checksum_tells_arrays_of_equal_size_apart():
    """Both shards are equally long; a CRC over a file that ends with its own CRC would be the same for both."""
    one, two = np.full((1, 9, 9, 9), 1, np.float16), np.full((1, 9, 9, 9), 2, np.float16)
    assert shards.checksum(one) != shards.checksum(two)
    assert shards.checksum(one) == google_crc32c.value(one.tobytes())
    assert shards.checksum(one.byteswap().view(">f2")) == shards.checksum(one)
    big = some_array((1, 200, 200, 100))
    assert shards.checksum(big[:, ::-1]) == google_crc32c.value(big[:, ::-1].tobytes())


def fail(path):
    raise OSError(28, "No space left on device", str(path))


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros((1, 0, 2, 2)), np.zeros((1, 2, 2, 2), complex)], ids=str)
def test_what_cannot_be_stored_is_said(tmp_path, array):
    with pytest.raises(ValueError, match="cannot be stored"):
        write_array(tmp_path / "a", array)


def test_a_swapped_shard_of_another_shape_is_found(tmp_path):
    write_array(tmp_path / "a", some_array((1, 40, 40, 40)))
    write_array(tmp_path / "b", some_array((1, 70, 40, 40)))
    shutil.copy(shard_path(tmp_path / "b"), shard_path(tmp_path / "a"))
    with pytest.raises(Damaged):
        read_array(tmp_path / "a")
