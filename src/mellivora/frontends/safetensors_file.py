"""Reads the tensors of a Hugging Face folder: one safetensors file, or several with an index.

Only the safetensors format is read. Pickled checkpoints (`*.bin`, `*.pt`) run code when they are
opened and are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mellivora.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
MAX_JSON_BYTES = 256 << 20


class SafetensorsFolder:
    """The tensors of a folder by name; each is read when asked for.

    Raises ModelError MV0220 (no weights), MV0221 (a shard is damaged), MV0222 (a type that is not
    F64, F32, F16 or BF16), MV0223 (a name that is absent), MV0224 (the index is wrong).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shard_of: dict[str, str] = {}
        self._shards: dict[str, Any] = {}
        self._headers: dict[str, Any] = {}
        for shard in self._shard_names():
            opened = self._open(shard)
            self._shards[shard] = opened
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                self._shard_of[name] = shard

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def names(self) -> list[str]:
        return list(self._shard_of)

    def tensor(self, name: str) -> np.ndarray:
        """float32 or float16 array; BF16 becomes float32 (exact), F64 is rounded to float32."""
        shard = self._shard_of.get(name)
        if shard is None:
            raise ModelError(
                "MV0223",
                f"the model has no tensor named {name!r}",
                where=str(self.folder),
                given=f"{len(self._shard_of)} tensors",
                allowed="the tensors its architecture needs",
                hint="check that the folder is complete, or download it again",
            )
        view = self._shards[shard].get_slice(name)
        kind, shape = view.get_dtype(), tuple(view.get_shape())
        if kind == "BF16":
            return self._bfloat16(shard, name, shape)
        if kind not in _FLOATS:
            raise ModelError(
                "MV0222",
                f"tensor {name!r} has an unsupported type",
                where=str(self.folder / shard),
                given=kind,
                allowed="F64, F32, F16, BF16",
                hint="convert the checkpoint to BF16 without quantisation",
            )
        array = self._shards[shard].get_tensor(name)
        return array if kind in ("F32", "F16") else array.astype(np.float32)

    def _bfloat16(self, shard: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """NumPy has no bfloat16: the bits are read from the file, whose header was checked."""
        path = self.folder / shard
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if shard not in self._headers:
                self._headers[shard] = json.loads(file.read(header_bytes))
            begin, end = self._headers[shard][name]["data_offsets"]
            file.seek(8 + header_bytes + begin)
            bits = np.frombuffer(file.read(end - begin), "<u2")
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape)

    def _shard_names(self) -> list[str]:
        if (self.folder / SINGLE).is_file():
            return [SINGLE]
        if not (self.folder / INDEX).is_file():
            pickled = sorted(p.name for p in self.folder.glob("*.bin"))
            raise ModelError(
                "MV0220",
                "the folder has no safetensors weights",
                where=str(self.folder),
                given=", ".join(pickled[:4]) or "no weight file",
                allowed=f"{SINGLE} or {INDEX} with its shards",
                hint="save the model with safetensors; pickled weights are refused, they run code",
            )
        weight_map = read_json(self.folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise self._index_error("no weight_map")
        shards = sorted({str(shard) for shard in weight_map.values()})
        for shard in shards:
            if Path(shard).name != shard or not (self.folder / shard).is_file():
                raise self._index_error(shard)
        return shards

    def _index_error(self, given: str) -> ModelError:
        return ModelError(
            "MV0224",
            "the safetensors index is wrong",
            where=str(self.folder / INDEX),
            given=given,
            allowed="a weight_map of tensor names to files in the same folder",
            hint="download the folder again",
        )

    def _open(self, shard: str) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(str(self.folder / shard), framework="numpy")
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                "MV0221",
                "a safetensors file is damaged",
                where=str(self.folder / shard),
                given=str(error),
                allowed="a complete safetensors file",
                hint="download the file again",
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises ModelError MV0225 when it is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            "MV0225",
            f"{path.name} cannot be read",
            where=str(path),
            given=str(error) or type(error).__name__,
            allowed=f"a JSON object of at most {MAX_JSON_BYTES} bytes",
            hint="download the folder again",
        ) from error
    return value
