import numpy as np
import torch
from skimage.io import imread

from medssl.pictures import ROWS, save_picture, tile


def test_a_row_for_each_scan_and_a_column_for_each_kind():
    images = {"view": torch.rand(6, 10, 12), "seen": torch.rand(6, 10, 12)}
    assert tile(images).shape == (ROWS * 14, 2 * 12)


def test_stacks_show_a_slice_the_right_way_up_and_oct_a_b_scan():
    stack = torch.zeros(1, 20, 16, 4)
    stack[0, :, 12:, 2] = 1.0  # the front of the patient
    assert tile({"view": stack})[1:5, 1:-1].mean() > 200
    scan = torch.zeros(1, 20, 4, 16)
    scan[0, :, 2, 12:] = 1.0  # deep in the eye
    assert tile({"view": scan})[-5:-1, 1:-1].mean() > 200


def test_label_maps_run_from_black_to_white():
    labels = torch.zeros(2, 8, 8)
    labels[:, 2:4], labels[:, 4:6] = 1, 2
    frame = tile({"view": torch.rand(2, 8, 8), "label found": labels})[1:9, 11:19]
    assert set(np.unique(frame)) == {0, 127, 255}


def test_the_file_is_the_picture(tmp_path):
    picture = save_picture(tmp_path / "a.png", {"view": torch.rand(2, 8, 8)})
    assert np.array_equal(imread(tmp_path / "a.png"), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
