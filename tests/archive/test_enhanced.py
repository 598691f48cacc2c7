"""Enhanced CT and MR: the frames of one or several files are sorted into volumes like files of one slice each."""

import numpy as np
import pytest

from medssl.archive import open_volume, read_stack
from medssl.archive.finding import find_files
from medssl.archive.headers import read_header
from medssl.archive.series import assemble
from medssl.errors import UserError

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def frame(z, position=None, **groups):
    """A frame at z mm: its place, and what its functional groups say."""
    return ([0.0, 0.0, float(z)] if position is None else position), groups


def echo(ms):
    return {"MREchoSequence": [{"EffectiveEchoTime": float(ms)}]}


def diffusion(b, direction=None):
    way = None if direction is None else [{"DiffusionGradientOrientation": [float(x) for x in direction]}]
    kind = "NONE" if b == 0 else "ISOTROPIC" if direction is None else "DIRECTIONAL"
    told = {"DiffusionBValue": float(b), "DiffusionDirectionality": kind, "DiffusionGradientDirectionSequence": way}
    return {"MRDiffusionSequence": [told]}


def content(**tags):
    return {"FrameContentSequence": [tags]}


def turned(cosines):
    return {"PlaneOrientationSequence": [{"ImageOrientationPatient": cosines}]}


@pytest.fixture
def enhanced(tmp_path, write_frames):
    """Writes a file of frames, in the order given; the values of frame k are 100 k and more. Gives its path."""

    def write(frames, name="a.dcm", kind="enhanced MR", number=0, **tags):
        pixels = np.arange(4 * 6).reshape(1, 4, 6) + 100 * (number + np.arange(len(frames)))[:, None, None]
        return write_frames(
            tmp_path / "s" / name, pixels.astype(np.int16), kind, [place for place, _ in frames],
            each=[groups for _, groups in frames], **tags,
        )  # fmt: skip

    return write


def stacks(path):
    paths = find_files(path).files if path.is_dir() else [path]
    return assemble([read_header(file) for file in paths])


def told(found):
    return sorted((stack.shape[-1:], stack.split_by, stack.status, stack.reason) for stack in found)


def numbers(stack):
    """Which written frames a stack reads, in order along its slices."""
    return [int(value) // 100 for value in read_stack(stack).voxels[0].min((0, 1))]


SERIES = {
    "echo_time": [echo(5), echo(12.5)],
    "b_value": [diffusion(0), diffusion(50), diffusion(800)],
    "direction": [diffusion(800, row) for row in np.eye(3)],
    "image_type": [{"MRImageFrameTypeSequence": [{"FrameType": ["ORIGINAL", "PRIMARY", "DIFFUSION", part]}]}
                   for part in ("NONE", "ADC")],
    "component": [{"MRImageFrameTypeSequence": [{"ComplexImageComponent": part}]} for part in ("MAGNITUDE", "PHASE")],
    "temporal": [content(TemporalPositionIndex=n) for n in (1, 2, 10)],
    "trigger": [{"CardiacSynchronizationSequence": [{"NominalCardiacTriggerDelayTime": ms}]} for ms in (0.0, 41.5)],
    "trigger offset": [{"TemporalPositionSequence": [{"TemporalPositionTimeOffset": s}]} for s in (0.0, 1.5)],
    "acquisition": [content(FrameAcquisitionNumber=n) for n in (1, 2)],
    "stack": [content(StackID=name) for name in ("1", "2")],
    "time": [content(FrameReferenceDateTime=f"202401011015{n:02d}.25") for n in (1, 2)],
}  # fmt: skip


@pytest.mark.parametrize("name", SERIES)
def test_one_fact_tells_the_volumes_of_a_file_apart(enhanced, name):
    frames = [frame(2.5 * k, **groups) for groups in SERIES[name] for k in range(5)]
    order = np.random.default_rng(3).permutation(len(frames))
    found = stacks(enhanced([frames[n] for n in order]))
    assert told(found) == [((5,), name.removesuffix(" offset"), "ok", "")] * len(SERIES[name])
    written = sorted([order[n] for n in numbers(stack)] for stack in found)
    assert written == [list(range(5 * k, 5 * k + 5)) for k in range(len(SERIES[name]))]
    for stack in found:
        assert stack.affine[2] == pytest.approx([0, 0, 2.5, 0])


def test_three_b_values_with_directions(enhanced):
    kinds = [diffusion(0), *(diffusion(b, row) for b in (500, 1000) for row in np.eye(3)), diffusion(1000)]
    found = stacks(enhanced([frame(3 * k, **kind) for k in range(4) for kind in kinds]))
    assert told(found) == [((4,), "b_value+direction", "ok", "")] * 8
    assert sorted(numbers(stack) for stack in found) == [[n + 8 * k for k in range(4)] for n in range(8)]
    assert sorted(stack.headers[0].b_value for stack in found) == [0, *[500] * 3, *[1000] * 4]
    assert sorted(stack.role for stack in found) == [*[""] * 4, *["hbv"] * 4]


def test_what_a_frame_says_counts_before_what_all_frames_say(enhanced):
    shared = {**turned(CORONAL), "PixelMeasuresSequence": [{"PixelSpacing": [9, 9]}], **echo(99),
              "MRTimingAndRelatedParametersSequence": [{"RepetitionTime": 2000}]}  # fmt: skip
    own = {**turned(AXIAL), "PixelMeasuresSequence": [{"PixelSpacing": [2, 3]}]}
    frames = [frame(k, **own, **echo(ms)) for ms in (5, 10) for k in range(4)]
    found = stacks(enhanced(frames, shared=shared, EchoTime=77, RepetitionTime=7, PixelSpacing=[7, 7]))
    assert told(found) == [((4,), "echo_time", "ok", "")] * 2
    assert sorted(stack.headers[0].echo_time for stack in found) == [5, 10]
    for stack in found:
        assert stack.headers[0].repetition_time == 2000
        assert np.diag(stack.affine)[:3] == pytest.approx([-3, -2, 1])


def test_the_dimension_index_is_not_believed(enhanced):
    places = [6, 0, 4, 2]
    frames = [frame(z, **content(DimensionIndexValues=[1, n + 1], InStackPositionNumber=n + 1))
              for n, z in enumerate(places)]  # fmt: skip
    (stack,) = stacks(enhanced(frames))
    assert numbers(stack) == [1, 3, 2, 0]


def test_stacks_that_continue_each_other_are_one_volume(enhanced):
    frames = [frame(2 * k, **content(StackID="2" if k > 4 else "1")) for k in range(9)]
    assert told(stacks(enhanced(frames))) == [((9,), "", "ok", "")]


def test_stacks_side_by_side_are_volumes_of_their_own(enhanced):
    frames = [frame(2 * k + 31 * part, **content(StackID=str(part))) for part in range(2) for k in range(5)]
    assert told(stacks(enhanced(frames))) == [((5,), "stack", "ok", "")] * 2


def test_a_gap_in_one_stack_is_a_missing_slice(enhanced):
    frames = [frame(z, **content(StackID="1")) for z in (0, 2, 4, 8, 10)]
    assert told(stacks(enhanced(frames))) == [((), "", "excluded", "MISSING_SLICE")]


def test_a_localizer_in_the_file_of_a_volume_is_set_aside(enhanced):
    volume = [frame(2 * k, **turned(AXIAL), **content(StackID="1")) for k in range(9)]
    localizer = [frame(0, (0.0, 10.0 * k, 0.0), **turned(CORONAL), **content(StackID="2")) for k in range(3)]
    path = enhanced(localizer + volume, shared={"PlaneOrientationSequence": None})
    expected = [((), "orientation", "excluded", "LOCALIZER_OR_TOO_FEW"), ((9,), "orientation", "ok", "")]
    assert told(stacks(path)) == expected
    assert open_volume(path).voxels[0, 0, 0].tolist() == [300 + 100 * k for k in range(9)]


def test_every_frame_keeps_its_own_slope(enhanced):
    frames = [
        frame(k, **echo(ms), PixelValueTransformationSequence=[{"RescaleSlope": ms * (k + 1), "RescaleIntercept": k}])
        for k in (2, 0, 3, 1)
        for ms in (5, 10)
    ]
    found = stacks(enhanced(frames))
    first = {stack.headers[0].echo_time: read_stack(stack).voxels[0, 0, 0].tolist() for stack in found}
    assert first == {
        ms: [100 * n * ms * (k + 1) + k for k, n in enumerate(order)]
        for ms, order in ((5, [2, 6, 0, 4]), (10, [3, 7, 1, 5]))
    }


def test_a_frame_without_a_place_is_told_from_the_volume(enhanced):
    frames = [frame(2 * k) for k in range(5)]
    path = enhanced([*frames, frame(0, PlanePositionSequence=[{}])])
    assert told(stacks(path)) == [((), "", "excluded", "BAD_GEOMETRY"), ((5,), "", "ok", "")]


def test_fewer_descriptions_than_frames_are_none(enhanced):
    path = enhanced([frame(2 * k) for k in range(5)], NumberOfFrames=4)
    assert told(stacks(path)) == [((), "", "excluded", "BAD_GEOMETRY")]


def test_what_is_the_same_in_all_frames_is_kept_once(enhanced):
    frames = [frame(2 * k, **echo(5), **content(StackID="1", TemporalPositionIndex=1)) for k in range(300)]
    header = read_header(enhanced(frames))
    assert [name for name, _ in header.varying] == ["position"]
    assert (header.position, header.echo_time, header.stack, header.temporal) == (None, 5, "1", "1")


def test_an_odd_number_in_one_frame_is_flagged_and_missing(tmp_path, enhanced):
    path = enhanced([frame(2 * k) for k in range(5)])
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"0.0\\0.0\\4.0 ", b"0.0\\0.0\\4,0 ").replace(b"0.0\\0.0\\6.0 ", b"0.0\\0.0\\six "))
    header = read_header(path)
    assert header.flags == ("TAG_INVALID:ImagePositionPatient",)
    assert dict(header.varying)["position"] == ((0, 0, 0), (0, 0, 2), (0, 0, 4), None, (0, 0, 8))


def test_files_of_one_frame_each_are_one_volume(tmp_path, enhanced):
    for number, k in enumerate((3, 0, 2, 1)):
        enhanced([frame(2 * k)], f"{number}.dcm", number=number)
    (stack,) = stacks(tmp_path)
    assert numbers(stack) == [1, 3, 2, 0]


def test_frames_of_several_files_lie_between_each_other(tmp_path, enhanced):
    """As some scanners export: the even slices in one file, the odd ones in another."""
    enhanced([frame(2 * k) for k in (0, 4, 2)], "a.dcm")
    enhanced([frame(2 * k) for k in (5, 3, 1)], "b.dcm", number=3)
    (stack,) = stacks(tmp_path)
    assert numbers(stack) == [0, 5, 2, 4, 1, 3]
    assert [(header.path.name, header.frames) for header in stack.headers][:2] == [("a.dcm", (0,)), ("b.dcm", (2,))]
    paths, frames = zip(*[(header.path, header.frames) for header in stack.headers], strict=True)
    assert np.array_equal(open_volume(paths, frames=frames).voxels, read_stack(stack).voxels)


def test_whole_volumes_of_several_files_are_told_apart_by_their_file(tmp_path, enhanced):
    for n in range(3):
        enhanced([frame(2 * k) for k in range(4)], f"{n}.dcm", number=4 * n)
    found = stacks(tmp_path)
    assert told(found) == [((4,), "instance", "ok", "")] * 3
    assert [numbers(stack) for stack in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def parts_of_one(enhanced, offsets=(0, 3, 6), total=3, uid="1.2.3.77", frames=9):
    for part, start in enumerate(offsets):
        some = [frame(2 * k) for k in range(start, min(start + 3, frames))]
        enhanced(some, f"{uid}.{start}.dcm", number=start, ConcatenationUID=uid, InConcatenationNumber=part + 1,
                 InConcatenationTotalNumber=total, ConcatenationFrameOffsetNumber=start)  # fmt: skip


@pytest.mark.parametrize("total", [3, None])
def test_a_concatenation_is_one_volume(tmp_path, enhanced, total):
    parts_of_one(enhanced, total=total, frames=8)
    (stack,) = stacks(tmp_path)
    assert (stack.status, stack.shape, numbers(stack)) == ("ok", (6, 4, 8), list(range(8)))


@pytest.mark.parametrize(("offsets", "total"), [((0, 6), None), ((3, 6), None), ((0, 3), 3), ((3,), 3)])
def test_a_concatenation_that_lacks_a_file_is_left_out(tmp_path, enhanced, offsets, total):
    parts_of_one(enhanced, offsets, total)
    parts_of_one(enhanced, (0,), 1, uid="1.2.3.78", frames=3)
    left, kept = stacks(tmp_path)
    assert (left.reason, len(left.headers)) == ("CONCATENATION_INCOMPLETE", len(offsets))
    assert kept.shape == (6, 4, 3)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_echoes_over_the_files_of_a_concatenation_open_one_by_one(tmp_path, enhanced, size):
    frames = [frame(2 * k, **echo(ms)) for ms in (5, 10) for k in range(4)]
    for start in range(0, 8, size):
        enhanced(frames[start : start + size], f"{start}.dcm", number=start, ConcatenationUID="1.2.3.77",
                 ConcatenationFrameOffsetNumber=start, InConcatenationTotalNumber=8 // size)  # fmt: skip
    found = stacks(tmp_path)
    assert [numbers(stack) for stack in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for stack in found:
        paths, chosen = zip(*[(header.path, header.frames) for header in stack.headers], strict=True)
        assert np.array_equal(open_volume(paths, frames=chosen).voxels, read_stack(stack).voxels)


def test_two_concatenations_are_two_volumes(tmp_path, enhanced):
    parts_of_one(enhanced)
    parts_of_one(enhanced, uid="1.2.3.78")
    assert told(stacks(tmp_path)) == [((9,), "instance", "ok", "")] * 2


def test_frames_that_are_asked_for(enhanced):
    path = enhanced([frame(2 * k, **echo(ms)) for k in range(4) for ms in (5, 10)])
    with pytest.raises(UserError, match="holds 2 volumes"):
        open_volume(path)
    assert open_volume(path, frames=[(7, 1, 3, 5)]).voxels[0, 0, 0].tolist() == [100, 300, 500, 700]
    for wrong in (8, -1):
        with pytest.raises(UserError, match="has frames 0 to 7"):
            open_volume(path, frames=[(0, 2, 4, wrong)])


def test_echo_times_of_a_converted_file_lie_among_what_had_no_place(enhanced):
    """Legacy converted files keep single slices' own tags; the macros count before them."""
    converted = {"TriggerTime": "7", "ImagePositionPatient": [9, 9, 9]}
    frames = [frame(2 * k, UnassignedPerFrameConvertedAttributesSequence=[{"EchoTime": ms, **converted}],
                    CardiacSynchronizationSequence=[{"NominalCardiacTriggerDelayTime": 8.0}])
              for ms in (5, 10) for k in range(4)]  # fmt: skip
    found = stacks(enhanced(frames, shared={"UnassignedSharedConvertedAttributesSequence": [{"KVP": 90}]}))
    assert told(found) == [((4,), "echo_time", "ok", "")] * 2
    assert {(stack.headers[0].kvp, stack.headers[0].trigger) for stack in found} == {(90, "8")}
