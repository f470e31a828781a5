"""Label Studio's run-length encoding of brush masks: runs and lists of RGBA values in a bit stream.

    32 bits   number of values, 4 per pixel, row by row
    5 bits    bits per value, minus 1
    4 x 4     bits per count in each of four classes, minus 1
    blocks    1 bit: run (1) or list (0); 2 bits: class of the count; the count, minus 1; one value (run) or all (list)

A pixel is inside if its alpha is above half. The encoder writes runs of 0 and 255 in all four channels, with the same
bytes as `mask2rle` of label-studio-converter; the decoder reads everything that rle-pack can write.

Source: thi.ng/umbrella, packages/rle-pack, which Label Studio's editor uses, and `label_studio_sdk.converter.brush`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cores_core.errors import DataError
from cores_core.sample import BoolMask

CHANNELS = 4
_COUNT_BITS = (3, 4, 8, 16)
_VALUE_BITS = 8
_LONGEST_RUN = 1 << _COUNT_BITS[-1]


def encode_brush(mask: BoolMask) -> list[int]:
    """Encode a (H, W) bool mask to a list of byte values."""
    values = mask.ravel()
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) + 1
    lengths = np.diff(ends, prepend=0).astype(np.int64) * CHANNELS
    pieces = (lengths - 1) // _LONGEST_RUN + 1  # runs that are too long are split
    run = np.repeat(np.arange(len(lengths)), pieces)
    is_last = np.append(run[1:] != run[:-1], True)
    counts = np.where(is_last, (lengths - (pieces - 1) * _LONGEST_RUN)[run], _LONGEST_RUN)
    colours = np.where(values[ends - 1][run], (1 << _VALUE_BITS) - 1, 0)
    classes = np.searchsorted([1 << bits for bits in _COUNT_BITS[:-1]], lengths)[run]
    count_bits = np.array(_COUNT_BITS)[classes]
    blocks = ((((1 << 2) | classes) << count_bits | (counts - 1)) << _VALUE_BITS) | colours
    bits = np.concatenate([_spread(*_header(values.size)), _spread(blocks, 3 + count_bits + _VALUE_BITS)])
    packed: list[int] = np.packbits(bits).tolist()
    return packed if len(bits) % 8 else [*packed, 0]  # a padding byte even if none is needed, like the original


def _header(pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers before the blocks, and their lengths in bits."""
    numbers = [pixels * CHANNELS, _VALUE_BITS - 1, *(bits - 1 for bits in _COUNT_BITS)]
    return np.array(numbers), np.array([32, 5, *[4] * len(_COUNT_BITS)])


def decode_brush(code: Any, size_hw: tuple[int, int]) -> BoolMask:
    """Decode a list of byte values to a (H, W) bool mask.

    Raises:
        DataError: it is not a list of bytes, of another image size, or truncated.
    """
    try:
        if not isinstance(code, list):
            raise TypeError(type(code).__name__)
        stream = _Bits(bytes(code))
    except (TypeError, ValueError) as error:
        raise DataError("a brush RLE that is not a list of bytes") from error
    height, width = size_hw
    count = stream.read(32)
    if count != height * width * CHANNELS:
        raise DataError(f"a brush RLE of {count} values for {height} x {width} pixels of {CHANNELS} values")
    value_bits = stream.read(5) + 1
    count_bits = [stream.read(4) + 1 for _ in _COUNT_BITS]
    is_high = np.zeros(count, dtype=bool)
    done = 0
    while done < count:
        is_run = stream.read(1)
        number = stream.read(count_bits[stream.read(2)]) + 1
        if number > count - done:
            raise DataError("a brush RLE with more values than its image")
        is_high[done : done + number] = stream.read_top_bits(1 if is_run else number, value_bits)
        done += number
    return np.array(is_high[CHANNELS - 1 :: CHANNELS]).reshape(size_hw)


class _Bits:
    """Reads numbers of any bit length from bytes, highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._array = np.frombuffer(data, dtype=np.uint8)
        self._place = 0

    def read(self, bits: int) -> int:
        """The next number of `bits` bits."""
        start = self._skip(bits)
        number = int.from_bytes(self._data[start // 8 : (start + bits + 7) // 8])
        return number >> -(start + bits) % 8 & ((1 << bits) - 1)

    def read_top_bits(self, count: int, bits: int) -> NDArray[np.bool_]:
        """The highest bit of each of the next `count` numbers of `bits` bits, i.e. whether each is above half."""
        start = self._skip(count * bits)
        read = np.unpackbits(self._array[start // 8 : (start + count * bits + 7) // 8])[start % 8 :]
        return read[: count * bits : bits].astype(np.bool_)

    def _skip(self, bits: int) -> int:
        start = self._place
        self._place += bits
        if self._place > 8 * len(self._data):
            raise DataError("a truncated brush RLE")
        return start


def _spread(numbers: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bits of numbers, highest bit first, as a flat array; each number has its own length in bits."""
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(numbers)), lengths)
    place = lengths[owner] - 1 - (np.arange(len(owner)) - starts[owner])
    return (numbers[owner] >> place & 1).astype(np.uint8)
