"""What SAM made of an image is kept, found again bit for bit, and never taken for that of another image or encoder."""

import copy
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import noise_image
from PIL import Image, ImageOps

from cores_core.data.mixture import Mixture, SampleOptions
from cores_core.data.store import Store
from cores_core.errors import DataError
from cores_core.model.checkpoint import Checkpoint
from cores_core.model.cores import CoresModel
from cores_core.model.embeddings import EmbeddingCache, encoder_identity, vision_parts
from cores_core.model.processor import Batch
from cores_core.model.segmenter import Features
from cores_core.prompts import PromptFormat, render_turn
from cores_core.sample import Query, Sample

IDENTITY = "0123456789abcdef0123"
MUCH = 10**9
SHAPE = (16, 8, 8)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path, IDENTITY, MUCH)


@pytest.fixture
def frozen(checkpoint: Checkpoint) -> CoresModel:
    """A model whose image encoder does not learn."""
    model = copy.deepcopy(checkpoint.model)
    model.segmenter.image_encoder.requires_grad_(False)
    return model


@pytest.fixture
def encoded(frozen: CoresModel) -> Iterator[list[int]]:
    """How many images each call of the image encoder was given."""
    sizes: list[int] = []
    hook = frozen.segmenter.image_encoder.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


def test_what_is_kept_is_found_rounded_to_bfloat16(cache: EmbeddingCache) -> None:
    exact = noise(0)
    cache.put("a", exact)
    found = cache.get("a")
    assert found is not None
    assert all(level.dtype == torch.bfloat16 for level in found)
    assert equal(found, rounded(exact))
    assert cache.get("b") is None


def test_each_image_is_one_file_whose_name_tells_nothing_of_its_key(cache: EmbeddingCache, tmp_path: Path) -> None:
    cache.put("../../a picture", noise(0))
    (path,) = files(tmp_path)
    identity, first, name = path.relative_to(tmp_path).parts
    assert (identity, first, len(name)) == (IDENTITY[:16], name[:2], 64 + len(".safetensors"))


def test_other_identities_share_the_folder_and_nothing_else(cache: EmbeddingCache, tmp_path: Path) -> None:
    cache.put("a", noise(0))
    other = EmbeddingCache(tmp_path, IDENTITY[::-1], MUCH)
    assert other.get("a") is None
    other.put("a", noise(1))
    assert equal(read(cache, "a"), rounded(noise(0)))


@pytest.mark.parametrize("damage", ["empty", "truncated", "header", "one bit", "another file"])
def test_a_damaged_file_is_absent_and_written_anew(cache: EmbeddingCache, tmp_path: Path, damage: str) -> None:
    cache.put("a", noise(0))
    (path,) = files(tmp_path)
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    damaged = {
        "empty": b"",
        "truncated": content[:-100],
        "header": b"\xff" * 16 + content[16:],
        "one bit": flipped,
        "another file": b"not an embedding at all",
    }
    path.write_bytes(damaged[damage])
    assert cache.get("a") is None
    cache.put("a", noise(0))
    assert equal(read(cache, "a"), rounded(noise(0)))


def test_it_grows_to_its_limit_and_no_further(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, IDENTITY, 10_000)
    for number in range(10):
        cache.put(str(number), noise(number))
    sizes = [path.stat().st_size for path in files(tmp_path)]
    assert sum(sizes) <= 10_000 < sum(sizes) + max(sizes)
    assert len(sizes) == 4  # 2 KB each, and the header
    assert cache.get("3") is not None
    assert cache.get("4") is None


def test_what_lies_in_the_folder_counts_whoever_wrote_it(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, IDENTITY, MUCH).put("a", noise(0))
    full = EmbeddingCache(tmp_path, IDENTITY[::-1], 4000)
    full.put("b", noise(0))
    assert full.get("b") is None
    assert len(files(tmp_path)) == 1


def test_processes_of_a_run_share_the_room(tmp_path: Path) -> None:
    shares = [EmbeddingCache(tmp_path, IDENTITY, 10_000, processes=2) for _ in range(2)]
    for rank, share in enumerate(shares):
        for number in range(10):
            share.put(f"{rank} {number}", noise(number))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000
    assert len(files(tmp_path)) == 4


def test_processes_that_write_the_same_image_leave_it_whole(cache: EmbeddingCache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        found = cache.get("a")
        seen += found is not None
        assert found is not None or not seen  # once it is there, it never is absent or half there
        assert found is None or equal(found, rounded(noise(0)))
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen
    assert [path.suffix for path in files(tmp_path)] == [".safetensors"]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/embeddings"):
        EmbeddingCache(tmp_path / "file/embeddings", IDENTITY, MUCH)


def test_a_disk_that_refuses_ends_nothing(
    cache: EmbeddingCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in range(256):
        (tmp_path / IDENTITY[:16] / f"{place:02x}").write_text("in the way of a folder")
    cache.put("a", noise(0))
    cache.put("b", noise(0))
    assert cache.get("a") is None
    assert len(caplog.records) == 1


def test_the_identity_tells_weights_sizes_and_precisions_apart(frozen: CoresModel) -> None:
    encoder = frozen.segmenter.image_encoder
    same = encoder_identity(copy.deepcopy(encoder), 64, "fp32")
    assert same == encoder_identity(encoder, 64, "fp32")
    others = {encoder_identity(encoder, 96, "fp32"), encoder_identity(encoder, 64, "bf16")}
    others.add(encoder_identity(copy.deepcopy(encoder).bfloat16(), 64, "fp32"))
    with torch.no_grad():
        encoder.neck[1].bias[0] += 1e-6
    others.add(encoder_identity(encoder, 64, "fp32"))
    assert len(others | {same}) == 5


def test_known_images_are_read_and_the_others_encoded(
    frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache, encoded: list[int]
) -> None:
    (exact,) = frozen.encode(pictures(checkpoint, "a", "b", "c"))
    frozen.embeddings = cache
    encoded.clear()
    (first,) = frozen.encode(pictures(checkpoint, "a", "b"))
    assert encoded == [1, 1]
    (again,) = frozen.encode(pictures(checkpoint, "c", "b", "a"))
    assert encoded == [1, 1, 1]
    assert torch.equal(again[[2, 1]], first)
    assert first.dtype == torch.float32
    assert torch.equal(first, first.bfloat16().float())  # what is new is rounded, too
    torch.testing.assert_close(again.flip(0), exact, rtol=2**-8, atol=1e-6)


def test_an_image_that_is_twice_in_a_batch_is_encoded_once(
    frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache, encoded: list[int]
) -> None:
    frozen.embeddings = cache
    (embeddings,) = frozen.encode(pictures(checkpoint, "a", "a"))
    assert torch.equal(embeddings[0], embeddings[1])
    assert encoded == [1]


def test_without_room_it_encodes_each_time_to_the_same_bits(
    frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache, tmp_path: Path
) -> None:
    frozen.embeddings = EmbeddingCache(tmp_path / "full", IDENTITY, 0)
    without = [frozen.encode(pictures(checkpoint, *names))[0] for names in (("a", "b", "c"), ("b",))]
    frozen.embeddings = cache
    kept = [frozen.encode(pictures(checkpoint, *names))[0] for names in (("a",), ("b",), ("c",))]
    assert torch.equal(without[0], torch.cat(kept))
    assert torch.equal(without[1], kept[1])


def test_a_warm_forward_is_the_cold_one(frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache) -> None:
    frozen.embeddings = cache
    outputs, gradients = [], []
    for _ in range(2):
        frozen.zero_grad()
        output = frozen(pictures(checkpoint, "a", "b"))
        output.refined.square().sum().backward()
        outputs.append(output.refined)
        gradients.append(frozen.projection[0].weight.grad.clone())
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)


def test_llavas_vision_tower_is_kept_like_sams_encoder(
    frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache, tmp_path: Path
) -> None:
    tower, projector = vision_parts(frozen.mllm)
    tower.requires_grad_(False)
    projector.requires_grad_(False)
    readings: list[int] = []
    tower.register_forward_hook(lambda *_: readings.append(1))
    exact = frozen.reason(pictures(checkpoint, "a", "b"))
    frozen.vision_cache = cache
    readings.clear()
    cold, warm = (frozen.reason(pictures(checkpoint, "a", "b")) for _ in range(2))
    swapped = frozen.reason(pictures(checkpoint, "b", "a"))
    assert len(readings) == len(files(tmp_path)) == 2  # each image alone, once
    assert torch.equal(cold.logits, warm.logits)
    assert all(map(torch.equal, cold.prompts, warm.prompts))
    torch.testing.assert_close(swapped.prompts[0].flip(0), warm.prompts[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(warm.prompts[0], exact.prompts[0], atol=1e-2, rtol=0)  # rounded to bfloat16
    projector.requires_grad_(True)
    assert torch.equal(frozen.reason(pictures(checkpoint, "a", "b")).logits, exact.logits)


@pytest.mark.parametrize("names", [("", ""), ("a", "")])
def test_images_without_a_key_are_encoded_exactly_and_not_kept(
    frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache, tmp_path: Path, names: tuple[str, ...]
) -> None:
    batch = pictures(checkpoint, *names)
    with torch.no_grad():  # on a CPU, images are encoded one at a time
        exact = (torch.cat([frozen.segmenter.encode(pixels)[0] for pixels in batch.sam_pixels.split(1)]),)
    frozen.embeddings = cache
    assert equal(frozen.encode(batch), exact)
    assert equal(frozen.encode(replace(batch, keys=())), exact)
    assert files(tmp_path) == []


def test_an_encoder_that_learns_is_never_read_from_disk(
    frozen: CoresModel, checkpoint: Checkpoint, cache: EmbeddingCache, tmp_path: Path
) -> None:
    frozen.embeddings = cache
    frozen.segmenter.image_encoder.neck[1].bias.requires_grad_(True)
    assert frozen.encode(pictures(checkpoint, "a"))[0].requires_grad
    assert files(tmp_path) == []


def test_the_cache_is_no_part_of_the_weights(frozen: CoresModel, cache: EmbeddingCache) -> None:
    before = set(frozen.state_dict())
    frozen.embeddings = cache
    assert set(frozen.state_dict()) == before


def test_a_key_is_that_of_the_same_pixels_only(partworld_root: Path, tmp_path: Path) -> None:
    keys: dict[str, set[bytes]] = {}
    for root in (partworld_root, Path(shutil.copytree(partworld_root, tmp_path / "elsewhere"))):
        stores = [Store(root, "partworld", "train")]
        for side in (None, 96):
            options = SampleOptions(queries=1, max_image_size=side, random_flip=True, with_key=True)
            mixture = Mixture(stores, PromptFormat(), options, seed=0)
            for sample in map(mixture.__getitem__, range(30)):
                keys.setdefault(sample.key, set()).add(sample.image.tobytes())
    assert all(len(pixels) == 1 for pixels in keys.values())
    assert len(keys) == len(set().union(*keys.values())) == 24  # 6 images, 2 sizes, mirrored or not


def test_the_same_path_with_another_image_is_another_key(partworld_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(partworld_root, tmp_path / "copy"))
    store = Store(root, "partworld", "train")
    mixture = Mixture([store], PromptFormat(), SampleOptions(queries=1, with_key=True), seed=0)
    before = {mixture[position].key for position in range(6)}
    for record in store:
        with Image.open(store.image_path(record)) as image:
            ImageOps.invert(image.convert("RGB")).save(store.image_path(record))
    after = {mixture[position].key for position in range(6)}
    assert len(before | after) == 12


def test_an_image_file_is_not_hashed_where_no_key_is_asked_for(partworld_root: Path) -> None:
    options = SampleOptions(queries=1, random_flip=True)
    mixture = Mixture([Store(partworld_root, "partworld", "train")], PromptFormat(), options, seed=0)
    assert {mixture[position].key for position in range(30)} == {""}


def write_often(folder: Path) -> None:
    cache = EmbeddingCache(folder, IDENTITY, MUCH)
    for _ in range(200):
        cache.put("a", noise(0))


def noise(seed: int) -> Features:
    """The feature maps of an image, a fine one and a coarse one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 8, 8, generator=generator), torch.randn(SHAPE, generator=generator)


def rounded(features: Features) -> Features:
    return tuple(level.bfloat16() for level in features)


def equal(first: Features, second: Features) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def read(cache: EmbeddingCache, key: str) -> Features:
    found = cache.get(key)
    assert found is not None
    return found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def pictures(checkpoint: Checkpoint, *names: str) -> Batch:
    """A batch of images with these keys; each name is an image of its own."""
    turn = render_turn(Query("Which part steers the fish?"), checkpoint.processor.prompt)
    samples = [Sample(noise_image(30, 40, seed=sum(name.encode())), (turn,), key=name) for name in names]
    return checkpoint.processor.collate(samples)
